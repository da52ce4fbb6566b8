package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provider"
	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

// storeTimeout is for one look at the object store at the start.
const storeTimeout = 3 * time.Second

// ProviderConfig says where the storages are.
type ProviderConfig struct {
	Provider    string         `env:"PROVIDER" envDefault:"fs" help:"fs: a directory, s3: a bucket of an object store"`
	S3Endpoint  string         `env:"S3_ENDPOINT" help:"URL of the object store; wanted by PROVIDER=s3, as are bucket and keys"`
	S3Bucket    string         `env:"S3_BUCKET" help:"bucket of the storages; migrate creates it if it is missing"`
	S3Region    string         `env:"S3_REGION" envDefault:"us-east-1" help:"region of the bucket"`
	S3AccessKey service.Secret `env:"S3_ACCESS_KEY" help:"access key of the object store"`
	S3SecretKey service.Secret `env:"S3_SECRET_KEY" help:"secret key of the object store"`
}

// Validate reports everything that is wrong with the provider's configuration.
func (c ProviderConfig) Validate() []error {
	if c.Provider == "fs" {
		return nil
	}
	if c.Provider != "s3" {
		return []error{errors.New("PROVIDER: must be fs or s3")}
	}
	var errs []error
	for name, value := range map[string]string{"S3_BUCKET": c.S3Bucket, "S3_ACCESS_KEY": c.S3AccessKey.Reveal(), "S3_SECRET_KEY": c.S3SecretKey.Reveal()} {
		if value == "" {
			errs = append(errs, errors.New(name+": required with PROVIDER=s3"))
		}
	}
	if _, err := c.s3(nil); err != nil {
		errs = append(errs, errors.New("S3_ENDPOINT: must be an http or https URL without a path"))
	}
	return errs
}

func (c ProviderConfig) s3(ledger *provider.Ledger) (*provider.S3, error) {
	return provider.NewS3(provider.S3Config{
		Endpoint: c.S3Endpoint, Bucket: c.S3Bucket, Region: c.S3Region, AccessKey: c.S3AccessKey.Reveal(), SecretKey: c.S3SecretKey.Reveal(),
	}, ledger)
}

// newProvider returns the provider of the configuration. An object store that is
// away is waited for by its calls; one that cannot keep the promises is refused.
func newProvider(ctx context.Context, cfg config, st *store.Store) (provision.Provider, error) {
	var ledger *provider.Ledger
	if cfg.ProviderLedger != "" {
		var err error
		if ledger, err = provider.OpenLedger(cfg.ProviderLedger); err != nil {
			return nil, err
		}
	}
	p, err := openProvider(ctx, cfg, ledger)
	if err != nil {
		return nil, err
	}
	if cfg.Faults == "on" {
		return &provider.Faulty{Provider: p, Load: st.Fault}, nil
	}
	return p, nil
}

func openProvider(ctx context.Context, cfg config, ledger *provider.Ledger) (provision.Provider, error) {
	if cfg.Provider == "fs" {
		return provider.NewFS(cfg.ProviderDir, ledger)
	}
	p, err := cfg.s3(ledger)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := p.Check(ctx); errors.Is(err, provider.ErrUnconditional) {
		return nil, err
	}
	return p, nil
}

// ensureBucket waits for the object store, if there is one, and its bucket.
func ensureBucket(ctx context.Context, cfg ProviderConfig, log *slog.Logger) error {
	if cfg.Provider != "s3" {
		return nil
	}
	p, err := cfg.s3(nil)
	if err != nil {
		return err
	}
	done, cancel := context.WithCancel(ctx)
	defer cancel()
	service.Loop(done, "bucket", time.Minute, nil, log, func(ctx context.Context) (bool, error) {
		ctx, stop := context.WithTimeout(ctx, storeTimeout)
		defer stop()
		if err := p.EnsureBucket(ctx); err != nil {
			return false, err
		}
		cancel()
		return false, nil
	})
	return ctx.Err()
}
