// Package drift compares two lists that should agree and mends what does not: the
// part of reconciliation that both services have in common.
//
// The lists are read side by side, page by page, while the world goes on, so a
// difference is a suspicion only. Both sides are read again before anything is done,
// and what is done has to be guarded by what was read. A run looks into a bounded
// number of suspicions; the next one goes on after them, so that some which cannot be
// mended do not keep others from it. All are counted.
//
// One replica at a time works, by a lease in Postgres that is renewed with every page
// and needs no session. It saves work; safety comes from the guards. A run that dies
// is begun anew by whoever comes next, from the start of the lists.
//
// The database must have two tables. reconciliation has one row: holder uuid,
// lease_until, started_at and finished_at timestamptz (the last may be null), resume_after
// text, and the integers stranded, orphans and doubles. Of quarantine only the column
// last_seen timestamptz is used here: rows that a run over everything has not seen again
// are deleted.
package drift
