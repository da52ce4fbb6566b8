package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// The directory of the storages, or the volume of their ledger, fails under a running service. Each time that
// is an outage, logged with its text but not for each attempt. No attempt is counted, nothing is created
// elsewhere, and everything continues without help.
func TestProviderDirectoryGoesWrong(t *testing.T) {
	broker := testenv.NATS(t)
	vars := environment(t, broker.URL)
	vars["PROVIDER_LEDGER"] = filepath.Join(t.TempDir(), "volume", "ledger")
	volume, dir := filepath.Dir(vars["PROVIDER_LEDGER"]), vars["PROVIDER_DIR"]
	must(t, os.Mkdir(volume, 0o750))
	migrated(t, vars)
	m := newMemberService(t, broker.URL)
	var out bytes.Buffer
	p := startLogging(t, vars, &out)
	m.send(contract.StorageProvision, storageCommand(1))
	m.expect(contract.StorageProvisioned, 1)
	link := func(to string) func(string) error { return func(at string) error { return os.Symlink(to, at) } }
	file := func(at string) error { return os.WriteFile(at, nil, 0o600) }
	none := func(string) error { return nil }
	empty := func(at string) error { return os.Mkdir(at, 0o750) }
	const open, missing = "the provider directory: open: ", "there are storages but their ledger is missing: mount"
	faults := []struct {
		name, at string
		plant    func(at string) error
		text     string // in the log
	}{
		{"a file", dir, file, open + "not a directory"},
		{"a loop", dir, link(dir), open + "too many levels of symbolic links"},
		{"a link to a name that is too long", dir, link(strings.Repeat("x", 300)), open + "file name too long"},
		{"a directory below a file", dir, link("/dev/null/storages"), open + "not a directory"},
		{"an empty volume of the ledger", volume, empty, missing},
		{"no volume of the ledger", volume, none, missing},
		{"a file as volume of the ledger", volume, file, "ledger: stat: not a directory"},
	}
	for i, f := range faults {
		must(t, os.Rename(f.at, f.at+"-away"))
		must(t, f.plant(f.at))
		c := storageCommand(1)
		c.MemberID = c.MemberID[:34] + strconv.Itoa(10+i)
		m.send(contract.StorageProvision, c)
		testenv.Eventually(t, 20*time.Second, f.name, func() bool {
			_, answer := p.call("GET", "/v1/storages/"+c.MemberID, "")
			return strings.Contains(answer, `"status":"pending"`) && strings.Contains(answer, `"attempts":0`) &&
				strings.Contains(answer, `"class":"outage"`) && strings.Contains(answer, f.text)
		})
		if entries, err := os.ReadDir(f.at); err == nil && len(entries) > 0 {
			t.Errorf("%s: made %v", f.name, entries)
		}
		must(t, os.RemoveAll(f.at), os.Rename(f.at+"-away", f.at))
		m.expect(contract.StorageProvisioned, 1)
	}
	p.stop()
	for i, f := range faults {
		if n := strings.Count(out.String(), `"error":"outage: `+f.text); n < 1 || n > 3 {
			t.Errorf("%d, %s: logged %d times in\n%s", i, f.name, n, &out)
		}
	}
}

// The service starts while the volume of the ledger is not mounted: it says so and waits. Migrate fails, and
// begins a new ledger only if it is told to.
func TestLedgerVolumeIsNotMounted(t *testing.T) {
	broker := testenv.NATS(t)
	vars := environment(t, broker.URL)
	migrated(t, vars)
	m := newMemberService(t, broker.URL)
	p := start(t, vars)
	m.send(contract.StorageProvision, storageCommand(1))
	m.expect(contract.StorageProvisioned, 1)
	p.stop()
	ledger := vars["PROVIDER_LEDGER"]
	must(t, os.Rename(ledger, ledger+"-volume"))
	var said bytes.Buffer
	subcommand := func(args ...string) error {
		return run(t.Context(), args, func(name string) string { return vars[name] }, &said)
	}
	if err := subcommand("migrate"); err == nil || !strings.Contains(err.Error(), "ledger is missing") {
		t.Errorf("migrate: %v", err)
	}
	var out bytes.Buffer
	p = startLogging(t, vars, &out)
	m.send(contract.StorageDeprovision, storageCommand(2))
	testenv.Eventually(t, 20*time.Second, "an attempt", func() bool {
		_, answer := p.call("GET", "/v1/storages/"+member, "")
		return strings.Contains(answer, `"attempts":0`) && strings.Contains(answer, "ledger is missing")
	})
	if _, err := os.Stat(ledger); err == nil {
		t.Error("a new ledger was created")
	}
	must(t, os.Rename(ledger+"-volume", ledger))
	m.expect(contract.StorageDeprovisioned, 2)
	p.stop()
	const want = `"msg":"no storage is created or removed until the provider is fixed",` +
		`"error":"there are storages but their ledger is missing`
	if n := strings.Count(out.String(), want); n != 1 {
		t.Errorf("logged %d times in\n%s", n, &out)
	}
	must(t, os.Remove(ledger))
	if err := subcommand("migrate", "--adopt-provider"); err != nil {
		t.Errorf("begun on purpose: %v\n%s", err, &said)
	}
	if content, err := os.ReadFile(ledger); err != nil || len(content) > 0 {
		t.Errorf("%q %v", content, err)
	}
}
