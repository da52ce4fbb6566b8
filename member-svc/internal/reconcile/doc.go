// Package reconcile finds what retries cannot see: it compares the members with what
// the Storage service has, after both have come to rest, and sends a command again
// where they disagree.
//
//	ready      and no storage, or a removed or refused one   stranded: command it again
//	withdrawn  and a storage that is wanted                  orphan: remove it again
//	unknown    and a storage that is not removed             orphan: quarantine, tell, never touch
//	another saga's storage                                   double: tell
//
// How, and why that is safe while the world goes on, says package drift. A command that
// is sent again carries the current generation, is guarded by the version of the saga
// that was read, and leaves the saga as it is; if it was not needed it changes nothing.
// A storage without a known owner is left alone, because the Member database may have
// been restored to a time before that owner.
package reconcile
