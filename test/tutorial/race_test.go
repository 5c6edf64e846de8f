//go:build race

package tutorial_test

// race makes a test of the copy use what this test run has compiled already.
var race = []string{"-race"}
