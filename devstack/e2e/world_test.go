package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/e2e/oracle"
)

// quick shortens what takes minutes in production to seconds: the promise, the lease and every back-off.
var quick = []string{
	"PROVISION_PROMISE=3s", "PROVIDER_TIMEOUT=1s", "BACKOFF_CAP=2s", "OUTAGE_BACKOFF_CAP=1s",
	"LOG_LEVEL=info",
}

var (
	members  = []string{"member", "member-2"}
	storages = []string{"storage", "storage-2"}
)

// world is a system of two replicas of each service under attack: every link goes through a proxy, clients write
// their journal, and every event of the attack is counted.
type world struct {
	*stack
	rand   *rand.Rand // for the plan of the attack; used by one goroutine
	book   *book
	tries  tries
	people *client           // calls all replicas, through their proxies
	load   *load             // of the current attack
	links  map[string]*proxy // "member:nats", …, and "client:member" for each replica
	began  time.Time
	rate   int // signups per second

	mu       sync.Mutex
	faults   []oracle.Fault
	canaries map[string]bool
	phases   []phase
	poisoned int // messages that cannot be decoded
}

// phase is the result of one part of the attack.
type phase struct {
	Name         string  `json:"name"`
	Seconds      float64 `json:"seconds"`
	Acknowledged int64   `json:"acknowledged"`
	Retried      int64   `json:"retried"` // requests that were repeated
	Failed       int64   `json:"failed"`  // signups that never got a 201
}

// startWorld starts the system. variables are added to quick.
func startWorld(t testing.TB, seed uint64, variables ...string) *world {
	t.Helper()
	w := newWorld(t, seed)
	w.start(variables...)
	return w
}

// newWorld returns a system that is not yet running.
func newWorld(t testing.TB, seed uint64) *world {
	t.Helper()
	s := &stack{t: t, dir: stackDir(t), env: map[string]string{}}
	s.choosePorts()
	return &world{
		stack: s, rand: rand.New(rand.NewPCG(seed, 0)), book: newBook(t), links: map[string]*proxy{},
		canaries: map[string]bool{},
		began:    time.Now(), rate: *rate,
	}
}

func (w *world) start(variables ...string) {
	w.t.Helper()
	flags := []string{"--members", strconv.Itoa(len(members)), "--storages", strconv.Itoa(len(storages))}
	for _, service := range []string{"member", "storage"} {
		for _, target := range []string{"nats", "postgres"} {
			link := service + ":" + target
			w.links[link] = startProxy(w.t, loopback(w.ports[target]))
			flags = append(flags, "--via", link+"="+w.links[link].addr())
		}
	}
	var bases []string
	for _, replica := range members {
		w.links["client:"+replica] = startProxy(w.t, loopback(w.ports[replica]))
		bases = append(bases, "http://"+w.links["client:"+replica].addr())
	}
	w.people = newClient(w.book, &w.tries, bases...)
	w.stack.start(append(slices.Clone(quick), variables...), flags...)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// plan records how often a kind of fault will happen; fired records that it has happened once.
func (w *world) plan(kind string, times int) { w.tally(kind, times, 0) }
func (w *world) fired(kind string)           { w.tally(kind, 0, 1) }

func (w *world) tally(kind string, planned, fired int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.faults, func(f oracle.Fault) bool { return f.Kind == kind })
	if i < 0 {
		i = len(w.faults)
		w.faults = append(w.faults, oracle.Fault{Kind: kind})
	}
	w.faults[i].Planned += planned
	w.faults[i].Fired += fired
}

// attack runs do while people sign up. strict requires that every request succeeds at the first try, because
// neither Postgres nor the member service is attacked.
func (w *world) attack(name string, strict bool, then func(context.Context, person) error, do func() error) {
	w.t.Helper()
	began := time.Now()
	acknowledged, retried, refused, failed := w.tries.acknowledged.Load(), w.tries.retried.Load(),
		w.tries.refused.Load(), w.tries.failed.Load()
	w.load = w.people.start(w.rate, 16, then)
	err := do()
	if err := errors.Join(err, w.load.end()); err != nil {
		w.t.Errorf("%s: %v", name, err)
	}
	p := phase{
		Name: name, Seconds: time.Since(began).Seconds(), Acknowledged: w.tries.acknowledged.Load() - acknowledged,
		Retried: w.tries.retried.Load() - retried, Failed: w.tries.failed.Load() - failed,
	}
	if strict && w.tries.refused.Load() != refused {
		w.t.Errorf("%s: %d requests were not answered with success at the first try", name,
			w.tries.refused.Load()-refused)
	}
	w.phases = append(w.phases, p)
	w.putCanaries()
	w.progress("%-28s %6.1f s  %6d acknowledged  %5d retried  %d failed", p.Name, p.Seconds, p.Acknowledged, p.Retried,
		p.Failed)
}

// progress prints to standard error at once: the test runner would show it only at the end.
func (w *world) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7.1f s  %s\n", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
}

// putCanaries puts a file into each storage that was created and has none. If the file disappears, the storage
// was created again.
func (w *world) putCanaries() {
	effects, err := oracle.ReadLines[oracle.Effect](w.env["PROVIDER_LEDGER"])
	if err != nil {
		w.t.Error(err)
	}
	for _, e := range effects {
		if e.Op != "create" || w.canaries[e.MemberID] {
			continue
		}
		w.canaries[e.MemberID] = true
		path := filepath.Join(oracle.StorageDir(w.env["PROVIDER_DIR"], e.MemberID), oracle.CanaryFile)
		if err := os.WriteFile(path, []byte("alive"), 0o600); err != nil {
			w.t.Error(err)
		}
	}
	// A storage may have been deleted meanwhile, and the file written after that. The ledger records a deletion
	// before the data are deleted.
	if effects, err = oracle.ReadLines[oracle.Effect](w.env["PROVIDER_LEDGER"]); err != nil {
		w.t.Error(err)
	}
	for _, e := range effects {
		if e.Op == "delete" {
			path := filepath.Join(oracle.StorageDir(w.env["PROVIDER_DIR"], e.MemberID), oracle.CanaryFile)
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				w.t.Error(err)
			}
		}
	}
}

// judge waits until the system is at rest, and judges it.
func (w *world) judge() []oracle.Verdict {
	w.t.Helper()
	w.restAll()
	evidence, err := oracle.Collect(w.t.Context(), w.sources(w.book))
	if err != nil {
		w.t.Fatal(err)
	}
	evidence.Canaries, evidence.Faults, evidence.Poisoned = w.canaries, w.faults, w.poisoned
	evidence.Mails, evidence.MailsTwice = w.mailsReceived(), w.deaths()
	verdicts := oracle.Judge(evidence)
	for _, v := range verdicts {
		if v.Broken > 0 {
			w.t.Errorf("%s (%s): %d of %d broken: %s", v.Name, v.Claim, v.Broken, v.Checked,
				strings.Join(v.Examples, "; "))
		}
	}
	w.report(evidence, verdicts)
	return verdicts
}

// restAll waits until no work is pending. A mail whose sender died is retried when its lease expires, after five
// minutes; restAll skips that time.
func (w *world) restAll() {
	w.t.Helper()
	began := time.Now()
	open := w.until("every saga to be settled", func() bool {
		return w.count("MEMBER_DATABASE_URL",
			"SELECT count(*) FROM signup_saga WHERE state IN ('provisioning', 'withdrawing')") == 0
	})
	sagas := time.Since(began)
	unsent := w.until("every mail to be sent", func() bool {
		w.exec("MEMBER_DATABASE_URL",
			"UPDATE mail SET next_attempt_at = now() WHERE state = 'queued' AND next_attempt_at > now() + interval "+
				"'1 minute'")
		return w.count("MEMBER_DATABASE_URL", `SELECT count(*) FROM signup_saga s JOIN member m ON m.id = s.member_id
LEFT JOIN mail l ON l.member_id = m.id WHERE s.state <> 'withdrawn' AND m.email IS NOT NULL
    AND coalesce(l.state, '') <> 'sent'`) == 0
	})
	if err := errors.Join(open, unsent); err != nil {
		w.t.Error(err) // the oracle reports more
	}
	w.progress("sagas settled after %.1f s, mails sent after %.1f s", sagas.Seconds(), time.Since(began).Seconds())
}

// mailsReceived returns how many mails the mail server has received.
func (w *world) mailsReceived() int {
	a := w.call(http.MethodGet, w.env["MAIL_URL"]+"/api/messages", "", "")
	n, _ := a.Body["count"].(float64)
	return int(n)
}

// deaths returns how many mails may have been sent twice: each death may lose the record of one mail per replica.
func (w *world) deaths() int {
	n := 0
	for _, f := range w.faults {
		if strings.HasPrefix(f.Kind, "kill -9") || strings.HasPrefix(f.Kind, "Postgres") ||
			strings.Contains(f.Kind, "postgres") {
			n += len(members) * f.Fired
		}
	}
	return n
}

// result is the JSON that a run writes, for comparing runs.
type result struct {
	Seed         uint64           `json:"seed"`
	Seconds      float64          `json:"seconds"`
	Acknowledged int64            `json:"acknowledged"`
	Failed       int64            `json:"failed"`
	Left         int64            `json:"left"`
	Lost         int              `json:"lost"`
	Doubles      int              `json:"doubles"`
	Zombies      int              `json:"zombies"`
	Orphans      int              `json:"orphans"`
	States       map[string]int   `json:"states"`
	Faults       []oracle.Fault   `json:"faults"`
	Phases       []phase          `json:"phases"`
	Verdicts     []oracle.Verdict `json:"verdicts"`
}

func (w *world) report(e oracle.Evidence, verdicts []oracle.Verdict) {
	r := result{
		Seed: *seed, Seconds: time.Since(w.began).Seconds(), Acknowledged: w.tries.acknowledged.Load(),
		Failed: w.tries.failed.Load(),
		Left:   w.tries.left.Load(), States: map[string]int{}, Faults: w.faults, Phases: w.phases, Verdicts: verdicts,
	}
	for _, m := range e.Members {
		r.States[m.State]++
	}
	for name, n := range map[string]*int{"I1": &r.Lost, "I4": &r.Doubles, "I5": &r.Zombies, "I6": &r.Orphans} {
		*n = verdicts[slices.IndexFunc(verdicts, func(v oracle.Verdict) bool { return v.Name == name })].Broken
	}
	for _, f := range r.Faults {
		w.progress("fault %-42s %5d fired, %5d planned", f.Kind, f.Fired, f.Planned)
	}
	for _, v := range verdicts {
		w.progress("%-4s %-90s %7d checked, %d broken", v.Name, v.Claim, v.Checked, v.Broken)
	}
	w.progress("seed %d: acknowledged %d, failed %d, left %d, lost %d, doubles %d, orphans %d, zombies %d; %v",
		r.Seed, r.Acknowledged, r.Failed, r.Left, r.Lost, r.Doubles, r.Orphans, r.Zombies, r.States)
	if *reportDir == "" {
		return
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(*reportDir, w.t.Name()+".json"), append(text, '\n'), 0o600)
	}
	if err != nil {
		w.t.Error(err)
	}
}
