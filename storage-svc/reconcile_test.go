package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service/reconcile"
)

func TestReconciliation(t *testing.T) {
	broker := testenv.NATS(t)
	vars := environment(t, broker.URL)
	vars["RECONCILE_MIN_AGE"], vars["RECONCILE_INTERVAL"] = "0s", "1h"
	migrated(t, vars)
	p := start(t, vars)
	m := newMemberService(t, broker.URL)
	m.send(contract.StorageProvision, storageCommand(1))
	m.expect(contract.StorageProvisioned, 1)
	subcommand := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), args, func(name string) string { return vars[name] }, &out)
		return out.String(), err
	}
	if out, err := subcommand("reconcile", "--dry-run"); err != nil ||
		!strings.Contains(out, "stranded                   0\n") {
		t.Errorf("balanced books: %v\n%s", err, out)
	}
	marker := filepath.Join(vars["PROVIDER_DIR"], member[34:], member, "owner")
	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	if out, err := subcommand("reconcile", "--dry-run"); !errors.Is(err, reconcile.ErrFound) ||
		!strings.Contains(out, "stranded "+member+": ready, at the provider missing") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run did something: %v", err)
	}
	if out, err := subcommand("reconcile"); !errors.Is(err, reconcile.ErrFound) ||
		!strings.Contains(out, "repaired                   1\n") {
		t.Errorf("%v\n%s", err, out)
	}
	m.expect(contract.StorageProvisioned, 1) // the same reply as before
	if _, err := os.Stat(marker); err != nil {
		t.Error(err)
	}
	testenv.Eventually(t, 30*time.Second, "the gauges", func() bool {
		_, metrics := p.call("GET", "/metrics", "")
		return strings.Contains(metrics, "stranded_storages 1\n") && strings.Contains(metrics, "orphan_resources 0\n")
	})
	delete(vars, "PROVIDER_DIR")
	if _, err := subcommand("reconcile"); err == nil || !strings.Contains(err.Error(), "PROVIDER_DIR") {
		t.Errorf("without PROVIDER_DIR: %v", err)
	}
}
