package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A machine without PostgreSQL downloads a private copy once. An installed PostgreSQL is ignored.
func TestFetchedPostgres(t *testing.T) {
	env := append(os.Environ(), "DEVSTACK_PG=fetch", "PG_BIN=", "DATABASE_URL=")
	server := start(t, "devstack postgres", env, devstack, "postgres")
	conn, err := pgx.Connect(t.Context(), server.awaitVariable("DATABASE_URL", startLimit))
	if err != nil {
		t.Fatal(err)
	}
	var version, libraries string
	err = conn.QueryRow(t.Context(),
		"SELECT current_setting('server_version'), setting FROM pg_config() WHERE name = 'PKGLIBDIR'").Scan(&version,
		&libraries)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("PostgreSQL %s from %s", version, filepath.Dir(libraries))
	if !strings.Contains(libraries, "signup-saga") {
		t.Errorf("the server comes from %s, which is not our cache", libraries)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := server.stop(); err != nil {
		t.Errorf("devstack postgres ended with %v", err)
	}
}
