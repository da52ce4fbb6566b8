// Package e2e tests the whole system from outside: real processes, real faults, and checks that share no code
// with the services.
//
// It also tests the repository's other files: the container images, docker-compose.yml, and the pages that a running
// system has to confirm. It is a module of its own, outside the workspace, so that running the demo or the unit tests
// does not download the parsers of Docker's file formats.
//
// Run it with make verify, and the attack for longer with make chaos: see docs/testing.md.
package e2e
