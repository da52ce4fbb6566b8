// Package e2e tests the whole system from outside: real processes, real faults, and checks that share no code with the
// services.
//
// It also holds what keeps the repository's other files true: the container images, docker-compose.yml and the tables
// of the README. It is a module of its own, outside the workspace, so that nobody who runs the demo or the unit tests
// downloads the parsers of Docker's file formats.
//
// Run it with make verify, and the attack for longer with make chaos: see docs/testing.md.
package e2e
