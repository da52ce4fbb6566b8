package main

import (
	"slices"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// MigrateConfig is the configuration of the migrate subcommand.
type MigrateConfig struct {
	service.Common
	DatabaseURL service.Secret `env:"MEMBER_DATABASE_URL,required" help:"Member database; migrate needs the role that owns the schema"`
}

// Validate implements [service.Validator].
func (c MigrateConfig) Validate(check *service.Checks) {
	check.DatabaseURL("MEMBER_DATABASE_URL", c.DatabaseURL)
}

// ProbeConfig is the configuration of the healthcheck subcommand.
type ProbeConfig struct {
	service.TLSFiles
	AdminAddr string `env:"MEMBER_ADMIN_ADDR" envDefault:"127.0.0.1:8081" help:"listener for operators, probes and metrics"`
}

// Config is the configuration of the serve subcommand.
type Config struct {
	MigrateConfig
	ProbeConfig
	StepConfig
	ReconcileConfig
	StuckConfig
	LimitConfig
	CredentialsConfig
	MailConfig
	HTTPAddr          string         `env:"MEMBER_HTTP_ADDR" envDefault:"127.0.0.1:8080" help:"public listener"`
	AdminTokensFile   string         `env:"ADMIN_TOKENS_FILE,required" help:"lines name:role:sha256-hex[:expiry]"`
	IdempotencySecret service.Secret `env:"IDEMPOTENCY_SECRET,required" help:"32 characters or more, docs/secrets.md"`
	SessionLifetime   time.Duration  `env:"SESSION_LIFETIME" envDefault:"168h" help:"until a member has to sign in again"`
	PlansAllowed      []string       `env:"PLANS_ALLOWED" envDefault:"free" help:"plans that anyone may choose; the first is the default"`
	ConsoleDemoURL    service.Secret `env:"CONSOLE_DEMO_URL" help:"URL of the fault screen of a demo; the console links to it"`
	RedrivePerSecond  int            `env:"REDRIVE_PER_SECOND" envDefault:"200" help:"repeated commands per second, of all replicas together"`
}

// Validate implements [service.Validator].
func (c Config) Validate(check *service.Checks) {
	check.Require(len(c.IdempotencySecret.Reveal()) >= 32, "IDEMPOTENCY_SECRET: must have at least 32 characters")
	check.Addr("MEMBER_HTTP_ADDR", c.HTTPAddr)
	check.Addr("MEMBER_ADMIN_ADDR", c.AdminAddr)
	check.Require(c.SessionLifetime > 0, "SESSION_LIFETIME: must be positive")
	unknown := func(p string) bool { return store.QuotaBytes[p] == 0 }
	check.Require(len(c.PlansAllowed) > 0 && !slices.ContainsFunc(c.PlansAllowed, unknown),
		"PLANS_ALLOWED: must list some of free, plus, pro")
	check.Require(c.RedrivePerSecond > 0, "REDRIVE_PER_SECOND: must be positive")
}
