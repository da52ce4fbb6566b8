package drift

import (
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
	lease    = time.Minute // renewed with each page and each look; far longer than one takes
	patience = 5 * time.Second
	shown    = 20 // findings that a report names
)

// ErrBusy says that another run is under way, or that the last one is not long enough ago.
var ErrBusy = errors.New("another reconciliation is under way")

// ErrFound says that a run found something.
var ErrFound = errors.New("the books do not balance")

// Kind says what is wrong.
type Kind string

// The kinds of findings.
const (
	Stranded Kind = "stranded" // should be there, and is not
	Orphan   Kind = "orphan"   // should not be there, or nobody knows why it is
	Double   Kind = "double"   // is there for somebody else
)

// Lists is what is compared. The functions are not called concurrently.
type Lists[L, R Keyed] struct {
	Left  Pages[L]
	Right func() Pages[R] // a new list for each run
	// Verdict says what is wrong with what both lists have under a key, one of
	// which may be nil; an empty kind means nothing.
	Verdict func(l *L, r *R) (kind Kind, detail string)
	// Again reads both sides of a suspicion again.
	Again func(ctx context.Context, key string) (*L, *R, error)
	// Mend acts on a suspicion that held, guarded by what was read, and reports
	// whether it changed anything that is compared.
	Mend func(ctx context.Context, l *L, r *R, kind Kind, detail string) (bool, error)
}

// Reconciler compares lists. Safe for concurrent use, in many replicas.
type Reconciler[L, R Keyed] struct {
	Lists[L, R]
	Pool     *pgxpool.Pool
	MaxLooks int // most suspicions that one run looks into
	Log      *slog.Logger
}

// Finding is one disagreement.
type Finding struct {
	Kind   Kind
	Key    string
	Detail string
}

// Report is what a run found and did.
type Report struct {
	Stranded, Orphans, Doubles int
	Mended                     int
	Findings                   []Finding // the first ones
}

// Write prints the report for operators.
func (r Report) Write(w io.Writer) error {
	_, err := fmt.Fprintf(w,
		"stranded           %9d\norphans            %9d\ndoubles            %9d\nmended             %9d\n", r.Stranded,
		r.Orphans, r.Doubles, r.Mended)
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

// Err returns [ErrFound] if anything was wrong, also if it was mended.
func (r Report) Err() error {
	if r.found() > 0 {
		return ErrFound
	}
	return nil
}

// DryRun compares and changes nothing.
func (r *Reconciler[L, R]) DryRun(ctx context.Context) (Report, error) {
	return (&run[L, R]{Reconciler: r, dry: true}).compare(ctx)
}

// Run compares, mends, and notes what it found. It returns [ErrBusy] if another run is
// under way, failed or died less than a minute ago, or ended less than every ago; 0
// waits for one that is under way only.
func (r *Reconciler[L, R]) Run(ctx context.Context, every time.Duration) (Report, error) {
	current := &run[L, R]{Reconciler: r}
	err := r.Pool.QueryRow(ctx, `-- name: beginReconciliation
UPDATE reconciliation SET holder = gen_random_uuid(), lease_until = now() + make_interval(secs => $1),
    started_at = now()
WHERE (lease_until <= now() OR holder IS NULL AND $2 = 0.0) AND coalesce(finished_at,
    '-infinity') <= now() - make_interval(secs => $2)
RETURNING holder::text, coalesce(resume_after,
    '')`, lease.Seconds(), every.Seconds()).Scan(&current.holder, &current.from)
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
	holder string
	dry    bool
	from   string // the last run looked into what comes up to here
	looked int
	last   string // key of what was looked into last
	report Report
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
		if key <= r.from || r.looked == r.MaxLooks { // counted as listed; another run looks into it
			r.count(Finding{kind, key, detail})
			return nil
		}
		r.looked, r.last = r.looked+1, key
		return r.look(ctx, key)
	})
	return r.report, err
}

// renewing renews the lease before each page.
func renewing[T Keyed](renew func(context.Context) error, load Pages[T]) Pages[T] {
	return func(ctx context.Context, after string) ([]T, error) {
		if err := renew(ctx); err != nil {
			return nil, err
		}
		return load(ctx, after)
	}
}

// look reads both sides of a suspicion again and acts if it holds.
func (r *run[L, R]) look(ctx context.Context, key string) error {
	if err := r.renew(ctx); err != nil {
		return err
	}
	a, b, err := r.Again(ctx, key)
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
	done, err := r.Mend(ctx, a, b, kind, detail)
	if done {
		r.report.Mended++
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

// renew keeps the lease, or ends the run if it is lost.
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

// finish notes the result and where the next run goes on. A run that looked into
// everything empties the quarantine of what it has not seen again.
func (r *run[L, R]) finish(ctx context.Context) error {
	var resume *string
	if r.looked == r.MaxLooks {
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

// release lets others begin: after a failure when the lease has run out, since what is
// away should not be asked all the time. The same holds without it, for a run that died.
func (r *run[L, R]) release(ctx context.Context, done bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := r.Pool.Exec(ctx, `-- name: releaseReconciliation
UPDATE reconciliation SET holder = NULL, lease_until = CASE WHEN $2 THEN now() ELSE lease_until
    END WHERE holder = $1::text::uuid`, r.holder, done)
	if err != nil {
		return fmt.Errorf("release reconciliation: %w", err)
	}
	return nil
}
