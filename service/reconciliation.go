package service

import (
	"errors"
	"time"
)

// ReconcileMaxRepairs is how many disagreements one reconciliation acts on, at most.
const ReconcileMaxRepairs = 1000

// Reconciliation configures when a service reconciles. Services that reconcile embed it.
type Reconciliation struct {
	ReconcileInterval time.Duration `env:"RECONCILE_INTERVAL" envDefault:"1h" help:"from one reconciliation to the next"`
	ReconcileMinAge   time.Duration `env:"RECONCILE_MIN_AGE" envDefault:"10m" help:"what settled, or was commanded, less than that ago is left alone"`
}

// Problems lists everything that is wrong with the configuration.
func (r Reconciliation) Problems() (errs []error) {
	if r.ReconcileInterval <= 0 {
		errs = append(errs, errors.New("RECONCILE_INTERVAL: must be positive"))
	}
	if r.ReconcileMinAge < 0 {
		errs = append(errs, errors.New("RECONCILE_MIN_AGE: must not be negative"))
	}
	return errs
}

// Tick is how often to check whether a reconciliation is due.
func (r Reconciliation) Tick() time.Duration { return min(r.ReconcileInterval, 5*time.Second) }
