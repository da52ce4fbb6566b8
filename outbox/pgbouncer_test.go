//go:build verify

package outbox

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// Behind a real PgBouncer that has fewer sessions than it has clients, and gives
// each transaction any of them. Run by make verify.
func TestBehindPgBouncer(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			b := newBench(t)
			behind, err := pgx.ParseConfig(testenv.PgBouncer(t, b.pool.Config().ConnString()))
			if err != nil {
				t.Fatal(err)
			}
			b.reconnect(func(c *pgxpool.Config) {
				c.ConnConfig.Host, c.ConnConfig.Port = behind.Host, behind.Port
				c.ConnConfig.Fallbacks, c.ConnConfig.TLSConfig = nil, nil
				c.ConnConfig.DefaultQueryExecMode = mode
			})
			b.everyStatement()
		})
	}
}
