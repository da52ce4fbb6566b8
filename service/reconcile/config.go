package reconcile

import (
	"time"

	"github.com/signup-saga/signup-saga/service"
)

const maxRepairs = 1000

// Config says when and how much a service reconciles. Services that reconcile embed it.
type Config struct {
	Interval time.Duration `env:"RECONCILE_INTERVAL" envDefault:"1h" help:"from one reconciliation to the next"`
	MinAge   time.Duration `env:"RECONCILE_MIN_AGE" envDefault:"10m" help:"what changed less than that ago is not compared"`
	// MaxRepairs is how many differences a run acts on, at most; 0 means 1000.
	MaxRepairs int
}

// Validate implements [service.Validator].
func (c Config) Validate(check *service.Checks) {
	check.Require(c.Interval > 0, "RECONCILE_INTERVAL: must be positive")
	check.Require(c.MinAge >= 0, "RECONCILE_MIN_AGE: must not be negative")
}
