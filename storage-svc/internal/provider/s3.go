package provider

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const (
	memberPrefix = "members/"
	identityKey  = "identity"
	selfTestKey  = "self-test"
	// verifiedFor is how long the bucket counts as the right one before it is checked again.
	verifiedFor  = identityAge
	longestOwner = 16 << 10 // most bytes read of a marker; ours are far shorter
	// conditionRounds bounds how often a marker that has changed is read again. A marker changes twice in its
	// life: it is created, and it becomes a tombstone.
	conditionRounds = 4
)

// ErrUnconditional means that the object store ignores the conditions of a PUT: two creators could both
// succeed, and a tombstone could be overwritten.
var ErrUnconditional = errors.New("the object store ignores If-None-Match or If-Match")

// S3Config says where an object store keeps the storages.
type S3Config struct {
	Endpoint  string // URL without a path; http or https
	Bucket    string
	Region    string
	AccessKey string
	SecretKey string
	Transport http.RoundTripper // nil for the default
}

// S3 keeps storages in a bucket, shared by any number of processes:
//
//	identity                    written by migrate, see [Identify]
//	members/<member id>/owner   the marker
//	members/<member id>/…       the member's data
//
// The marker is created by a PUT with If-None-Match: *, and replaced by a tombstone with If-Match, so each
// change knows exactly what it changed. Nothing is repeated blindly: after a PUT with unknown outcome, the
// marker is read.
//
// Until the store has shown that it honours conditions, and that the bucket has the right identity, every call
// fails. The identity is checked again from time to time, after every outage, before a tombstone is written
// where there is no marker, and before a change is reported done: a change that went to another bucket is
// repeated in the right one.
type S3 struct {
	client   *minio.Core
	bucket   string
	region   string
	expected expectation
	ledger   *Ledger

	conditions atomic.Bool               // the store honours them
	verified   atomic.Pointer[time.Time] // when the bucket was last the right one; nil: unknown
	turn       chan struct{}             // held while checking
}

// NewS3 returns a provider without calling the store. The ledger may be nil.
func NewS3(cfg S3Config, known Identities, ledger *Ledger) (*S3, error) {
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, errors.New("object store: the endpoint must be an http or https URL")
	}
	next := cfg.Transport
	if next == nil {
		next = newTransport()
	}
	client, err := minio.NewCore(u.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""),
		Secure: u.Scheme == "https", Region: cfg.Region, Transport: transport{next},
		MaxRetries: 1, // the worker repeats calls at its own pace
	})
	if err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	return &S3{
		client: client, bucket: cfg.Bucket, region: cfg.Region,
		expected: expectation{known: known}, ledger: ledger, turn: make(chan struct{}, 1),
	}, nil
}

// Prepare implements [Place].
func (p *S3) Prepare(ctx context.Context) error {
	exists, err := p.client.BucketExists(ctx, p.bucket)
	if err != nil || exists {
		return failure(err)
	}
	err = p.client.MakeBucket(ctx, p.bucket, minio.MakeBucketOptions{Region: p.region})
	var r minio.ErrorResponse
	if errors.As(err, &r) && r.Code == "BucketAlreadyOwnedByYou" { // another process was faster
		return nil
	}
	return failure(err)
}

func (p *S3) identity(ctx context.Context) (string, error) {
	content, _, err := p.read(ctx, identityKey)
	switch {
	case errors.Is(err, errAbsent):
		return "", errAnonymous
	case err != nil:
		return "", err
	}
	return parseIdentity(content)
}

func (p *S3) identify(ctx context.Context, id string, replace bool) error {
	options := minio.PutObjectOptions{ContentType: "text/plain"}
	if !replace {
		options.SetMatchETagExcept("*")
	}
	return p.write(ctx, identityKey, formatIdentity(id), options)
}

func (p *S3) empty(ctx context.Context) (bool, error) {
	ids, err := p.members(ctx, "", 1)
	return len(ids) == 0, err
}

// Check checks that the bucket is the right one and that the store honours conditions. It returns
// ErrUnconditional if the store does not, and another error if this is not known.
func (p *S3) Check(ctx context.Context) error {
	if err := p.verify(ctx); err != nil || p.conditions.Load() {
		return err
	}
	const strange = "00000000000000000000000000000000"
	err := p.put(ctx, selfTestKey, marker{}, "")
	if err == nil {
		err = p.put(ctx, selfTestKey, marker{}, "")
	}
	if errors.Is(err, errChanged) {
		err = p.put(ctx, selfTestKey, marker{}, strange)
	}
	switch {
	case errors.Is(err, errChanged):
		p.conditions.Store(true)
		return nil
	case err == nil:
		return &provision.Failure{Class: provision.ClassOutage, Err: ErrUnconditional}
	}
	return err
}

// verify checks with the store that the bucket is the right one.
func (p *S3) verify(ctx context.Context) error {
	now := time.Now()
	id, err := p.identity(ctx)
	if err := p.expected.met(ctx, id, err); err != nil {
		p.verified.Store(nil)
		return err
	}
	p.verified.Store(&now)
	return nil
}

func (p *S3) trusted() bool {
	at := p.verified.Load()
	return p.conditions.Load() && at != nil && time.Since(*at) < verifiedFor
}

// ready makes sure that the bucket was the right one a short time ago.
func (p *S3) ready(ctx context.Context) error {
	return p.once(ctx, p.trusted, p.Check)
}

// confirm makes sure that the bucket is still the right one after a change.
func (p *S3) confirm(ctx context.Context) error {
	done := time.Now()
	return p.once(ctx, func() bool {
		at := p.verified.Load()
		return at != nil && at.After(done)
	}, p.verify)
}

// once lets one caller ask the store while the others wait: its answer may be enough for them.
func (p *S3) once(ctx context.Context, known func() bool, ask func(context.Context) error) error {
	if known() {
		return nil
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	if known() {
		return nil
	}
	return ask(ctx)
}

// doubt makes the next call verify the bucket if err is an outage: afterwards there may be another store, or
// another bucket of the same name.
func (p *S3) doubt(err error) error {
	var f *provision.Failure
	if errors.As(err, &f) && f.Class == provision.ClassOutage {
		p.verified.Store(nil)
	}
	return err
}

func folder(memberID string) string   { return memberPrefix + memberID + "/" }
func ownerKey(memberID string) string { return folder(memberID) + ownerFile }

// Create makes the member's storage exist; it may exist already.
func (p *S3) Create(ctx context.Context, s provision.Storage) error {
	return p.on(ctx, s, p.create)
}

// on checks the bucket and the ledger, and runs an operation on a member.
func (p *S3) on(ctx context.Context, s provision.Storage, do func(context.Context, provision.Storage) error) error {
	if !isMemberID(s.MemberID) {
		return errNoMemberID
	}
	if err := errors.Join(p.ready(ctx), p.ledger.Ready(ctx)); err != nil {
		return err
	}
	return p.doubt(do(ctx, s))
}

func (p *S3) create(ctx context.Context, s provision.Storage) error {
	m := marker{MemberID: s.MemberID, Generation: s.Generation, QuotaBytes: s.QuotaBytes, Act: rand.Text()}
	err := p.put(ctx, ownerKey(s.MemberID), m, "")
	if err == nil {
		return p.record(ctx, m)
	}
	if !unknown(err) {
		return err
	}
	have, _, readErr := p.readMarker(ctx, s.MemberID)
	if errors.Is(readErr, errAbsent) {
		return err // it did not happen; the worker tries again
	}
	if readErr != nil {
		return readErr
	}
	if err := have.admits(m); err != nil && !errors.Is(err, provision.ErrTombstoned) {
		return err
	}
	return errors.Join(p.record(ctx, have), have.admits(m))
}

// Remove makes the member's storage not exist, for good. It writes the tombstone first, then deletes the data.
// If it fails in between, the next call deletes the data that is left.
func (p *S3) Remove(ctx context.Context, s provision.Storage) error {
	return p.on(ctx, s, p.remove)
}

func (p *S3) remove(ctx context.Context, s provision.Storage) error {
	m, err := p.writeTombstone(ctx, s)
	if err != nil {
		return err
	}
	if err := p.record(ctx, m); err != nil {
		return err
	}
	return p.removeData(ctx, s.MemberID)
}

// writeTombstone makes sure that the marker is a tombstone, and returns it.
func (p *S3) writeTombstone(ctx context.Context, s provision.Storage) (marker, error) {
	var inDoubt error // error of the previous PUT
	for range conditionRounds {
		have, etag, err := p.readMarker(ctx, s.MemberID)
		switch {
		case errors.Is(err, errAbsent):
			if err := p.verify(ctx); err != nil { // rare: a storage that is removed was normally created before
				return marker{}, err
			}
		case err != nil:
			return marker{}, err
		case have.MemberID != s.MemberID:
			return marker{}, have.admits(marker{MemberID: s.MemberID})
		case have.Tombstone:
			return have, nil
		}
		if inDoubt != nil && !errors.Is(inDoubt, errChanged) {
			return marker{}, inDoubt // the previous PUT did not happen either
		}
		m := marker{MemberID: s.MemberID, Generation: s.Generation, Tombstone: true, Act: rand.Text()}
		if err == nil {
			m.Replaced = &have
		}
		if inDoubt = p.put(ctx, ownerKey(s.MemberID), m, etag); inDoubt == nil {
			return m, nil
		}
		if !unknown(inDoubt) {
			return marker{}, inDoubt
		}
	}
	return marker{}, inDoubt
}

// record confirms the bucket after a marker was read or written, and notes the marker's changes in the ledger.
// Nothing is reported done before that.
func (p *S3) record(ctx context.Context, m marker) error {
	if err := p.confirm(ctx); err != nil {
		return err
	}
	return p.note(m)
}

// note writes the ledger lines of the changes that a marker records. Another process may have made them and
// died before it wrote them.
func (p *S3) note(m marker) error {
	if m.Tombstone && m.Replaced == nil {
		return nil // nothing was removed
	}
	if m.Tombstone {
		if err := p.note(*m.Replaced); err != nil {
			return err
		}
	}
	op := OpCreate
	if m.Tombstone {
		op = OpDelete
	}
	return p.ledger.AppendOnce(Line{
		Op: op, MemberID: m.MemberID, Generation: m.Generation, Key: ownerKey(m.MemberID), Act: m.Act,
	})
}

// put writes a marker where there is none or, with an etag, in place of the marker with that etag. It returns
// errChanged if the condition does not hold.
func (p *S3) put(ctx context.Context, key string, m marker, etag string) error {
	content, err := json.Marshal(m)
	if err != nil {
		return err
	}
	options := minio.PutObjectOptions{ContentType: "application/json"}
	if etag == "" {
		options.SetMatchETagExcept("*")
	} else {
		options.SetMatchETag(etag)
	}
	if err = p.write(ctx, key, content, options); errors.Is(err, errAbsent) { // no object has that etag
		return errChanged
	}
	return err
}

func (p *S3) write(ctx context.Context, key string, content []byte, options minio.PutObjectOptions) error {
	sum := sha256.Sum256(content)
	_, err := p.client.PutObject(ctx, p.bucket, key, bytes.NewReader(content), int64(len(content)), "",
		hex.EncodeToString(sum[:]), options)
	return failure(err)
}

// readMarker reads a member's marker. It returns errAbsent if there is none.
func (p *S3) readMarker(ctx context.Context, memberID string) (m marker, etag string, err error) {
	content, etag, err := p.read(ctx, ownerKey(memberID))
	if err != nil {
		return m, "", err
	}
	m, err = parseMarker(content)
	return m, etag, err
}

func (p *S3) read(ctx context.Context, key string) (content []byte, etag string, err error) {
	body, info, _, err := p.client.GetObject(ctx, p.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, "", failure(err)
	}
	defer body.Close()
	content, err = io.ReadAll(io.LimitReader(body, longestOwner)) // a marker that is cut off counts as damaged
	return content, info.ETag, failure(err)
}
