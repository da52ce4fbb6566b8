package service

import (
	"errors"
	"time"
)

// Reconciliation configures when and how much a service reconciles. Services that reconcile embed it.
type Reconciliation struct {
	ReconcileInterval   time.Duration `env:"RECONCILE_INTERVAL" envDefault:"1h" help:"from one reconciliation to the next"`
	ReconcileMinAge     time.Duration `env:"RECONCILE_MIN_AGE" envDefault:"10m" help:"what settled, or was commanded, less than that ago is left alone"`
	ReconcileMaxRepairs int           `env:"RECONCILE_MAX_REPAIRS" envDefault:"1000" help:"most disagreements that one reconciliation acts on"`
}

// Problems lists everything that is wrong with the configuration.
func (r Reconciliation) Problems() (errs []error) {
	if r.ReconcileInterval <= 0 {
		errs = append(errs, errors.New("RECONCILE_INTERVAL: must be positive"))
	}
	if r.ReconcileMinAge < 0 {
		errs = append(errs, errors.New("RECONCILE_MIN_AGE: must not be negative"))
	}
	if r.ReconcileMaxRepairs < 1 {
		errs = append(errs, errors.New("RECONCILE_MAX_REPAIRS: must be positive"))
	}
	return errs
}

// Tick is how often to check whether a reconciliation is due.
func (r Reconciliation) Tick() time.Duration { return min(r.ReconcileInterval, 5*time.Second) }
