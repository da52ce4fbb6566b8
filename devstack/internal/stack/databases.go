package stack

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// database is one service's database with its two roles: the migrator owns the schema, the app only uses it.
type database struct {
	name          string
	migrator, app string // URLs
}

// newDatabase returns a service's database and the URLs of its roles, on the server of the administrator's URL.
func newDatabase(admin, name string, secret func(string) string) (database, error) {
	u, err := url.Parse(admin)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return database{}, errors.New("DATABASE_URL must have the form postgres://user:password@host:port/database")
	}
	u.Path = "/" + name
	as := func(role string) string {
		u.User = url.UserPassword(role, secret(role))
		return u.String()
	}
	return database{name: name, migrator: as(name + "_migrator"), app: as(name + "_app")}, nil
}

// create creates the roles and the database unless they exist, and grants the app what the migrator creates.
func (d database) create(ctx context.Context, admin string, secret func(string) string) error {
	if err := d.createAsAdmin(ctx, admin, secret); err != nil {
		return fmt.Errorf("create the %s database: %w", d.name, err)
	}
	if err := d.grant(ctx); err != nil {
		return fmt.Errorf("grant rights in the %s database: %w", d.name, err)
	}
	return nil
}

func (d database) createAsAdmin(ctx context.Context, admin string, secret func(string) string) error {
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, role := range []string{d.name + "_migrator", d.name + "_app"} {
		quoted := pgx.Identifier{role}.Sanitize()
		// Secrets are letters and digits only, so they cannot end the SQL literal.
		err := inSequence(ctx, conn,
			"-- name: createRole\nCREATE ROLE "+quoted,
			fmt.Sprintf("-- name: setPassword\nALTER ROLE %s LOGIN PASSWORD '%s'", quoted, secret(role)))
		if err != nil {
			return err
		}
	}
	// To create a database for another role, the creator must be a member of that role or a superuser.
	return inSequence(ctx, conn,
		fmt.Sprintf("-- name: joinMigrator\nGRANT %[1]s_migrator TO CURRENT_USER", d.name),
		fmt.Sprintf(
			"-- name: createDatabase\nCREATE DATABASE %[1]s OWNER %[1]s_migrator TEMPLATE template0 ENCODING 'UTF8'",
			d.name),
		fmt.Sprintf("-- name: closeDatabase\nREVOKE ALL ON DATABASE %s FROM PUBLIC", d.name),
		fmt.Sprintf("-- name: openDatabase\nGRANT CONNECT ON DATABASE %[1]s TO %[1]s_app", d.name))
}

func (d database) grant(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.migrator)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	app := d.name + "_app"
	return inSequence(ctx, conn,
		"-- name: grantSchema\nGRANT USAGE ON SCHEMA public TO "+app,
		"-- name: grantTables\nALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON "+
			"TABLES TO "+app,
		"-- name: grantSequences\nALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO "+app,
		"-- name: grantFunctions\nALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO "+app)
}

// inSequence runs statements one by one. An object that already exists is left unchanged.
func inSequence(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	const duplicateObject, duplicateDatabase = "42710", "42P04"
	for _, sql := range statements {
		_, err := conn.Exec(ctx, sql)
		var known *pgconn.PgError
		if errors.As(err, &known) && (known.Code == duplicateObject || known.Code == duplicateDatabase) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
