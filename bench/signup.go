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

// throughOutbox is what a service does.
func throughOutbox(b *pgx.Batch, e outbox.Event) { outbox.AppendBatch(b, e) }

// plainInsert is the same row in a table that nobody relays.
func plainInsert(b *pgx.Batch, e outbox.Event) {
	headers, _ := json.Marshal(e.Headers) // a map of strings always encodes
	b.Queue("-- name: insertPlain\nINSERT INTO plain_event (event_id, key, type, headers, payload) VALUES ($1, $2, $3, $4, $5)",
		e.ID, e.Key, e.Type, headers, e.Payload)
}

// signUp writes a member, a saga, a timeline row and two events, numbered from
// first on, in one round trip.
func signUp(ctx context.Context, s *site, first int, queue queueEvent) error {
	b := new(pgx.Batch)
	if err := queueSignup(b, first, queue); err != nil {
		return err
	}
	return s.clients.SendBatch(ctx, b).Close()
}

func queueSignup(b *pgx.Batch, first int, queue queueEvent) error {
	member, err := uuid.NewV7()
	if err != nil {
		return err
	}
	saga, err := uuid.NewV7()
	if err != nil {
		return err
	}
	now := time.Now()
	name := member.String()
	b.Queue(`-- name: insertMember
INSERT INTO member (id, username, username_key, email, plan, password_hash, created_at) VALUES ($1, $2, $3, $4, 'free', $5, $6)`,
		name, name, name, name+"@example.org", passwordHash, now)
	b.Queue(`-- name: insertSaga
INSERT INTO signup_saga (id, member_id, signup_id, state, generation, version, opened_at, commanded_at, due_at, created_at, updated_at)
VALUES ($1, $2, $3, 'provisioning', 1, 1, $4, now(), $5, $4, $4)`,
		saga.String(), name, "sgn_"+saga.String(), now, now.Add(30*time.Second))
	b.Queue(`-- name: insertTimeline
INSERT INTO saga_event (saga_id, kind, state, version) VALUES ($1, 'signed_up', 'provisioning', 1)`, saga.String())
	for i := range 2 {
		e := newEvent(first + i)
		e.Key, e.Headers = name, map[string]string{"ce-sagaid": saga.String()}
		queue(b, e)
	}
	return nil
}
