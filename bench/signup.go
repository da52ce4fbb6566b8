package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/outbox"
)

const passwordHash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b4dWRWJTmaaJObGwRdescudvJC"

// queueEvent queues one event of a signup.
type queueEvent func(b *pgx.Batch, e outbox.Event)

// throughOutbox appends the event to the outbox, as a service does.
func throughOutbox(b *pgx.Batch, e outbox.Event) { outbox.AppendBatch(b, e) }

// plainInsert inserts the same row into a table that no relay reads.
func plainInsert(b *pgx.Batch, e outbox.Event) {
	headers, _ := json.Marshal(e.Headers) // a map of strings always encodes
	b.Queue(
		"-- name: insertPlain\nINSERT INTO plain_event (event_id, key, type, headers, payload) VALUES ($1, $2, "+
			"$3, $4, $5)",
		e.ID, e.Key, e.Type, headers, e.Payload)
}

// member is a new member with the saga of the signup.
type member struct{ id, saga string }

func newMember() (m member, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return m, err
	}
	saga, err := uuid.NewV7()
	return member{id.String(), saga.String()}, err
}

// signUp writes a member, a saga, a timeline row and two events in one round trip. The events are numbered from
// first on.
func signUp(ctx context.Context, s *site, first int, queue queueEvent) error {
	m, err := newMember()
	if err != nil {
		return err
	}
	b := new(pgx.Batch)
	queueSignup(b, m)
	for i := range 2 {
		e := newEvent(first + i)
		e.Key, e.Headers = m.id, map[string]string{"ce-sagaid": m.saga}
		queue(b, e)
	}
	return s.clients.SendBatch(ctx, b).Close()
}

// queueSignup queues the rows of a signup without its events.
func queueSignup(b *pgx.Batch, m member) {
	now := time.Now()
	b.Queue(`-- name: insertMember
INSERT INTO member (id, username, username_key, email, plan, password_hash, created_at)
    VALUES ($1, $2, $3, $4, 'free', $5, $6)`,
		m.id, m.id, m.id, m.id+"@example.org", passwordHash, now)
	b.Queue(`-- name: insertSaga
INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at, due_at,
    created_at, updated_at)
VALUES ($1, $2, $3, 'provisioning', 1, 1, $4, now(), $5, $4, $4)`,
		m.saga, m.id, "sgn_"+m.saga, now, now.Add(30*time.Second))
	b.Queue(`-- name: insertTimeline
INSERT INTO saga_event (saga_id, kind, state, version, generation)
    VALUES ($1, 'signed_up', 'provisioning', 1, 1)`, m.saga)
}
