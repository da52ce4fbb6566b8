package store

import "context"

// Pulse returns a fingerprint that changes whenever a saga, an operator, a group retry, a provider report or a
// reconciliation changes something.
func (s *Store) Pulse(ctx context.Context) (pulse string, err error) {
	err = s.pool.QueryRow(ctx, `-- name: pulse
SELECT concat_ws(' ', (SELECT max(id) FROM saga_event), (SELECT max(id) FROM admin_audit), (SELECT reported_at
    FROM provider_report), (SELECT finished_at FROM reconciliation),
    (SELECT string_agg(id || ':' || released || ':' || unsettled || ':' || state, ' ' ORDER BY id) FROM group_retry
        WHERE due_at IS NOT NULL))`).Scan(&pulse)
	return pulse, err
}
