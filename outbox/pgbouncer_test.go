//go:build verify

package outbox

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
)

// The outbox works behind a real PgBouncer that has fewer sessions than clients, and gives each transaction any
// of them. Run by make verify.
func TestBehindPgBouncer(t *testing.T) {
	modes := []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeSimpleProtocol}
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			b := newBench(t)
			through, err := pgx.ParseConfig(testenv.PgBouncer(t, b.pool.Config().ConnString()))
			if err != nil {
				t.Fatal(err)
			}
			through.DefaultQueryExecMode = mode
			b.reconnect(func(c *pgxpool.Config) { c.ConnConfig = through })
			b.everyStatement()
		})
	}
}
