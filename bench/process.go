package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// sagas runs whole sagas: a signup, its storage, and ready.
type sagas interface {
	// signUp runs one saga and returns after its last commit.
	signUp(ctx context.Context) error
	// start starts what signUp needs; the returned function stops it.
	start(ctx context.Context) (stop func() error, err error)
}

// singleProcess is the limit of row E: one process without a broker. It writes the rows that the services write
// in the fewest possible transactions, one before the provider's work and one after it. It leaves out the
// outbox, HTTP, the check of the request and the hash.
type singleProcess struct {
	*site
	provider *provider
}

func (p *singleProcess) start(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}

func (p *singleProcess) signUp(ctx context.Context) error {
	m, err := newMember()
	if err != nil {
		return err
	}
	b := new(pgx.Batch)
	queueSignup(b, m)
	queueStorage(b, m)
	if err := p.clients.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	if err := p.provider.create(m.id); err != nil {
		return err
	}
	b = new(pgx.Batch)
	queueProvisioned(b, m.id)
	queueReady(b, m.saga)
	return p.clients.SendBatch(ctx, b).Close()
}

func queueStorage(b *pgx.Batch, m member) {
	b.Queue(`-- name: insertStorage
INSERT INTO storage.storage (member_id, saga_id, generation, desired, status, quota_bytes, next_attempt_at)
    VALUES ($1, $2, 1, 'present', 'pending', 5368709120, now())`,
		m.id, m.saga)
}

func queueProvisioned(b *pgx.Batch, memberID string) {
	b.Queue(`-- name: finishStorage
UPDATE storage.storage
    SET status = 'ready', attempts = 1, next_attempt_at = NULL, version = version + 1, updated_at = now()
    WHERE member_id = $1 AND version = 1`, memberID)
}

func queueReady(b *pgx.Batch, sagaID string) {
	b.Queue(`-- name: finishSaga
UPDATE signup_saga SET state = 'ready', version = 2, due_at = NULL, updated_at = now() WHERE id = $1
    AND version = 1`, sagaID)
	b.Queue(`-- name: insertTimeline
INSERT INTO saga_event (saga_id, kind, state, version, generation, message_id)
    VALUES ($1, 'provisioned', 'ready', 2, 1, $2)`, sagaID, sagaID)
}

// provider makes the same system calls as the fs provider of the Storage service: it creates the marker in one
// step, and syncs it, its folders and a line in the ledger to disk before it reports success.
type provider struct {
	dir     string
	ledger  *os.File
	created atomic.Int64
}

func newProvider(dir string) (*provider, error) {
	if err := os.MkdirAll(filepath.Join(dir, ".tmp"), 0o750); err != nil {
		return nil, err
	}
	ledger, err := os.OpenFile(filepath.Join(dir, "ledger"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return &provider{dir: dir, ledger: ledger}, err
}

func (p *provider) close() error { return p.ledger.Close() }

func (p *provider) create(memberID string) error {
	shard := filepath.Join(p.dir, memberID[34:])
	dir := filepath.Join(shard, memberID)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	// always encodes
	content, _ := json.Marshal(map[string]any{"member_id": memberID, "generation": 1, "quota_bytes": 5 << 30})
	if err := p.link(filepath.Join(dir, "owner"), content); err != nil {
		return err
	}
	if err := errors.Join(syncDir(dir), syncDir(shard)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(p.ledger, `{"at":%q,"op":"create","member_id":%q,"generation":1}`+"\n",
		time.Now().UTC().Format(time.RFC3339Nano), memberID); err != nil {
		return err
	}
	p.created.Add(1)
	return p.ledger.Sync()
}

func (p *provider) link(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Join(p.dir, ".tmp"), "owner-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
