package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// A service that starts while the volume of its storages is not mounted creates nothing in the empty directory,
// and continues when the volume is back.
func TestVolumeIsNotMounted(t *testing.T) {
	broker := testenv.NATS(t)
	vars := environment(t, broker.URL)
	migrated(t, vars)
	m := newMemberService(t, broker.URL)
	p := start(t, vars)
	m.send(contract.StorageProvision, storageCommand(1))
	m.expect(contract.StorageProvisioned, 1)
	p.stop()

	dir := vars["PROVIDER_DIR"]
	must(t, os.Rename(dir, dir+"-volume"), os.Mkdir(dir, 0o750))
	subcommand := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), args, func(name string) string { return vars[name] }, &out)
		return out.String(), err
	}
	for _, args := range [][]string{{"migrate"}, {"reconcile"}} {
		out, err := subcommand(args...)
		said := fmt.Sprint(err)
		if !strings.Contains(said, "has no identity") || !strings.Contains(said, "--adopt-provider") {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
	p = start(t, vars)
	m.send(contract.StorageDeprovision, storageCommand(2))
	testenv.Eventually(t, 20*time.Second, "an attempt", func() bool {
		_, answer := p.call("GET", "/v1/storages/"+member, "")
		return strings.Contains(answer, `"status":"pending"`) && strings.Contains(answer, `"attempts":0`) &&
			strings.Contains(answer, `"class":"outage"`) && strings.Contains(answer, "has no identity")
	})
	if status, answer := p.call("GET", "/readyz", ""); status != 200 {
		t.Errorf("an outage of the provider is no reason to be unready: %d %s", status, answer)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the mount point has %v, %v", left, err)
	}
	must(t, os.Remove(dir), os.Rename(dir+"-volume", dir))
	m.expect(contract.StorageDeprovisioned, 2)
	p.stop()

	must(t, os.RemoveAll(dir))
	if out, err := subcommand("migrate", "--adopt-provider"); err != nil {
		t.Errorf("adopting on purpose: %v\n%s", err, out)
	}
	start(t, vars)
	another := storageCommand(1)
	another.MemberID, another.SagaID = saga, member
	m.send(contract.StorageProvision, another)
	m.expect(contract.StorageProvisioned, 1)
}

// The reason is logged once, when the service starts.
func TestWrongProviderIsLogged(t *testing.T) {
	vars := environment(t, testenv.NATS(t).URL)
	migrated(t, vars)
	must(t, os.RemoveAll(vars["PROVIDER_DIR"]))
	var out bytes.Buffer
	startLogging(t, vars, &out).stop()
	const want = `"msg":"no storage is created or removed until the provider is fixed",` +
		`"error":"the provider directory does not exist`
	if n := strings.Count(out.String(), want); n != 1 {
		t.Errorf("logged %d times in\n%s", n, &out)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
