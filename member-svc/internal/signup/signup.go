// Package signup turns a request into a member. It validates the request, asks the database what it knows,
// hashes the password in a bounded queue, and commits everything in one round trip. It depends on nothing but
// Postgres.
package signup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// Errors of [Service.SignUp], besides [Invalid], [password.ErrBusy] and database errors.
var (
	ErrTaken     = errors.New("the username is taken")
	ErrKeyReused = errors.New("the idempotency key belongs to another request")
)

// Config configures a [Service].
type Config struct {
	Plans           []string // open to everyone; the first one is the default
	Passwords       password.Policy
	Unicode         bool     // allowed in usernames, besides ASCII
	Reserved        Reserved // usernames that are refused
	Secret          []byte   // HMAC key of request fingerprints
	DatabaseTimeout time.Duration
}

// Service signs members up. It is safe for concurrent use.
type Service struct {
	cfg    Config
	store  *store.Store
	hasher *password.Hasher
	steps  saga.Steps
}

// New returns a service.
func New(cfg Config, st *store.Store, hasher *password.Hasher, steps saga.Steps) *Service {
	return &Service{cfg, st, hasher, steps}
}

// Answer is the response to a signup. Body is the same, byte for byte, whenever the request is repeated.
type Answer struct {
	SignupID string
	Body     json.RawMessage
	Replayed bool
}

// SignUp creates a member, or finds the member that an earlier request with the same idempotency key created.
// usernameKey is the [UsernameKey] of the request, "" if nobody can have its username. key is "" if there is none.
// SignUp depends on nothing but the Member database.
func (s *Service) SignUp(ctx context.Context, req wire.NewMember, usernameKey, key string) (Answer, error) {
	m, err := s.check(&req, usernameKey)
	if err != nil {
		return Answer{}, err
	}
	a := attempt{member: m, key: key, request: req}
	known, err := s.lookUp(ctx, a)
	if err != nil {
		return Answer{}, err
	}
	if answer, err := s.answerKnown(ctx, a, known); err != nil || answer.Body != nil {
		return answer, err
	}
	if a.member.PasswordHash, err = s.hasher.Hash(ctx, req.Password); err != nil {
		return Answer{}, err
	}
	return s.commit(ctx, a, known.Now)
}

// attempt is one request in progress.
type attempt struct {
	member   store.Member
	key      string
	request  wire.NewMember
	signupID string // "" before it is drawn
}

func (s *Service) commit(ctx context.Context, a attempt, now time.Time) (Answer, error) {
	sagaID, err := uuid.NewV7()
	if err != nil {
		return Answer{}, err
	}
	a.signupID = newSignupID()
	first, effects, _ := s.steps.Decide(saga.Saga{ID: sagaID.String(), MemberID: a.member.ID, SignupID: a.signupID},
		saga.Event{Kind: saga.SignedUp}, now)
	record := store.Record{Saga: first, Username: &a.member.Username, UsernameKey: &a.member.UsernameKey,
		Plan: a.member.Plan, Now: now}
	body, err := json.Marshal(NewView(record, s.steps))
	if err != nil {
		return Answer{}, err
	}
	var key *store.Key
	if a.key != "" {
		key = &store.Key{Value: a.key, Fingerprint: s.fingerprint(a.request), Response: body}
	}
	// If the client disconnects now, the commit still completes: the client's retry finds the member.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DatabaseTimeout)
	defer cancel()
	failure := s.store.SignUp(ctx, a.member, record, effects, key)
	if failure == nil {
		return Answer{SignupID: a.signupID, Body: body}, nil
	}
	// Either the name or the key exists, or the connection broke and the commit's outcome is unknown. Look the
	// signup up again, and check the key before the name, so that a client's own account is never "taken".
	known, err := s.lookUp(ctx, a)
	switch {
	case err != nil:
		return Answer{}, fmt.Errorf("%w; before: %w", err, failure)
	case known.Exists:
		return Answer{SignupID: a.signupID, Body: body}, nil
	}
	if answer, err := s.answerKnown(ctx, a, known); err != nil || answer.Body != nil {
		return answer, err
	}
	return Answer{}, failure
}

// answerKnown answers from what is known already. If it returns neither a Body nor an error, the signup goes on.
func (s *Service) answerKnown(ctx context.Context, a attempt, known store.Known) (Answer, error) {
	switch {
	case known.Response != nil:
		same, err := s.sameRequest(ctx, a.request, known)
		if err == nil && !same {
			err = ErrKeyReused
		}
		if err != nil {
			return Answer{}, err
		}
		var first View
		err = json.Unmarshal(known.Response, &first)
		return Answer{SignupID: first.SignupID, Body: known.Response, Replayed: true}, err
	case known.Taken:
		return Answer{}, ErrTaken
	}
	return Answer{}, nil
}

func (s *Service) lookUp(ctx context.Context, a attempt) (store.Known, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DatabaseTimeout)
	defer cancel()
	return s.store.LookUp(ctx, a.member.UsernameKey, a.key, a.signupID)
}

// Find returns the signup with this id, or [store.ErrNotFound].
func (s *Service) Find(ctx context.Context, signupID string) (View, error) {
	if random, ok := strings.CutPrefix(signupID, idPrefix); !ok || strings.Trim(random, "0123456789abcdef") != "" {
		return View{}, store.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DatabaseTimeout)
	defer cancel()
	r, err := s.store.Find(ctx, signupID)
	return NewView(r, s.steps), err
}

const idPrefix = "sgn_"

// newSignupID returns a capability: anyone who knows it may read the signup.
func newSignupID() string {
	var b [20]byte
	_, _ = rand.Read(b[:]) // never fails
	return idPrefix + hex.EncodeToString(b[:])
}
