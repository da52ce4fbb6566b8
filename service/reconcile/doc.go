// Package reconcile compares two lists that should agree and repairs the differences. It is the part of
// reconciliation that all services share: the engine, its configuration, its schedule and its subcommand.
//
// The lists are read side by side, page by page, while they keep changing, so a difference is at first only a
// suspicion. Before anything is changed, both sides are read again, and each change must be guarded by the
// values that were read. A run rechecks a bounded number of suspicions; the next run continues after them, so
// that differences which cannot be repaired do not keep the others from being rechecked. All differences are
// counted.
//
// One replica works at a time. It holds a lease in Postgres, which it renews with every page and which needs no
// session. The lease only saves work: the guards provide safety. After a run has died, another replica starts
// again from the beginning of the lists.
//
// The database must have two tables. Table reconciliation has one row: holder uuid, lease_until, started_at and
// finished_at timestamptz (the last may be null), resume_after text, and the integers stranded, orphans and
// doubles. Of table quarantine, this package uses only the column last_seen timestamptz: a run over everything
// deletes the rows that it has not seen again.
package reconcile
