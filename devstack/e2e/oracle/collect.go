package oracle

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Sources says where to find the evidence.
type Sources struct {
	Journal, Ledger string // files
	Provider        string // folder of the storages
	MemberDatabase  string // URL
	StorageDatabase string // URL
	// Searched are folders and files that must not hold the canary. The Storage database is searched too.
	Searched []string
}

// Collect gathers the evidence of a system at rest. The caller adds what only the attacker knows: canaries,
// mails, faults.
func Collect(ctx context.Context, s Sources) (e Evidence, err error) {
	if e.Client, err = ReadLines[Line](s.Journal); err != nil {
		return e, err
	}
	if e.Ledger, err = ReadLines[Effect](s.Ledger); err != nil {
		return e, err
	}
	if e.Markers, err = ReadMarkers(s.Provider); err != nil {
		return e, err
	}
	if e.Leaks, e.Searched, err = Search(Canary, s.Searched...); err != nil {
		return e, err
	}
	err = connected(ctx, s.MemberDatabase, func(conn *pgx.Conn) error { return e.readMembers(ctx, conn) })
	if err != nil {
		return e, fmt.Errorf("member database: %w", err)
	}
	err = connected(ctx, s.StorageDatabase, func(conn *pgx.Conn) error { return e.readStorages(ctx, conn) })
	if err != nil {
		return e, fmt.Errorf("storage database: %w", err)
	}
	return e, nil
}

func connected(ctx context.Context, url string, read func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return errors.Join(read(conn), conn.Close(ctx))
}

func (e *Evidence) readMembers(ctx context.Context, conn *pgx.Conn) error {
	var err error
	e.Members, err = all[Member](ctx, conn, `-- name: oracleMembers
SELECT m.id::text, coalesce(m.username, '') AS username, coalesce(s.id::text, '') AS saga_id, coalesce(s.signup_id, '')
    AS signup_id,
       coalesce(s.state, '') AS state, m.email IS NOT NULL AS has_address, coalesce(s.generation, 0) AS generation,
       coalesce(s.version, 0) AS version, coalesce(l.state, '') AS mail
FROM member m LEFT JOIN signup_saga s ON s.member_id = m.id LEFT JOIN mail l ON l.member_id = m.id
    AND l.kind = 'welcome'`)
	if err != nil {
		return err
	}
	e.Steps, err = all[Step](ctx, conn, `-- name: oracleSteps
SELECT saga_id::text, kind, state, version, generation FROM saga_event ORDER BY id`)
	if err != nil {
		return err
	}
	keys, err := all[struct{ Key, MemberID string }](ctx, conn, `-- name: oracleKeys
SELECT key, member_id::text FROM idempotency_key`)
	e.Keys = make(map[string]string, len(keys))
	for _, k := range keys {
		e.Keys[k.Key] = k.MemberID
	}
	return err
}

func (e *Evidence) readStorages(ctx context.Context, conn *pgx.Conn) error {
	var err error
	e.Storages, err = all[Storage](ctx, conn, `-- name: oracleStorages
SELECT member_id::text, desired, status, generation FROM storage`)
	if err != nil {
		return err
	}
	// NATS holds what the outbox holds. A dead letter is the raw message.
	err = conn.QueryRow(ctx, "-- name: oracleDeadLetters\nSELECT count(*) FROM dead_letter").Scan(&e.DeadLetters)
	if err != nil {
		return err
	}
	found, searched, err := searchTables(ctx, conn)
	for _, name := range found {
		e.Leaks = append(e.Leaks, "storage database, table "+name)
	}
	e.Searched += searched
	return err
}

// SearchDatabase returns the tables of a database that hold the canary, and how many characters were searched.
func SearchDatabase(ctx context.Context, url string) (found []string, searched int64, err error) {
	err = connected(ctx, url, func(conn *pgx.Conn) error {
		found, searched, err = searchTables(ctx, conn)
		return err
	})
	return found, searched, err
}

func searchTables(ctx context.Context, conn *pgx.Conn) (found []string, searched int64, err error) {
	tables, err := all[struct{ Name string }](ctx, conn, `-- name: oracleTables
SELECT quote_ident(table_name) AS name FROM information_schema.tables WHERE table_schema = 'public'
    AND table_type = 'BASE TABLE'`)
	for _, t := range tables {
		var rows, size int64
		err := conn.QueryRow(ctx, fmt.Sprintf(`-- name: oracleSearch
SELECT count(*) FILTER (WHERE x ILIKE '%%%[1]s%%' OR x LIKE '%%%[2]x%%'), coalesce(sum(length(x)), 0)
FROM (SELECT t::text AS x FROM %[3]s t) AS rows`,
			Canary, Canary, t.Name)).Scan(&rows, &size) // binary columns are rendered as hex
		if err != nil {
			return nil, 0, err
		}
		searched += size
		if rows > 0 {
			found = append(found, t.Name)
		}
	}
	return found, searched, err
}

func all[T any](ctx context.Context, conn *pgx.Conn, sql string) ([]T, error) {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}
