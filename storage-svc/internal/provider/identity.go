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
	longestIdentity = 1 << 10 // bytes that are read of one; ours are far below
	// identityAge is how old the database's answer may be. So long, at most, a
	// process goes on with a place that another run of migrate has given up.
	identityAge = 10 * time.Second
	// identityTimeout bounds the question to the database.
	identityTimeout = 2 * time.Second
)

// IdentityError says that a place is not the one that the database knows. It is an
// outage: nothing is created there, deleted there or concluded from what is missing.
type IdentityError struct{ text string }

// Error says what is wrong and what to do.
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

// Identity is what the database says of the place of its storages.
type Identity struct {
	ID      string // "" if there was no migrate yet
	Written bool   // the place has it too, as far as is known
}

// Identities is where the database keeps the identity.
type Identities interface {
	Identity(ctx context.Context) (Identity, error)
	// SetIdentity replaces was, unless that is another one by now.
	SetIdentity(ctx context.Context, was, next Identity) (written bool, err error)
	// HasStorages reports whether any storage is known to be ready, or was removed, or is to be.
	HasStorages(ctx context.Context) (bool, error)
}

// Place is a provider as migrate sees it: the methods check no identity.
type Place interface {
	// Prepare makes the directory or bucket if it is missing.
	Prepare(ctx context.Context) error
	// identity fails with an [IdentityError] if there is none that can be read.
	identity(ctx context.Context) (string, error)
	// identify writes the identity. Only if replace is set, another one may be there.
	identify(ctx context.Context, id string, replace bool) error
	// empty reports whether there is nothing of any member.
	empty(ctx context.Context) (bool, error)
}

// Identify gives a place and the database the same identity, and reports whether
// it wrote any. The database has it first, as not written yet: a process that dies
// in between leaves work for the next run, not a place that looks like another's.
// A place that was identified once is only compared, unless adopt is set: then the
// database takes the place as it is. An anonymous place gets a new identity, so
// that the one that was given up is refused should it come back.
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

// plausible refuses an empty place for a database that has storages: an older
// version was upgraded while the volume was not mounted.
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

// parseIdentity reads what formatIdentity wrote.
func parseIdentity(content []byte) (string, error) {
	id := strings.TrimSpace(string(content))
	if !identityForm.MatchString(id) {
		return "", errDamaged
	}
	return id, nil
}

func formatIdentity(id string) []byte { return []byte(id + "\n") }

// expectation knows which identity the place of each call must have. Safe for
// concurrent use.
type expectation struct {
	known Identities

	mu   sync.Mutex
	id   string
	read time.Time
}

// met compares the identity that a place was found to have, or the error about it,
// with the database's. Whatever is wrong concerns no member more than others: it is
// an outage, unless the context ended.
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

// compare asks the database if its last answer is old, or another than have.
func (e *expectation) compare(ctx context.Context, have string) error {
	e.mu.Lock()
	fresh := e.id == have && time.Since(e.read) < identityAge
	e.mu.Unlock()
	if fresh {
		return nil
	}
	// The answer is everybody's: it is not cut off because this call has used up its time.
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
