package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/api"
	"github.com/signup-saga/signup-saga/member-svc/internal/outbound/mail"
	"github.com/signup-saga/signup-saga/member-svc/internal/outbound/webhook"
	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
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

// StepConfig configures the essential steps of a signup.
type StepConfig struct {
	ProvisionPromise time.Duration `env:"PROVISION_PROMISE" envDefault:"30s" help:"after which a signup counts as delayed and its command is repeated"`
	SagaGiveUp       time.Duration `env:"SAGA_GIVE_UP" envDefault:"24h" help:"after which an unanswered signup is shown to operators"`
}

// Validate implements [service.Validator].
func (c StepConfig) Validate(check *service.Checks) {
	check.Require(c.ProvisionPromise > 0 && c.SagaGiveUp > c.ProvisionPromise,
		"PROVISION_PROMISE, SAGA_GIVE_UP: must be positive, the promise shorter")
}

// steps returns the essential steps of every signup. Sagas store the index of their step, so new steps may only
// be appended.
func (c StepConfig) steps() saga.Steps {
	return saga.Steps{
		saga.Provision(c.ProvisionPromise, c.SagaGiveUp),
	}
}

// ReservedConfig configures which usernames are reserved.
type ReservedConfig struct {
	Names string `env:"USERNAMES_RESERVED" envDefault:"standard" help:"refused usernames, see docs/api.md, or none"`
}

// CredentialsConfig configures usernames, passwords and their hashing.
type CredentialsConfig struct {
	ReservedConfig
	Usernames       string         `env:"USERNAMES" envDefault:"ascii" help:"ascii, or unicode: letters of all scripts; look-alike names are not detected"`
	PasswordMin     int            `env:"PASSWORD_MIN" envDefault:"15" help:"shortest password, in characters"`
	Peppers         service.Secret `env:"PASSWORD_PEPPERS" help:"keys of hashes, see docs/passwords.md"`
	HashMemoryKiB   uint32         `env:"HASH_MEMORY_KIB" envDefault:"7168" help:"argon2id memory per hash"`
	HashTime        uint32         `env:"HASH_TIME" envDefault:"5" help:"argon2id passes"`
	HashConcurrency int            `env:"HASH_CONCURRENCY" envDefault:"0" help:"hashes at a time; 0 means one per core, if the budget allows it"`
	HashBudgetMiB   uint32         `env:"HASH_MEMORY_BUDGET_MIB" envDefault:"64" help:"memory of all hashes at a time"`
	HashQueueWait   time.Duration  `env:"HASH_QUEUE_WAIT" envDefault:"2s" help:"longest wait for a password hash, before 503 busy"`
}

// Validate implements [service.Validator].
func (c CredentialsConfig) Validate(check *service.Checks) {
	check.Require(c.Usernames == "ascii" || c.Usernames == "unicode", "USERNAMES: must be ascii or unicode")
	check.Require(c.PasswordMin > 0 && c.PasswordMin <= password.MaxLength,
		fmt.Sprintf("PASSWORD_MIN: must be 1 to %d", password.MaxLength))
	check.Require(c.HashMemoryKiB >= 8 && c.HashTime > 0, "HASH_MEMORY_KIB, HASH_TIME: must be at least 8 and 1")
	check.Require(c.HashConcurrency >= 0 && c.HashQueueWait > 0,
		"HASH_CONCURRENCY, HASH_QUEUE_WAIT: must not be negative")
	check.Require(int64(c.HashMemoryKiB)*int64(max(c.HashConcurrency, 1)) <= c.budgetKiB(),
		"HASH_MEMORY_BUDGET_MIB: must hold HASH_CONCURRENCY hashes of HASH_MEMORY_KIB each, or one")
	_, err := password.ParsePeppers(c.Peppers.Reveal())
	check.NoError("PASSWORD_PEPPERS", err)
}

func (c CredentialsConfig) budgetKiB() int64 { return int64(c.HashBudgetMiB) << 10 }

func (c CredentialsConfig) hasher() (*password.Hasher, error) {
	peppers, err := password.ParsePeppers(c.Peppers.Reveal())
	concurrency := c.HashConcurrency
	if concurrency == 0 { // GOMAXPROCS respects container limits
		concurrency = int(min(int64(runtime.GOMAXPROCS(0)), c.budgetKiB()/int64(c.HashMemoryKiB)))
	}
	return password.NewHasher(password.HashConfig{
		Cost:        password.Cost{MemoryKiB: c.HashMemoryKiB, Time: c.HashTime, Parallelism: 1},
		Concurrency: concurrency, BudgetKiB: c.budgetKiB(), Wait: c.HashQueueWait, Peppers: peppers,
	}), err
}

// LimitConfig limits how much one client, and all clients together, may use.
type LimitConfig struct {
	SignupRate     int            `env:"SIGNUP_RATE_PER_MINUTE" envDefault:"60" help:"signups, see docs/availability.md"`
	SessionRate    int            `env:"SESSION_RATE_PER_MINUTE" envDefault:"60" help:"passwords tried, likewise"`
	MaxConnections int            `env:"MAX_CONNECTIONS" envDefault:"8192" help:"per listener, see docs/availability.md"`
	MaxStreams     int            `env:"MAX_STREAMS" envDefault:"4096" help:"signup event streams at a time, likewise"`
	TrustedProxies proxyAddresses `env:"TRUSTED_PROXIES" help:"networks of reverse proxies, see docs/reverse-proxy.md"`
}

// proxyAddresses are addresses and networks in text form, see [service.ParseProxies].
type proxyAddresses []string

// Validate implements [service.Validator].
func (c LimitConfig) Validate(check *service.Checks) {
	for name, value := range map[string]int{
		"SIGNUP_RATE_PER_MINUTE": c.SignupRate, "SESSION_RATE_PER_MINUTE": c.SessionRate,
		"MAX_CONNECTIONS": c.MaxConnections, "MAX_STREAMS": c.MaxStreams,
	} {
		check.Require(value > 0 && value <= 1e9, name+": must be positive")
	}
	_, err := service.ParseProxies(c.TrustedProxies)
	check.NoError("TRUSTED_PROXIES", err)
}

func (c LimitConfig) limits() api.Limits {
	return api.Limits{Signups: c.SignupRate, Passwords: c.SessionRate, Streams: c.MaxStreams}
}

// StuckConfig configures the notices of stuck signups.
type StuckConfig struct {
	StuckAfter    time.Duration  `env:"STUCK_AFTER" envDefault:"15m" help:"after which an unanswered signup is reported with signup.stuck"`
	WebhookURL    service.Secret `env:"STUCK_WEBHOOK_URL" help:"receives each signup.stuck; without it nothing is sent"`
	WebhookSecret service.Secret `env:"STUCK_WEBHOOK_SECRET" help:"key that signs them (standardwebhooks.com): whsec_ and 24 to 64 bytes in base64"`
}

// Validate implements [service.Validator].
func (c StuckConfig) Validate(check *service.Checks) {
	check.Require(c.StuckAfter > 0, "STUCK_AFTER: must be positive")
	if u := c.WebhookURL.Reveal(); u != "" {
		check.NoError("STUCK_WEBHOOK_URL", webhook.CheckURL(u))
		_, err := webhook.ParseSecret(c.WebhookSecret.Reveal())
		check.NoError("STUCK_WEBHOOK_SECRET", err)
	}
}

// MailConfig configures the welcome mail and the mail server.
type MailConfig struct {
	SMTPAddr string `env:"SMTP_ADDR" envDefault:"127.0.0.1:1025" help:"mail server, host:port"`
	MailFrom string `env:"MAIL_FROM" envDefault:"welcome@localhost" help:"sender, as address or as Name <address>"`
	MailHelo string `env:"MAIL_HELO" help:"name for EHLO; by default the host's full name, else its address"`
	MailTLS  string `env:"MAIL_TLS" envDefault:"opportunistic" help:"opportunistic, required, implicit or off"`

	MailMaxAge time.Duration `env:"MAIL_MAX_AGE" envDefault:"24h" help:"after which an unsent mail is dropped"`

	SMTPCAFile   string `env:"SMTP_CA_FILE" help:"authorities of the mail server, PEM; by default the system's"`
	SMTPCertFile string `env:"SMTP_CERT_FILE" help:"client certificate for the mail server, PEM"`
	SMTPKeyFile  string `env:"SMTP_KEY_FILE" help:"private key of SMTP_CERT_FILE, PEM"`

	SMTPUsername string         `env:"SMTP_USERNAME" help:"user of the mail server, over TLS only"`
	SMTPPassword service.Secret `env:"SMTP_PASSWORD" help:"password of SMTP_USERNAME"`
}

// Validate implements [service.Validator].
func (c MailConfig) Validate(check *service.Checks) {
	check.Addr("SMTP_ADDR", c.SMTPAddr)
	check.NoError("MAIL_FROM", mail.CheckSender(c.MailFrom))
	if c.MailHelo != "" {
		check.NoError("MAIL_HELO", mail.CheckHello(c.MailHelo))
	}
	policies := strings.Join(mail.TLSPolicies, ", ")
	check.Require(slices.Contains(mail.TLSPolicies, c.MailTLS), "MAIL_TLS: must be one of "+policies)
	check.Require((c.SMTPCertFile == "") == (c.SMTPKeyFile == ""), "SMTP_CERT_FILE, SMTP_KEY_FILE: one needs the other")
	known := (c.SMTPUsername == "") == (c.SMTPPassword.Reveal() == "")
	check.Require(known, "SMTP_USERNAME, SMTP_PASSWORD: one needs the other")
	check.Require(c.MailMaxAge > 0, "MAIL_MAX_AGE: must be positive")
}

func (c MailConfig) server() mail.Server {
	return mail.Server{
		Addr: c.SMTPAddr, Hello: c.MailHelo, TLS: c.MailTLS,
		CAFile: c.SMTPCAFile, CertFile: c.SMTPCertFile, KeyFile: c.SMTPKeyFile,
		Username: c.SMTPUsername, Password: c.SMTPPassword.Current,
	}
}
