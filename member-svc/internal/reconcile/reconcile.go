package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service/reconcile"
)

const pageSize = 1000

// Reconciler compares members with what the participants have. It is safe for concurrent use.
type Reconciler struct {
	reconcile.Reconciler[member, Storage]
	store        *store.Store
	steps        saga.Steps
	participants []*Storages // by step
}

// New returns a reconciler. The participants are in the order of their steps; a nil participant is not
// compared. A run ends at the first participant that does not answer. Sagas that changed, and commands that were
// sent, more recently than the minimum age are left alone.
func New(
	cfg reconcile.Config, pool *pgxpool.Pool, st *store.Store, steps saga.Steps, log *slog.Logger,
	participants ...*Storages,
) *Reconciler {
	r := &Reconciler{store: st, steps: steps, participants: participants}
	r.Reconciler = reconcile.Reconciler[member, Storage]{
		Config: cfg, Pool: pool, Log: log,
		Lists: reconcile.Lists[member, Storage]{
			Left: r.members, Right: r.lists, Verdict: r.verdict, Repair: r.repair,
			// Read the storage first, so that the saga is at least as new as the storage it is compared with.
			Reread: func(ctx context.Context, key string) (*member, *Storage, error) {
				memberID, step := splitKey(key)
				s, err := r.participants[step].get(ctx, memberID, step)
				if err != nil {
					return nil, nil, err
				}
				m, err := r.member(ctx, memberID, step)
				return m, s, err
			},
		},
	}
	return r
}

// verdict compares a member with what one participant has. A member who became ready before a step was added
// has no claim to it.
func (r *Reconciler) verdict(m *member, s *Storage) (reconcile.Kind, string) {
	switch {
	case m == nil && s.left():
		return reconcile.Orphan, "unknown here, " + r.steps[s.step].Name + " " + s.describe()
	case m == nil:
		return "", ""
	}
	what := r.steps[m.step].Name + " "
	switch {
	case s.left() && s.SagaID != m.SagaID:
		return reconcile.Double, string(m.State) + ", " + what + "of saga " + s.SagaID + " " + s.describe()
	case m.AtRest && m.Erased && !m.State.Left():
		return reconcile.Orphan, "left, " + string(m.State) + ", " + what + s.describe()
	case m.AtRest && m.State == saga.Ready && m.Step >= m.step && !s.given():
		return reconcile.Stranded, "ready, " + what + s.describe()
	case m.AtRest && m.State == saga.Withdrawn && s.left():
		return reconcile.Orphan, "withdrawn, " + what + s.describe()
	}
	return "", ""
}

func (r *Reconciler) repair(
	ctx context.Context, m *member, s *Storage, kind reconcile.Kind, detail string,
) (bool, error) {
	switch {
	case m == nil:
		return false, r.store.Quarantine(ctx, s.MemberStorage)
	case kind == reconcile.Double:
		return false, nil
	case m.Erased && !m.State.Left():
		return r.store.FinishLeaving(ctx, m.Progress, detail)
	default:
		return r.store.CommandAgain(ctx, m.Progress, r.steps[m.step].Asks(m.State), r.MinAge, detail)
	}
}

// Books is the operators' ledger: how many signups were accepted, what became of them, and whether the Storage
// service agrees.
type Books struct {
	store.Ledger
	reconcile.Report
}

// Check counts the members and compares them with the storages. Unless dry is set, it also repairs differences.
func (r *Reconciler) Check(ctx context.Context, dry bool) (b Books, err error) {
	if b.Ledger, err = r.store.Ledger(ctx); err != nil {
		return b, err
	}
	b.Report, err = r.Reconciler.Check(ctx, dry)
	return b, err
}

// Write prints the books.
func (b Books) Write(w io.Writer) error {
	_, err := fmt.Fprintf(w,
		"accepted           %9d\n  ready            %9d\n  in progress      %9d\n  needs attention  %9d\n  "+
			"withdrawn        %9d\n",
		b.Accepted, b.Ready, b.InProgress, b.NeedsAttention, b.Withdrawn)
	return errors.Join(err, b.Report.Write(w))
}

// Err returns [reconcile.ErrFound] if anything is wrong, even if it was repaired.
func (b Books) Err() error {
	if !b.Balances() {
		return reconcile.ErrFound
	}
	return b.Report.Err()
}
