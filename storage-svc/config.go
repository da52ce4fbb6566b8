package main

import (
	"time"

	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/reconcile"
)

// MigrateConfig is the configuration of the migrate subcommand.
type MigrateConfig struct {
	service.Common
	ProviderConfig
	DatabaseURL service.Secret `env:"STORAGE_DATABASE_URL,required" help:"the Storage database; migrate needs the role that owns the schema"`
}

// Validate implements [service.Validator].
func (c MigrateConfig) Validate(check *service.Checks) {
	check.DatabaseURL("STORAGE_DATABASE_URL", c.DatabaseURL)
}

// ProbeConfig is the configuration of the healthcheck subcommand.
type ProbeConfig struct {
	service.TLSFiles
	Addr string `env:"STORAGE_HTTP_ADDR" envDefault:"127.0.0.1:8090" help:"internal listener"`
}

const (
	backoffBase = 200 * time.Millisecond // limit of the first random back-off; doubles
	deadLetters = 10_000                 // how many are kept, the newest
)

// config is the configuration of the serve subcommand.
type config struct {
	MigrateConfig
	ProbeConfig
	reconcile.Config
	Token            service.Secret `env:"STORAGE_TOKEN,required" help:"bearer token of callers, see docs/secrets.md"`
	ProviderTimeout  time.Duration  `env:"PROVIDER_TIMEOUT" envDefault:"5s" help:"for one call of the provider"`
	ProviderRate     float64        `env:"PROVIDER_RATE" envDefault:"3000" help:"calls of the provider per second, of all replicas together; 0 is unlimited"`
	Workers          int            `env:"STORAGE_WORKERS" envDefault:"16" help:"provider calls at the same time"`
	BackoffCap       time.Duration  `env:"BACKOFF_CAP" envDefault:"30s" help:"longest back-off"`
	OutageBackoffCap time.Duration  `env:"OUTAGE_BACKOFF_CAP" envDefault:"2s" help:"longest back-off, and longest time between probes, while the provider is away"`
	DeadLetterAge    time.Duration  `env:"DEAD_LETTER_RETENTION" envDefault:"720h" help:"how long a dead letter is kept after it was last seen"`
}

// lease is how long a worker has a storage to itself. What the call of the provider leaves of it is time to write
// the result.
func (c config) lease() time.Duration { return 3 * c.ProviderTimeout }

// Validate implements [service.Validator].
func (c config) Validate(check *service.Checks) {
	check.Addr("STORAGE_HTTP_ADDR", c.Addr)
	if text := c.Token.Reveal(); text != "" {
		_, err := service.OperatorTokens("service", text)
		check.NoError("STORAGE_TOKEN", err)
	}
	check.Require(c.ProviderTimeout > 0, "PROVIDER_TIMEOUT: must be positive")
	check.Require(c.ProviderRate >= 0 && c.ProviderRate <= 1e6, "PROVIDER_RATE: must be 0 to 1000000")
	check.Require(c.Workers >= 1 && c.Workers <= 1000, "STORAGE_WORKERS: must be 1 to 1000")
	check.Require(c.BackoffCap > 0, "BACKOFF_CAP: must be positive")
	check.Require(c.OutageBackoffCap > 0, "OUTAGE_BACKOFF_CAP: must be positive")
	check.Require(c.DeadLetterAge > 0, "DEAD_LETTER_RETENTION: must be positive")
}
