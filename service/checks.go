package service

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Validator is a configuration, or a part of one, that checks its values. It need not call the structs that it
// embeds: [LoadConfig] does.
type Validator interface {
	// Validate reports what is wrong to check.
	Validate(check *Checks)
}

// Checks collects what is wrong with a configuration.
type Checks struct{ errs []error }

// Require records a problem unless ok is set. The problem begins with "NAME: ", or with "NAME, NAME: ", and
// never contains a value.
func (c *Checks) Require(ok bool, problem string) {
	if !ok {
		c.errs = append(c.errs, errors.New(problem))
	}
}

// NoError records err, if there is one, as a problem of the variable of this name.
func (c *Checks) NoError(name string, err error) {
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s: %w", name, err))
	}
}

// Addr checks that the variable of this name is host:port.
func (c *Checks) Addr(name, value string) {
	_, _, err := net.SplitHostPort(value)
	c.Require(err == nil, name+": must be host:port")
}

// DatabaseURL checks that the variable of this name is the URL of a Postgres database, or empty.
func (c *Checks) DatabaseURL(name string, url Secret) {
	_, err := pgxpool.ParseConfig(url.Reveal())
	c.Require(err == nil || url.Reveal() == "", name+": must be postgres://user:password@host/database, with special "+
		"characters of the password escaped and a readable sslrootcert")
}

// Err returns the recorded problems as one error, or nil.
func (c *Checks) Err() error { return errors.Join(c.errs...) }

// all calls each Validator of a struct: those that it embeds, then itself. What they report twice, because Go
// promotes the methods of embedded structs, counts once.
func (c *Checks) all(v reflect.Value) {
	for i := range v.NumField() {
		if v.Type().Field(i).Anonymous {
			c.all(v.Field(i))
		}
	}
	var own Checks
	if validator, ok := v.Interface().(Validator); ok {
		validator.Validate(&own)
	}
	for _, err := range own.errs {
		same := func(other error) bool { return other.Error() == err.Error() }
		if !slices.ContainsFunc(c.errs, same) {
			c.errs = append(c.errs, err)
		}
	}
}
