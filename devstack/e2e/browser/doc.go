// Package browser tests the web pages in a real Chromium: the sign-up page and the operator console, against a
// whole system of real processes.
//
// Every page that a test opens is watched. These fail the test, unless it expects them: an error on the page's
// console, an exception, a request that fails or goes to another machine, and anything that the Content Security
// Policy blocks.
//
// Run it with make verify, or on its own as docs/testing.md says. It needs Chromium or Chrome, and npm for axe-core.
package browser
