// Package browser tests the pages that people see, in a real Chromium: the sign-up page and the operator console,
// against a whole system of real processes.
//
// Every page that a test opens is watched. An error on its console, an exception, a request that fails or leaves this
// machine, and whatever the Content Security Policy has refused fail the test, unless it said that it expects them.
//
// Run it with make verify, or by itself as docs/testing.md says. It wants Chromium or Chrome, and npm for axe-core.
package browser
