package demo

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// books compares what was promised with what happened. It uses independent records: the client's list of
// accepted signups, the Member database, and the provider's own file of creates and deletes.
type books struct {
	accepted int
	ready    int // ready for the member, and created by the provider
	lost     int // accepted, but unknown to the Member database, or ready without a storage
	doubles  int // storages created twice, or for an unknown member
}

func (b books) balances() bool { return b.ready == b.accepted && b.lost == 0 && b.doubles == 0 }

// balance compares the records. states holds the states in the Member database by member id. created holds how
// many storages the provider created for each member since the story began.
func balance(promises []accepted, states map[string]string, created map[string]int) books {
	b := books{accepted: len(promises)}
	promised := map[string]bool{}
	for _, p := range promises {
		promised[p.MemberID] = true
		state, known := states[p.MemberID]
		switch {
		case !known, state == "ready" && created[p.MemberID] == 0:
			b.lost++
		case state == "ready":
			b.ready++
		}
	}
	for member, times := range created {
		if promised[member] {
			times--
		}
		b.doubles += times
	}
	return b
}

// memberStates reads the state of every saga from the Member database.
func memberStates(ctx context.Context, databaseURL string) (map[string]string, error) {
	rows, err := query(ctx, databaseURL,
		"-- name: memberStates\nSELECT member_id::text AS id, state AS value FROM signup_saga")
	if err != nil {
		return nil, err
	}
	states := map[string]string{}
	for _, r := range rows {
		states[r.ID] = r.Value
	}
	return states, nil
}

// waitingMails counts the welcome mails in the Member database that are neither sent nor dropped.
func waitingMails(ctx context.Context, databaseURL string) (int, error) {
	rows, err := query(ctx, databaseURL, `-- name: waitingMails
		SELECT id::text AS id, '' AS value
		FROM member LEFT JOIN mail ON mail.member_id = member.id
		WHERE email IS NOT NULL AND coalesce(mail.state, 'queued') = 'queued'`)
	return len(rows), err
}

type row struct{ ID, Value string }

func query(ctx context.Context, databaseURL, sql string) ([]row, error) {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[row])
}
