package main

import (
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// MigrateConfig is the configuration of the migrate subcommand.
type MigrateConfig struct {
	service.Common
	DatabaseURL service.Secret `env:"MEMBER_DATABASE_URL,required" help:"Member database; migrate wants the owner's role"`
}

// Validate lists everything that is wrong.
func (c MigrateConfig) Validate() []error {
	return append(c.Common.Validate(), service.CheckDatabaseURL("MEMBER_DATABASE_URL", c.DatabaseURL)...)
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
	ConsoleDemoURL    service.Secret `env:"CONSOLE_DEMO_URL" help:"page on which the faults of a demo are played; the console links to it"`
	RedrivePerSecond  int            `env:"REDRIVE_PER_SECOND" envDefault:"200" help:"repeated commands per second, of all replicas together"`
}

// Validate returns everything that is wrong with the configuration.
func (c Config) Validate() []error {
	errs := slices.Concat(c.MigrateConfig.Validate(), c.TLSFiles.Validate(),
		c.StepConfig.problems(), c.ReconcileConfig.problems(), c.StuckConfig.problems(),
		c.LimitConfig.problems(), c.CredentialsConfig.problems(), c.MailConfig.problems())
	require := func(ok bool, name, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: %s", name, what))
		}
	}
	require(len(c.IdempotencySecret.Reveal()) >= 32, "IDEMPOTENCY_SECRET", "must have at least 32 characters")
	for _, v := range [][2]string{{"MEMBER_HTTP_ADDR", c.HTTPAddr}, {"MEMBER_ADMIN_ADDR", c.AdminAddr}} {
		_, _, err := net.SplitHostPort(v[1])
		require(err == nil, v[0], "must be host:port")
	}
	require(c.SessionLifetime > 0, "SESSION_LIFETIME", "must be positive")
	require(len(c.PlansAllowed) > 0 &&
		!slices.ContainsFunc(c.PlansAllowed, func(p string) bool { return store.QuotaBytes[p] == 0 }),
		"PLANS_ALLOWED", "must list some of free, plus, pro")
	require(c.RedrivePerSecond > 0, "REDRIVE_PER_SECOND", "must be positive")
	return errs
}
