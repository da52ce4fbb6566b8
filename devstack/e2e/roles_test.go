package e2e

import (
	"context"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The script that creates roles and databases completes what an interrupted earlier run left, and applies
// changed passwords.
func TestRolesAreMadeAgain(t *testing.T) {
	postgres := start(t, "postgres", nil, devstack, "postgres")
	admin, err := url.Parse(postgres.awaitVariable("DATABASE_URL", startLimit))
	if err != nil {
		t.Fatal(err)
	}
	connect := func(database string) (*pgx.Conn, error) {
		u := *admin
		u.Path = "/" + database
		return pgx.Connect(context.Background(), u.String())
	}
	mayEnter := func(role, password, database string) error {
		u := *admin
		u.User, u.Path = url.UserPassword(role, password), "/"+database
		conn, err := pgx.Connect(t.Context(), u.String())
		if err != nil {
			return err
		}
		return conn.Close(t.Context())
	}
	run := func(script, password string) {
		t.Helper()
		if err := psql(t.Context(), script, func(string) string { return password }, connect); err != nil {
			t.Fatal(err)
		}
	}
	script := mustRead(t, filepath.Join(repository, "deploy", "postgres-init.sql"))
	for _, end := range []string{
		"ALTER ROLE member_app", "-- A server that was killed", `\connect member`, `\connect storage`,
	} {
		begun, _, found := strings.Cut(script, end)
		if !found {
			t.Fatalf("the script has no %s", end)
		}
		run(begun, "first")
	}
	run(script, "first")
	for role, database := range map[string]string{
		"member_app": "member", "member_migrator": "member", "storage_app": "storage", "storage_migrator": "storage",
	} {
		if err := mayEnter(role, "first", database); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
	if err := mayEnter("member_app", "first", "storage"); err == nil {
		t.Error("the Member service gets into the Storage database")
	}

	// The state that a server leaves when it is killed during CREATE DATABASE.
	conn, err := connect("postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(t.Context(), "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'storage'")
	if err != nil {
		t.Fatal(err)
	}
	run(script, "second")
	if err := mayEnter("storage_app", "second", "storage"); err != nil {
		t.Errorf("after a crash, with another password: %v", err)
	}
	if err := mayEnter("storage_app", "first", "storage"); err == nil {
		t.Error("the old password is still good")
	}
}
