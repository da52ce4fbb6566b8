package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// sampleEvery is rare enough to cost nothing, and frequent enough for shares: a run of five minutes finds
// working sessions some ten thousand times.
const sampleEvery = 50 * time.Millisecond

// samples counts how often a statement was found running, or ready to run, by database and name.
type samples map[string]int

// sample samples what the server's sessions do until it is stopped. It does not count sessions that wait for a
// lock or the disk, or its own session.
func sample(ctx context.Context, pool *pgxpool.Pool) (stop func() (samples, error)) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	found := samples{}
	go func() { done <- found.collect(ctx, pool) }()
	return func() (samples, error) {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			return nil, err
		}
		return found, nil
	}
}

func (f samples) collect(ctx context.Context, pool *pgxpool.Pool) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		rows, _ := pool.Query(ctx, `-- name: sampleSessions
SELECT datname || ': ' || coalesce(substring(query FROM '^-- name: (\w+)'), lower(substring(query FROM '^\w+'))),
    count(*)
FROM pg_stat_activity WHERE state = 'active' AND wait_event IS NULL AND backend_type = 'client backend'
    AND pid <> pg_backend_pid() GROUP BY 1`)
		var statement *string
		var n int
		if _, err := pgx.ForEachRow(rows, []any{&statement, &n}, func() error {
			if statement != nil {
				f[*statement] += n
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

// shares describes how the server time per saga, total in µs, was spread over the statements, in proportion to
// how often each was found running.
func (f samples) shares(total float64) string {
	const shown = 15
	var all int
	names := make([]string, 0, len(f))
	for name, n := range f {
		names, all = append(names, name), all+n
	}
	slices.SortFunc(names, func(a, b string) int {
		if f[a] != f[b] {
			return f[b] - f[a]
		}
		return strings.Compare(a, b)
	})
	var out strings.Builder
	fmt.Fprintf(&out,
		"Where Postgres's part of it goes, by what it was found doing %d times; the reading and writing of messages "+
			"counts for the statement beside it:\n\n"+
			"| statement | core-µs per saga |\n|---|--:|\n", all)
	rest := total
	for _, name := range names[:min(shown, len(names))] {
		part := total * float64(f[name]) / float64(max(all, 1))
		rest -= part
		fmt.Fprintf(&out, "| %s | %s |\n", name, number(part))
	}
	fmt.Fprintf(&out, "| all others | %s |\n| sum | %s |", number(rest), number(total))
	return out.String()
}
