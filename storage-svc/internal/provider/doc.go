// Package provider holds the storage providers: a local directory ([FS]), a
// bucket of an object store ([S3]), and a wrapper that makes any provider
// misbehave on purpose ([Faulty]).
//
// A member's storage exists if, and only if, one marker says so. Creating is
// the conditional creation of the marker, removing is overwriting it with a
// tombstone that stays. So a worker that was suspended in the middle of a create,
// and wakes up after the storage was removed by somebody else, finds the
// tombstone: no storage comes back from the dead, even if that worker is killed
// before it could check anything.
package provider
