package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	lease          = time.Minute // renewed before each page and each recheck; far longer than either takes
	releaseTimeout = 5 * time.Second
	shown          = 20 // most findings that a report lists
)

// ErrBusy means that another run is in progress, or that the last one was too recent.
var ErrBusy = errors.New("another reconciliation is running")

// ErrFound means that a run found something.
var ErrFound = errors.New("the reconciliation found differences")

// Kind is what is wrong with an entry.
type Kind string

// The kinds of findings.
const (
	Stranded Kind = "stranded" // should exist, but does not
	Orphan   Kind = "orphan"   // should not exist, or has no known owner
	Double   Kind = "double"   // exists, but belongs to somebody else
)

// Lists defines what is compared. One run never calls the functions concurrently.
type Lists[L, R Keyed] struct {
	Left  Pages[L]        // what should be
	Right func() Pages[R] // a new list for each run
	// Verdict compares the entries that both lists have for a key, one of which may be nil, and returns what is
	// wrong. An empty kind means that nothing is.
	Verdict func(l *L, r *R) (kind Kind, detail string)
	// Reread reads both sides of a suspicion again.
	Reread func(ctx context.Context, key string) (*L, *R, error)
	// Repair repairs a confirmed suspicion, guarded by what was read, and reports whether it changed anything
	// that is compared.
	Repair func(ctx context.Context, l *L, r *R, kind Kind, detail string) (bool, error)
}

// Reconciler compares lists. Safe for concurrent use, in many replicas.
type Reconciler[L, R Keyed] struct {
	Lists[L, R]
	Config
	Pool *pgxpool.Pool // of the database with the two tables
	Log  *slog.Logger  // required
}

// Finding is one difference.
type Finding struct {
	Kind   Kind   // what is wrong
	Key    string // of the entry
	Detail string // for operators
}

// Report is what a run found and did.
type Report struct {
	Stranded, Orphans, Doubles int       // findings of each kind
	Repaired                   int       // entries that were changed
	Findings                   []Finding // the first few
}

// Write prints the report for operators.
func (r Report) Write(w io.Writer) error {
	_, err := fmt.Fprintf(w,
		"stranded           %9d\norphans            %9d\ndoubles            %9d\nrepaired           %9d\n", r.Stranded,
		r.Orphans, r.Doubles, r.Repaired)
	for _, f := range r.Findings {
		if err == nil {
			_, err = fmt.Fprintf(w, "%s %s: %s\n", f.Kind, f.Key, f.Detail)
		}
	}
	if rest := r.found() - len(r.Findings); rest > 0 && err == nil {
		_, err = fmt.Fprintf(w, "and %d more\n", rest)
	}
	return err
}

func (r Report) found() int { return r.Stranded + r.Orphans + r.Doubles }

// Err returns [ErrFound] if the run found anything, even if it was repaired.
func (r Report) Err() error {
	if r.found() > 0 {
		return ErrFound
	}
	return nil
}

// Check compares once, however recent the last run is. A dry check changes nothing. Otherwise Check does what
// [Reconciler.Run] does.
func (r *Reconciler[L, R]) Check(ctx context.Context, dry bool) (Report, error) {
	if dry {
		return (&run[L, R]{Reconciler: r, dry: true}).compare(ctx)
	}
	return r.Run(ctx, 0)
}

// Print ends the reconcile subcommand: it prints what a check returned. It fails if anything was wrong, even if
// that was repaired.
func Print(w io.Writer, checked interface {
	Write(w io.Writer) error
	Err() error
}, err error) error {
	if err == nil {
		err = checked.Write(w)
	}
	if err != nil {
		return err
	}
	return checked.Err()
}

// Run compares, repairs, and records what it found. It returns [ErrBusy] if another run is in progress, if the
// last one failed or died less than a minute ago, or if the last one finished less than every ago. With every =
// 0, a run that failed or finished does not count.
func (r *Reconciler[L, R]) Run(ctx context.Context, every time.Duration) (Report, error) {
	current := &run[L, R]{Reconciler: r}
	err := r.Pool.QueryRow(ctx, `-- name: beginReconciliation
UPDATE reconciliation SET holder = gen_random_uuid(), lease_until = now() + make_interval(secs => $1),
    started_at = now()
WHERE (lease_until <= now() OR holder IS NULL AND $2 = 0.0)
    AND coalesce(finished_at, '-infinity') <= now() - make_interval(secs => $2)
RETURNING holder::text, coalesce(resume_after, '')`,
		lease.Seconds(), every.Seconds()).Scan(&current.holder, &current.from)
	if errors.Is(err, pgx.ErrNoRows) {
		return Report{}, ErrBusy
	}
	if err != nil {
		return Report{}, fmt.Errorf("begin reconciliation: %w", err)
	}
	report, err := current.compare(ctx)
	if err == nil {
		err = current.finish(ctx)
	}
	return report, errors.Join(err, current.release(context.WithoutCancel(ctx), err == nil))
}

// run is one comparison.
type run[L, R Keyed] struct {
	*Reconciler[L, R]
	holder    string
	dry       bool
	from      string // the previous run rechecked up to this key
	rechecked int
	last      string // key of the last recheck
	report    Report
}

func (r *run[L, R]) compare(ctx context.Context) (Report, error) {
	err := Merge(ctx, renewing(r.renew, r.Left), renewing(r.renew, r.Right()), func(a *L, b *R) error {
		kind, detail := r.Verdict(a, b)
		if kind == "" {
			return nil
		}
		var key string
		if a != nil {
			key = (*a).Key()
		} else {
			key = (*b).Key()
		}
		if key <= r.from || r.full() { // counted without a recheck; another run does that
			r.count(Finding{kind, key, detail})
			return nil
		}
		r.rechecked, r.last = r.rechecked+1, key
		return r.recheck(ctx, key)
	})
	return r.report, err
}

// full reports whether the run has rechecked as much as one run may.
func (r *run[L, R]) full() bool { return r.rechecked == cmp.Or(r.MaxRepairs, maxRepairs) }

// renewing renews the lease before each page.
func renewing[T Keyed](renew func(context.Context) error, load Pages[T]) Pages[T] {
	return func(ctx context.Context, after string) ([]T, error) {
		if err := renew(ctx); err != nil {
			return nil, err
		}
		return load(ctx, after)
	}
}

// recheck reads both sides of a suspicion again, and repairs it if it is confirmed.
func (r *run[L, R]) recheck(ctx context.Context, key string) error {
	if err := r.renew(ctx); err != nil {
		return err
	}
	a, b, err := r.Reread(ctx, key)
	if err != nil {
		return err
	}
	kind, detail := r.Verdict(a, b)
	if kind == "" {
		return nil
	}
	r.count(Finding{kind, key, detail})
	if r.dry {
		return nil
	}
	done, err := r.Repair(ctx, a, b, kind, detail)
	if done {
		r.report.Repaired++
	}
	return err
}

func (r *run[L, R]) count(f Finding) {
	switch f.Kind {
	case Stranded:
		r.report.Stranded++
	case Orphan:
		r.report.Orphans++
	case Double:
		r.report.Doubles++
	}
	if len(r.report.Findings) < shown {
		r.report.Findings = append(r.report.Findings, f)
	}
}

// renew extends the lease. If the lease is lost, it returns an error, which ends the run.
func (r *run[L, R]) renew(ctx context.Context) error {
	if r.dry {
		return nil
	}
	tag, err := r.Pool.Exec(ctx, `-- name: renewReconciliation
UPDATE reconciliation SET lease_until = now() + make_interval(secs => $2) WHERE holder = $1::text::uuid
    AND lease_until > now()`, r.holder, lease.Seconds())
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("the lease ran out")
	}
	if err != nil {
		return fmt.Errorf("renew reconciliation: %w", err)
	}
	return nil
}

// finish records the result and where the next run continues. A run that rechecked everything deletes the
// quarantine rows that it has not seen again.
func (r *run[L, R]) finish(ctx context.Context) error {
	var resume *string
	if r.full() {
		resume = &r.last
	}
	everything := r.from == "" && resume == nil
	_, err := r.Pool.Exec(ctx, `-- name: finishReconciliation
WITH done AS (
    UPDATE reconciliation SET finished_at = now(), stranded = $2, orphans = $3, doubles = $4, resume_after = $5
    WHERE holder = $1::text::uuid RETURNING started_at
)
DELETE FROM quarantine USING done WHERE last_seen < started_at AND $6`,
		r.holder, r.report.Stranded, r.report.Orphans, r.report.Doubles, resume, everything)
	if err != nil {
		return fmt.Errorf("finish reconciliation: %w", err)
	}
	return nil
}

// release lets other runs begin: at once after a success, and only when the lease has run out after a failure,
// so that a service which is down is not called all the time. A run that died without calling release leaves
// its lease to run out, too.
func (r *run[L, R]) release(ctx context.Context, done bool) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	_, err := r.Pool.Exec(ctx, `-- name: releaseReconciliation
UPDATE reconciliation SET holder = NULL, lease_until = CASE WHEN $2 THEN now() ELSE lease_until END
WHERE holder = $1::text::uuid`, r.holder, done)
	if err != nil {
		return fmt.Errorf("release reconciliation: %w", err)
	}
	return nil
}
