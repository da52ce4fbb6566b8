// Package reconcile finds what retries cannot see: it compares the members with what
// the Storage service has, after both have come to rest, and sends a command again
// where they disagree.
//
//	ready      and no storage, or a removed or refused one   stranded: command it again
//	withdrawn  and a storage that is wanted                  orphan: remove it again
//	unknown    and a storage that is not removed             orphan: quarantine, tell, never touch
//	another saga's storage                                   double: tell
//
// The two lists are read side by side, page by page, while the world goes on, so a
// difference is a suspicion only: both sides are read again before anything is done,
// and what is done is guarded by the version of the saga that was read. A command that
// is sent again carries the current generation and leaves the saga as it is; if it was
// not needed it changes nothing. A storage without a known owner is left alone,
// because the Member database may have been restored to a time before that owner.
//
// One replica at a time works, by a lease in Postgres; a run that dies is begun anew
// by another, from the start. The lease saves work, safety comes from the versions.
package reconcile
