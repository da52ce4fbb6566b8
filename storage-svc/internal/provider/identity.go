package provider

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const (
	longestIdentity = 1 << 10 // most bytes read of an identity; ours are far shorter
	// identityAge is how old the database's answer may be. When another run of migrate gives up a place, a
	// process goes on using it for at most this long.
	identityAge = 10 * time.Second
	// identityTimeout bounds the query for the identity.
	identityTimeout = 2 * time.Second
)

// IdentityError means that a place is not the one that the database knows. It is an outage: nothing is created
// or deleted there, and nothing is concluded from what is missing.
type IdentityError struct{ text string }

// Error returns what is wrong and what to do.
func (e *IdentityError) Error() string { return e.text }

const (
	findRight = ": mount the right volume, or name the right directory or bucket"
	orAdopt   = "; if this is the right place, run storage-svc migrate --adopt-provider"
)

var (
	errNoDirectory = &IdentityError{"the provider directory does not exist" + findRight +
		"; storage-svc migrate --adopt-provider makes an empty one"}
	errAnonymous = &IdentityError{"the provider has no identity" + findRight + orAdopt}
	errDamaged   = &IdentityError{"the identity of the provider is damaged: restore it" + orAdopt}
	errForeign   = &IdentityError{"the provider belongs to another deployment" + findRight + orAdopt}
	errUnwritten = &IdentityError{"the database knows no identity of the provider yet: run storage-svc migrate"}
	errEmptied   = &IdentityError{"the database has storages but the provider is empty" + findRight + orAdopt}
	errRaced     = &IdentityError{"the identity of the provider was changed meanwhile: run storage-svc migrate again"}
)

// Identity is what the database knows about the place of its storages.
type Identity struct {
	ID      string // "" before the first migrate
	Written bool   // it has been written to the place as well
}

// Identities is where the database stores the identity.
type Identities interface {
	Identity(ctx context.Context) (Identity, error)
	// SetIdentity replaces was by next, unless the stored identity is no longer was.
	SetIdentity(ctx context.Context, was, next Identity) (written bool, err error)
	// HasStorages reports whether any storage is ready, was removed, or is to be removed.
	HasStorages(ctx context.Context) (bool, error)
}

// Place is a provider as migrate uses it. Its methods do not check the identity.
type Place interface {
	// Prepare makes the directory or bucket if it is missing.
	Prepare(ctx context.Context) error
	// identity returns an [IdentityError] if there is no identity that can be read.
	identity(ctx context.Context) (string, error)
	// identify writes the identity. It replaces another one only if replace is set.
	identify(ctx context.Context, id string, replace bool) error
	// empty reports whether the place has nothing of any member.
	empty(ctx context.Context) (bool, error)
}

// Identify gives a place and the database the same identity, and reports whether it wrote one. The database
// stores it first, as not written yet: if the process dies in between, the next run completes the work, and the
// place does not look like another deployment's.
//
// Once the identity is written, Identify only compares it, unless adopt is set: then the database accepts the
// place as it is. If that place has no identity, it gets a new one, not the old one. So the place that was
// given up is refused if it comes back.
func Identify(ctx context.Context, p Place, known Identities, adopt bool) (written bool, err error) {
	was, err := known.Identity(ctx)
	if err != nil {
		return false, err
	}
	if was.Written && !adopt {
		have, err := p.identity(ctx)
		if err == nil && have != was.ID {
			err = errForeign
		}
		return false, err
	}
	if err := p.Prepare(ctx); err != nil {
		return false, err
	}
	have, err := p.identity(ctx)
	anonymous := errors.Is(err, errAnonymous) || adopt && errors.Is(err, errDamaged)
	next := Identity{ID: was.ID}
	switch {
	case anonymous && !adopt:
		err = plausible(ctx, p, known)
	case anonymous:
		next.ID, err = "", nil
	case err == nil && adopt:
		next.ID = have
	case err == nil && have != was.ID:
		err = errForeign
	}
	if err != nil {
		return false, err
	}
	if next.ID == "" {
		next.ID = rand.Text()
	}
	if err := set(ctx, known, was, next); err != nil {
		return false, err
	}
	if anonymous {
		if err := p.identify(ctx, next.ID, adopt); err != nil {
			return false, err
		}
	}
	return true, set(ctx, known, next, Identity{ID: next.ID, Written: true})
}

// plausible refuses an empty place for a database that has storages: an older version may have been upgraded
// while the volume was not mounted.
func plausible(ctx context.Context, p Place, known Identities) error {
	has, err := known.HasStorages(ctx)
	if err != nil || !has {
		return err
	}
	empty, err := p.empty(ctx)
	if err == nil && empty {
		err = errEmptied
	}
	return err
}

func set(ctx context.Context, known Identities, was, next Identity) error {
	written, err := known.SetIdentity(ctx, was, next)
	if err == nil && !written {
		err = errRaced
	}
	return err
}

var identityForm = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// parseIdentity parses what formatIdentity returned.
func parseIdentity(content []byte) (string, error) {
	id := strings.TrimSpace(string(content))
	if !identityForm.MatchString(id) {
		return "", errDamaged
	}
	return id, nil
}

func formatIdentity(id string) []byte { return []byte(id + "\n") }

// expectation checks that the place of each call has the right identity. Safe for concurrent use.
type expectation struct {
	known Identities

	mu   sync.Mutex
	id   string
	read time.Time
}

// met compares the identity of a place, or the error of reading it, with the database's. An error concerns no
// member more than others, so it is an outage, unless the context has ended.
func (e *expectation) met(ctx context.Context, have string, err error) error {
	if err == nil {
		err = e.compare(ctx, have)
	}
	var f *provision.Failure
	switch wrong := new(IdentityError); {
	case errors.As(err, &wrong):
		return &provision.Failure{Class: provision.ClassOutage, Err: wrong}
	case errors.As(err, &f) && f.Class == provision.ClassTransient:
		return &provision.Failure{Class: provision.ClassOutage, Err: f.Err}
	}
	return err
}

// compare reads the identity from the database if the last answer is too old or differs from have.
func (e *expectation) compare(ctx context.Context, have string) error {
	e.mu.Lock()
	fresh := e.id == have && time.Since(e.read) < identityAge
	e.mu.Unlock()
	if fresh {
		return nil
	}
	// All callers use the answer: do not cancel the query because this call has used up its time.
	now := time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), identityTimeout)
	defer cancel()
	want, err := e.known.Identity(ctx)
	switch {
	case err != nil:
		err = fmt.Errorf("read the provider's identity from the database: %w", err)
		return &provision.Failure{Class: provision.ClassOutage, Err: err}
	case want.ID == "":
		return errUnwritten
	case want.ID != have:
		return errForeign
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.id, e.read = have, now
	return nil
}
