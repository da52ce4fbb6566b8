// Package provision drives members' storages to their desired state.
//
// It is level-triggered: a command only changes the desired state ([Decide]). A worker compares it with the
// actual state, and calls the provider until both agree. Messages may therefore be lost, duplicated or
// reordered without harm.
//
//	command ──► Handler ──► row: generation, desired ──► Worker ──► Provider
//	                │ settled already                       │ result
//	                └──────────► reply event ◄──────────────┘
//
// Generation and version are the only protection against duplicates. The Member service raises the generation
// when it orders something new; the version counts every change of the row. A worker's result is written only
// if the version and the lease are still those with which it started. Absent is final: nothing makes a removed
// member's storage come back.
//
// Between all workers and the provider there is a [Breaker]. While the provider is unavailable, one call at a time
// probes it. When it is available, calls never exceed a rate.
package provision
