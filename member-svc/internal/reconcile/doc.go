// Package reconcile finds what retries cannot see. It compares the members with what the Storage service has,
// after both have come to rest, and sends a command again where they disagree.
//
//	ready      and no storage, or a removed or rejected one  stranded: send the command again
//	withdrawn  and a storage that is not being removed       orphan: send the removal again
//	unknown    and a storage that is not being removed       orphan: quarantine, report, never touch
//	another saga's storage                                   double: report
//
// Package service/reconcile explains how, and why that is safe while signups go on. A command that is sent again
// carries the current generation, is guarded by the version of the saga that was read, and leaves the saga as it
// is; if it was not needed, it changes nothing. A storage without a known owner is left alone, because the Member
// database may have been restored to a time before that owner.
package reconcile
