package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/service"
)

const (
	suspended = 5 * time.Second // a transaction that says nothing for so long is ended
	lease     = time.Minute     // renewed with each page; far longer than one takes
	shown     = 20              // findings that a report names
)

// ErrBusy says that another replica is at it.
var ErrBusy = errors.New("another reconciliation is under way")

// ErrUnbalanced says that a run found something.
var ErrUnbalanced = errors.New("the books do not balance")

// Config configures [New].
type Config struct {
	MinAge     time.Duration // sagas that settled since are left alone, and commands have that long to work
	MaxRepairs int           // most suspicions that one run looks into, and commands it sends
	Wake       func()        // after a commit with events; may be nil
	Log        *slog.Logger
}

// Reconciler compares members and storages. Safe for concurrent use.
type Reconciler struct {
	cfg      Config
	pool     *pgxpool.Pool
	tx       service.Transactor
	storages *Storages
}

// New returns a reconciler.
func New(cfg Config, pool *pgxpool.Pool, storages *Storages) *Reconciler {
	return &Reconciler{cfg, pool, service.Transactor{Pool: pool, Idle: suspended}, storages}
}

// Kind says what is wrong.
type Kind string

// The kinds of findings.
const (
	Stranded Kind = "stranded" // ready, but without a storage
	Orphan   Kind = "orphan"   // a storage whose member left, or was never known
	Double   Kind = "double"   // a storage that belongs to another saga of its member
)

// Finding is one disagreement.
type Finding struct {
	Kind     Kind
	MemberID string
	Detail   string
}

// Report is what a run found and did.
type Report struct {
	Ledger
	Stranded, Orphans, Doubles int
	CommandedAgain             int
	Findings                   []Finding // the first ones
}

// Write prints the report for operators.
func (r Report) Write(w io.Writer) error {
	var err error
	line := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format+"\n", args...)
		}
	}
	line("accepted           %9d", r.Accepted)
	line("  ready            %9d", r.Ready)
	line("  in progress      %9d", r.InProgress)
	line("  needs attention  %9d", r.NeedsAttention)
	line("  withdrawn        %9d", r.Withdrawn)
	line("stranded           %9d", r.Stranded)
	line("orphans            %9d", r.Orphans)
	line("doubles            %9d", r.Doubles)
	line("commanded again    %9d", r.CommandedAgain)
	for _, f := range r.Findings {
		line("%s member %s: %s", f.Kind, f.MemberID, f.Detail)
	}
	if rest := r.Stranded + r.Orphans + r.Doubles - len(r.Findings); rest > 0 {
		line("and %d more", rest)
	}
	return err
}

// Err returns an [ErrUnbalanced] if anything is wrong, also if it was mended.
func (r Report) Err() error {
	if r.Balances() && r.Stranded+r.Orphans+r.Doubles == 0 {
		return nil
	}
	return ErrUnbalanced
}

// DryRun compares and changes nothing.
func (r *Reconciler) DryRun(ctx context.Context) (Report, error) {
	return (&run{Reconciler: r, dry: true}).compare(ctx)
}

// Run compares, acts, and notes what it found. It returns [ErrBusy] if another run is
// under way, or began less than every ago; 0 begins at any time.
func (r *Reconciler) Run(ctx context.Context, every time.Duration) (Report, error) {
	holder, err := uuid.NewV4()
	if err != nil {
		return Report{}, fmt.Errorf("lease: %w", err)
	}
	current := &run{Reconciler: r, holder: holder}
	err = r.pool.QueryRow(ctx, `-- name: beginReconciliation
UPDATE reconciliation SET holder = $1, lease_until = now() + make_interval(secs => $2), started_at = now()
WHERE lease_until <= now() AND started_at <= now() - make_interval(secs => $3)
RETURNING coalesce(resume_after::text, '')`, holder, lease.Seconds(), every.Seconds()).Scan(&current.from)
	if errors.Is(err, pgx.ErrNoRows) {
		return Report{}, ErrBusy
	}
	if err != nil {
		return Report{}, fmt.Errorf("begin reconciliation: %w", err)
	}
	report, err := current.compare(ctx)
	if err == nil {
		err = current.finish(ctx, report)
	}
	return report, errors.Join(err, current.release(context.WithoutCancel(ctx)))
}

// run is one comparison.
type run struct {
	*Reconciler
	holder uuid.UUID
	dry    bool
	from   string // a member's id: the last run came as far as that
	looked int    // suspicions looked into
	last   string // member's id of the last of them
	report Report
}

func (r *run) compare(ctx context.Context) (Report, error) {
	var err error
	if r.report.Ledger, err = r.ledger(ctx); err != nil {
		return Report{}, err
	}
	members := func(ctx context.Context, after string) ([]member, error) {
		if err := r.renew(ctx); err != nil {
			return nil, err
		}
		return r.members(ctx, after)
	}
	list := r.storages.list()
	storages := func(ctx context.Context, after string) ([]Storage, error) {
		if err := r.renew(ctx); err != nil {
			return nil, err
		}
		return list(ctx, after)
	}
	err = service.Merge(ctx, members, storages, func(m *member, s *Storage) error {
		kind, wrong := m.verdict(s)
		if !wrong {
			return nil
		}
		id := idOf(m, s)
		if id <= r.from || r.looked == r.cfg.MaxRepairs { // counted as listed; another run looks into it
			r.count(kind, m, s)
			return nil
		}
		r.looked, r.last = r.looked+1, id
		return r.look(ctx, id)
	})
	return r.report, err
}

func idOf(m *member, s *Storage) string {
	if m != nil {
		return m.MemberID
	}
	return s.MemberID
}

// look reads both sides of a suspicion again and acts if it holds: the storage
// first, so that the version of the saga is at least as new as what it is compared
// with.
func (r *run) look(ctx context.Context, memberID string) error {
	if err := r.renew(ctx); err != nil {
		return err
	}
	s, err := r.storages.get(ctx, memberID)
	if err != nil {
		return err
	}
	m, err := r.member(ctx, memberID)
	if err != nil {
		return err
	}
	kind, wrong := m.verdict(s)
	if !wrong {
		return nil
	}
	detail := r.count(kind, m, s)
	switch {
	case r.dry || kind == Double:
		return nil
	case m == nil:
		return r.quarantine(ctx, *s)
	}
	done, err := r.command(ctx, *m, detail)
	if done {
		r.report.CommandedAgain++
	}
	return err
}

// count adds a finding to the report and describes it.
func (r *run) count(kind Kind, m *member, s *Storage) (detail string) {
	state := "unknown here"
	if m != nil {
		state = string(m.State)
	}
	f := Finding{Kind: kind, MemberID: idOf(m, s), Detail: state + ", storage " + s.describe()}
	switch kind {
	case Stranded:
		r.report.Stranded++
	case Orphan:
		r.report.Orphans++
	case Double:
		r.report.Doubles++
		f.Detail += ", of saga " + s.SagaID
	}
	if len(r.report.Findings) < shown {
		r.report.Findings = append(r.report.Findings, f)
	}
	return f.Detail
}

// renew keeps the lease, or ends the run if it is lost.
func (r *run) renew(ctx context.Context) error {
	if r.dry {
		return nil
	}
	tag, err := r.pool.Exec(ctx, `-- name: renewReconciliation
UPDATE reconciliation SET lease_until = now() + make_interval(secs => $2) WHERE holder = $1 AND lease_until > now()`, r.holder, lease.Seconds())
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("the lease ran out")
	}
	if err != nil {
		return fmt.Errorf("renew reconciliation: %w", err)
	}
	return nil
}

// finish notes the result and where the next run goes on. A run that looked into
// everything forgets what has an owner by now, or is gone.
func (r *run) finish(ctx context.Context, report Report) error {
	var resume *string
	if r.looked == r.cfg.MaxRepairs {
		resume = &r.last
	}
	everything := r.from == "" && resume == nil
	_, err := r.pool.Exec(ctx, `-- name: finishReconciliation
WITH done AS (
    UPDATE reconciliation SET finished_at = now(), stranded = $2, orphans = $3, doubles = $4, resume_after = $5::text::uuid
    WHERE holder = $1 RETURNING started_at
)
DELETE FROM quarantine USING done WHERE last_seen < started_at AND $6`, r.holder, report.Stranded, report.Orphans, report.Doubles, resume, everything)
	if err != nil {
		return fmt.Errorf("finish reconciliation: %w", err)
	}
	return nil
}

// release lets others begin; without it they wait until the lease has run out.
func (r *run) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, suspended)
	defer cancel()
	_, err := r.pool.Exec(ctx, "-- name: releaseReconciliation\nUPDATE reconciliation SET holder = NULL, lease_until = now() WHERE holder = $1", r.holder)
	if err != nil {
		return fmt.Errorf("release reconciliation: %w", err)
	}
	return nil
}
