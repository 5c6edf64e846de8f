// Package tutorial follows docs/add-a-stage.md to the letter: it writes the tutorial's files into a copy of this tree, runs its
// commands there, and sends commits through the six services that come of it. It has only tests.
//
// A tree in which the stage was really added is no tree to add it to: who keeps the scanner removes the tutorial and this
// package.
package tutorial
