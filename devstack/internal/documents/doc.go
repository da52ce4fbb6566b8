// Package documents holds the repository's pages to its code: lanes, variables, problem codes, links, names of tests,
// calls of the runbook, pinned actions. The pages that need a running system are tested in devstack/e2e.
package documents
