// Package reconcile compares the storages in the database with what the provider has, once both have settled,
// and makes the worker repair the differences.
//
//	ready   and no marker, or only data     stranded: pending again, a worker creates it
//	ready   and a tombstone                 stranded: report
//	ready   and a damaged marker            stranded: quarantine, report
//	absent  and a live marker, or data      orphan: pending again, a worker removes it
//	absent  and a damaged marker            orphan: quarantine, report
//	unknown and anything but a tombstone    orphan: quarantine, report, never touch
//
// A storage that is pending again keeps its generation, so its reply contains nothing new for the Member
// service. The provider's operations may be repeated, and each update of the row is guarded by the version that
// was read: a command that arrives meanwhile wins. A resource without a row is left alone, because this
// database may have been restored to a time before that row existed. Package service/reconcile explains why the
// comparison is safe while both sides keep changing.
package reconcile

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/service/reconcile"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const (
	pageSize    = provision.MaxResources
	listTimeout = 30 * time.Second // for one page of the provider's list; shorter than the lease of a run
)

// Reconciler compares storages and resources. Safe for concurrent use.
type Reconciler struct {
	reconcile.Reconciler[row, resource]
	provider provision.Provider
}

// New returns a reconciler. Storages that changed more recently than the minimum age are left alone.
func New(cfg reconcile.Config, pool *pgxpool.Pool, provider provision.Provider, log *slog.Logger) *Reconciler {
	r := &Reconciler{provider: provider}
	r.Reconciler = reconcile.Reconciler[row, resource]{
		Config: cfg, Pool: pool, Log: log,
		Lists: reconcile.Lists[row, resource]{
			Left: r.rows, Verdict: verdict, Reread: r.reread, Repair: r.repair,
			Right: func() reconcile.Pages[resource] {
				return func(ctx context.Context, after string) ([]resource, error) {
					return r.resources(ctx, after, pageSize)
				}
			},
		},
	}
	return r
}

// row contains the columns of a storage that matter here.
type row struct {
	MemberID string
	Status   provision.Status
	Version  int64
	Settled  bool // unchanged for the minimum age
}

// Key implements reconcile.Keyed.
func (r row) Key() string { return r.MemberID }

// resource is what the provider has.
type resource provision.Resource

// Key implements reconcile.Keyed.
func (r resource) Key() string { return r.MemberID }

// verdict compares a row with what the provider has.
func verdict(r *row, have *resource) (reconcile.Kind, string) {
	state := provision.ResourceState("missing")
	if have != nil {
		state = have.State
	}
	switch {
	case r == nil && state != provision.ResourceTombstone:
		return reconcile.Orphan, "unknown here, at the provider " + string(state)
	case r == nil || !r.Settled:
	case r.Status == provision.Ready && state != provision.ResourceLive:
		return reconcile.Stranded, "ready, at the provider " + string(state)
	case r.Status == provision.Removed && have != nil && state != provision.ResourceTombstone:
		return reconcile.Orphan, "removed, at the provider " + string(state)
	}
	return "", ""
}

// repair makes a storage pending again if a worker can help, and stores in the quarantine what nobody may touch.
func (r *Reconciler) repair(
	ctx context.Context, storage *row, have *resource, kind reconcile.Kind, _ string,
) (bool, error) {
	switch {
	case storage == nil || (have != nil && have.State == provision.ResourceDamaged):
		return false, r.quarantine(ctx, *have)
	case kind == reconcile.Stranded && have != nil && have.State == provision.ResourceTombstone:
		return false, nil // removed for good
	}
	// As after a new command. The lease stays with the worker that holds it.
	tag, err := r.Pool.Exec(ctx, `-- name: pendingAgain
UPDATE storage SET status = 'pending', attempts = 0, outage_attempts = 0, next_attempt_at = now(),
    last_error_class = NULL, last_error = NULL,
	version = version + 1, updated_at = now()
WHERE member_id = $1 AND version = $2`, storage.MemberID, storage.Version)
	if err != nil {
		return false, fmt.Errorf("pending again: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

func (r *Reconciler) quarantine(ctx context.Context, have resource) error {
	_, err := r.Pool.Exec(ctx, `-- name: quarantineResource
INSERT INTO quarantine (member_id, state, generation) VALUES ($1, $2, $3)
ON CONFLICT (member_id) DO UPDATE SET state = $2, generation = $3,
    last_seen = now()`, have.MemberID, string(have.State), have.Generation)
	if err != nil {
		return fmt.Errorf("quarantine resource: %w", err)
	}
	return nil
}

const selectRows = `SELECT member_id::text, status, version,
	updated_at <= now() - make_interval(secs => $1) AS settled FROM storage `

func (r *Reconciler) rows(ctx context.Context, after string) ([]row, error) {
	if after == "" {
		after = uuid.Nil.String()
	}
	rows, _ := r.Pool.Query(ctx, "-- name: listRows\n"+selectRows+"WHERE member_id > $2 ORDER BY member_id LIMIT $3",
		r.MinAge.Seconds(), after, pageSize)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return nil, fmt.Errorf("list rows: %w", err)
	}
	return page, nil
}

func (r *Reconciler) resources(ctx context.Context, after string, limit int) ([]resource, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	found, err := r.provider.List(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list resources: %w", err)
	}
	page := make([]resource, len(found))
	for i, f := range found {
		page[i] = resource(f)
	}
	return page, nil
}

// reread reads the provider first, so that the row is at least as new.
func (r *Reconciler) reread(ctx context.Context, memberID string) (*row, *resource, error) {
	found, err := r.resources(ctx, before(memberID), 1)
	if err != nil {
		return nil, nil, err
	}
	var have *resource
	if len(found) > 0 && found[0].MemberID == memberID {
		have = &found[0]
	}
	rows, _ := r.Pool.Query(ctx, "-- name: readRow\n"+selectRows+"WHERE member_id = $2", r.MinAge.Seconds(),
		memberID)
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return nil, nil, fmt.Errorf("read row: %w", err)
	}
	if len(stored) == 0 {
		return nil, have, nil
	}
	return &stored[0], have, nil
}

// before returns the greatest UUID below id, so that a list after it begins with id.
func before(id string) string {
	u := uuid.FromStringOrNil(id)
	high, low := binary.BigEndian.Uint64(u[:8]), binary.BigEndian.Uint64(u[8:])
	if low == 0 {
		high--
	}
	binary.BigEndian.PutUint64(u[:8], high)
	binary.BigEndian.PutUint64(u[8:], low-1)
	return u.String()
}
