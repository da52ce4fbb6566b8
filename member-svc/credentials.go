package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/password"
	"github.com/signup-saga/signup-saga/service"
)

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
