package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/e2e/oracle"
)

// TestRecoveryKeepsToTheRate has many signups wait for a provider in outage, and checks the load on the provider
// when it returns. An outage of ten minutes is scaled by 30 to 20 s, and so are the back-offs; the rate is not.
func TestRecoveryKeepsToTheRate(t *testing.T) {
	const perSecond, slack = 300, 1.1
	w := startWorld(t, *seed, "OUTAGE_BACKOFF_CAP=200ms", "BACKOFF_CAP=1s", "PROVIDER_RATE="+strconv.Itoa(perSecond))
	if err := w.fault("outage", 1, 0); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.crowdOf(*pending)
	w.plan("provider outage", 1)
	if met := w.count("STORAGE_DATABASE_URL",
		"SELECT count(*) FROM storage WHERE last_error_class = 'outage'"); met > 0 {
		w.fired("provider outage")
	}
	<-time.After(max(0, *outageTime-time.Since(began)))
	burnt := w.count("STORAGE_DATABASE_URL", "SELECT coalesce(sum(attempts), 0) FROM storage")
	waiting := w.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM storage WHERE status = 'pending'")
	commands := w.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM outbox_event_essential")
	if err := w.fault("none", 0, 0); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	eventually(t, healLimit+time.Duration(*pending)*time.Second/perSecond, "every storage to be there", func() bool {
		return w.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM storage WHERE status <> 'ready'") == 0
	})
	recovery := time.Since(back)
	most := w.busiestSecond()
	if float64(most) > perSecond*slack {
		t.Errorf("%d creates in one second, the rate is %d", most, perSecond)
	}
	if burnt != 0 || waiting < *pending*9/10 {
		t.Errorf("%d attempts were burnt; %d of %d were waiting", burnt, waiting, *pending)
	}
	if retried := w.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM storage WHERE attempts <> 1"); retried != 0 {
		t.Errorf("%d storages needed more than one attempt after the outage", retried)
	}
	w.judge()
	w.progress(
		"outage %.0f s, %d waiting, %d attempts burnt, %d commands for %d signups; all there %.1f s after the "+
			"outage (%.0f/s); at most %d in one second, the rate is %d",
		back.Sub(began).Seconds(), waiting, burnt, commands, *pending, recovery.Seconds(),
		float64(waiting)/recovery.Seconds(), most, perSecond)
}

// TestWipedWhileStorageIsDown wipes NATS while no consumer has read what it holds.
func TestWipedWhileStorageIsDown(t *testing.T) {
	const redrivesPerSecond = 200
	w := startWorld(t, *seed)
	for _, replica := range storages {
		w.operate("stop", replica)
	}
	began := time.Now()
	w.crowdOf(*open)
	n := int(w.tries.acknowledged.Load())
	w.plan("NATS wiped", 1)
	canary := filepath.Join(w.env["NATS_DIR"], "wiped")
	if err := os.WriteFile(canary, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.operate("wipe", "nats")
	if _, err := os.Stat(canary); os.IsNotExist(err) {
		w.fired("NATS wiped")
	}
	// The first commands may already have been repeated while the last people signed up.
	commands := func() int { return w.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM outbox_event_essential") }
	eventually(t, healLimit, "commands to be repeated", func() bool { return commands() > n+n/10 })
	<-time.After(5 * time.Second)
	grown, took := commands()-n, time.Since(began)
	if float64(grown) > redrivesPerSecond*(took.Seconds()+1) {
		t.Errorf("%d commands were repeated in %s: more than %d per second", grown, took, redrivesPerSecond)
	}
	for _, replica := range storages {
		w.operate("start", replica)
	}
	w.judge()
	if ready := w.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM signup_saga WHERE state <> 'ready'"); ready != 0 {
		t.Errorf("%d are not ready", ready)
	}
	w.progress(
		"%d open sagas, storage away for %.1f s: %d commands were repeated (%.2f per saga); %d when all was over",
		n, took.Seconds(), grown, float64(grown)/float64(n), commands()-n)
}

// crowdOf signs up at least n people as fast as possible.
func (w *world) crowdOf(n int) {
	w.t.Helper()
	w.rate = 500
	w.attack(fmt.Sprintf("%d people sign up", n), true, nil, func() error {
		return w.await(func() bool { return int(w.tries.acknowledged.Load()) >= n })
	})
}

// busiestSecond returns the largest number of creates that the provider received within any second.
func (w *world) busiestSecond() int {
	w.t.Helper()
	effects, err := oracle.ReadLines[oracle.Effect](w.env["PROVIDER_LEDGER"])
	if err != nil {
		w.t.Fatal(err)
	}
	slices.SortFunc(effects, func(a, b oracle.Effect) int { return a.At.Compare(b.At) })
	most, first := 0, 0
	for i, e := range effects {
		for e.At.Sub(effects[first].At) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}
