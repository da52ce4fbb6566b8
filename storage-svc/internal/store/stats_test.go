package store_test

import "testing"

// On the worst day so many storages are pending that counting all of them would take longer than a scrape may.
func TestStatsAreBounded(t *testing.T) {
	f := open(t)
	insert := func(n int, idle string) {
		t.Helper()
		if _, err := f.pool.Exec(t.Context(),
			`INSERT INTO storage (member_id, saga_id, generation, desired, status, quota_bytes, next_attempt_at,
			    updated_at)
SELECT gen_random_uuid(), gen_random_uuid(), 1, 'present', 'pending', 1, now() + i * interval '1 ms',
    now() - $2::interval FROM generate_series(1, $1) i`, n, idle); err != nil {
			t.Fatal(err)
		}
	}
	insert(2, "1 hour")
	if s, err := f.Stats(t.Context()); err != nil || s.Pending != 2 || s.Oldest < 3600 || s.Oldest > 7200 {
		t.Errorf("two that wait: %+v, %v", s, err)
	}
	insert(100_010, "1 minute")
	if s, err := f.Stats(t.Context()); err != nil || s.Pending != 100_000 || s.Oldest < 3600 || s.Oldest > 7200 {
		t.Errorf("very many: %+v, %v", s, err)
	}
}
