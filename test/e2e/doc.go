// Package e2e tests the suite as its users meet it: the five binaries, each under its own PostgreSQL role, real git
// repositories, and a recording HTTP server in GitHub's place. It has only tests, and imports no service.
//
// LOCKSTEP_BIN names a folder of binaries to test; without it they are built from this tree.
package e2e
