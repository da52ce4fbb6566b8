package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

// storeTimeout bounds one check of the provider at the start.
const storeTimeout = 3 * time.Second

// ProviderConfig says where the storages are.
type ProviderConfig struct {
	Provider    string         `env:"PROVIDER" envDefault:"fs" help:"fs: a directory, s3: a bucket of an object store"`
	ProviderDir string         `env:"PROVIDER_DIR" help:"directory of the storages, made by migrate; required with PROVIDER=fs"`
	S3Endpoint  string         `env:"S3_ENDPOINT" help:"URL of the object store; required with PROVIDER=s3, as are bucket and keys"`
	S3Bucket    string         `env:"S3_BUCKET" help:"bucket of the storages; migrate creates it if it is missing"`
	S3Region    string         `env:"S3_REGION" envDefault:"us-east-1" help:"region of the bucket"`
	S3AccessKey service.Secret `env:"S3_ACCESS_KEY" help:"access key of the object store"`
	S3SecretKey service.Secret `env:"S3_SECRET_KEY" help:"secret key of the object store"`
	// Ledger is a file of its own, which may be on another volume.
	Ledger string `env:"PROVIDER_LEDGER" help:"file for audits of creates and deletes, see docs/runbook.md"`
}

// Validate implements [service.Validator].
func (c ProviderConfig) Validate(check *service.Checks) {
	check.Require(c.Provider == "fs" || c.Provider == "s3", "PROVIDER: must be fs or s3")
	check.Require(c.Provider != "fs" || c.ProviderDir != "", "PROVIDER_DIR: required with PROVIDER=fs")
	if c.Provider != "s3" {
		return
	}
	check.Require(c.S3Bucket != "", "S3_BUCKET: required with PROVIDER=s3")
	check.Require(c.S3AccessKey.Reveal() != "", "S3_ACCESS_KEY: required with PROVIDER=s3")
	check.Require(c.S3SecretKey.Reveal() != "", "S3_SECRET_KEY: required with PROVIDER=s3")
	_, err := c.s3(nil, nil)
	check.Require(err == nil, "S3_ENDPOINT: must be an http or https URL without a path")
}

func (c ProviderConfig) s3(known provider.Identities, ledger *provider.Ledger) (*provider.S3, error) {
	return provider.NewS3(provider.S3Config{
		Endpoint: c.S3Endpoint, Bucket: c.S3Bucket, Region: c.S3Region, AccessKey: c.S3AccessKey.Reveal(),
		SecretKey: c.S3SecretKey.Reveal(),
	}, known, ledger)
}

// ledger returns nil if no ledger is configured.
func (c ProviderConfig) ledger(known provider.Identities) *provider.Ledger {
	if c.Ledger == "" {
		return nil
	}
	return provider.NewLedger(c.Ledger, known)
}

// place is what both providers implement.
type place interface {
	provision.Provider
	provider.Place
	Check(ctx context.Context) error
}

func (c ProviderConfig) newPlace(known provider.Identities, ledger *provider.Ledger) (place, error) {
	if c.Provider == "fs" {
		return provider.NewFS(c.ProviderDir, known, ledger), nil
	}
	return c.s3(known, ledger)
}

// newProvider returns the configured provider. If the provider is unavailable or has the wrong identity,
// newProvider only logs that, and calls fail until it is fixed. A store that ignores conditions is an error.
func newProvider(ctx context.Context, cfg config, st *store.Store, log *slog.Logger) (provision.Provider, error) {
	ledger := cfg.ledger(st)
	p, err := cfg.newPlace(st, ledger)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	switch err := errors.Join(p.Check(ctx), ledger.Ready(ctx)); {
	case errors.Is(err, provider.ErrUnconditional):
		return nil, err
	case err != nil:
		log.Error("no storage is created or removed until the provider is fixed", "error", err)
	}
	if cfg.FaultsAllowed == "on" {
		return &provider.Faulty{Provider: p, Load: st.Fault}, nil
	}
	return p, nil
}

// identify gives the provider and the database the same identity, and begins the ledger. It waits for an object
// store that is unavailable, but not for a decision that a person has to make.
func identify(ctx context.Context, cfg MigrateConfig, adopt bool, log *slog.Logger) error {
	return program.WithDatabase(ctx, cfg.DatabaseURL, cfg.Common, log, func(pool *pgxpool.Pool) error {
		return identifyIn(ctx, store.New(pool, nil), cfg.ProviderConfig, adopt, log)
	})
}

func identifyIn(ctx context.Context, known *store.Store, cfg ProviderConfig, adopt bool, log *slog.Logger) error {
	p, err := cfg.newPlace(known, nil)
	if err != nil {
		return err
	}
	done, cancel := context.WithCancel(ctx)
	defer cancel()
	var refused error
	service.Loop(done, "provider", time.Minute, nil, log, func(ctx context.Context) (bool, error) {
		ctx, stop := context.WithTimeout(ctx, storeTimeout)
		defer stop()
		written, err := provider.Identify(ctx, p, known, adopt)
		if wrong := new(provider.IdentityError); errors.As(err, &wrong) || err != nil && cfg.Provider == "fs" {
			refused = err
		} else if err != nil {
			return false, err
		}
		if written {
			log.Info("the provider has its identity; every call checks it")
		}
		cancel()
		return false, nil
	})
	if err := errors.Join(refused, ctx.Err()); err != nil {
		return err
	}
	ledger := cfg.ledger(known)
	if adopt && ledger != nil {
		return ledger.Begin()
	}
	return ledger.Ready(ctx)
}
