// Package provision drives members' storages to their desired state.
//
// It is level-triggered: a command only changes what is desired ([Decide]); a
// worker compares, calls the provider and repeats until both agree. Messages may
// therefore be lost, doubled or reordered without harm.
//
//	command ──► Handler ──► row: generation, desired ──► Worker ──► Provider
//	                │ settled already                       │ result
//	                └──────────► reply event ◄──────────────┘
//
// Generation and version are the only protection against duplicates. The
// generation is raised by the Member service when it wants something else than
// before; the version counts every change of the row. What a worker found out is
// written only if the version and the lease are still those with which it
// started. Absent is final: nothing makes a removed member's storage come back.
//
// Between all workers and the provider stands a [Gate]: while the provider is
// away one call at a time asks for it, and its calls never exceed a rate.
package provision
