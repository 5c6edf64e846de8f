//go:build !race

package tutorial_test

var race []string
