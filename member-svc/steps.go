package main

import (
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/service"
)

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
