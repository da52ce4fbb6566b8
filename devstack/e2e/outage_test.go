package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A signup is a matter of milliseconds, whatever else is down.
const signupMedian = 50 * time.Millisecond

// TestSignupsSurviveOutages takes away, one after the other and then together, everything that a signup must not need.
func TestSignupsSurviveOutages(t *testing.T) {
	s := startStack(t, noTimers)
	j := &journal{}
	s.allReady(s.crowd(j, 20, 4, s.env["MEMBER_URL"]))

	nats := outage{"NATS killed", func() { s.operate("kill", "nats"); s.goneAway("nats", s.env["NATS_URL"]) },
		func() { s.operate("start", "nats") }, true}
	mail := outage{"SMTP killed", func() { s.operate("kill", "smtp"); s.goneAway("smtp", s.env["MAIL_URL"]) },
		func() { s.operate("start", "smtp") }, false}
	provider := outage{"provider outage", func() { s.provider("outage") }, func() { s.provider("none") }, true}
	storage := outage{"storage stopped", func() { s.operate("stop", "storage"); s.goneAway("storage", s.env["STORAGE_URL"]) },
		func() { s.operate("start", "storage") }, true}
	for _, down := range [][]outage{{nats}, {provider}, {mail}, {storage}, {provider, nats, mail, storage}} {
		t.Run(nameOf(down), func(t *testing.T) { s.signUpDuring(t, j, down) })
	}
	if tried := s.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM storage WHERE outage_attempts > 0"); tried == 0 {
		t.Error("no attempt met the provider's outage: it never happened")
	}
	s.audit(j)
	eventually(t, healLimit, "the welcome mails", func() bool {
		return s.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM mail WHERE state = 'sent'") == j.len()
	})
}

// outage is something that breaks and comes back; while it lasts, nobody becomes ready if it holds storages up.
type outage struct {
	name         string
	begin, end   func()
	holdsUpReady bool
}

func nameOf(down []outage) string {
	var names []string
	for _, o := range down {
		names = append(names, o.name)
	}
	return strings.Join(names, ", ")
}

func (s *stack) signUpDuring(t *testing.T, j *journal, down []outage) {
	held := false
	for _, o := range down {
		o.begin()
		held = held || o.holdsUpReady
	}
	promises := s.crowd(j, 50, 4, s.env["MEMBER_URL"])
	took := median(promises)
	t.Logf("%d signups, all 201, p50 %s", len(promises), took.Round(100*time.Microsecond))
	if took >= signupMedian {
		t.Errorf("p50 is %s, expected less than %s", took, signupMedian)
	}
	if states := s.states(promises); held && states["provisioning"] != len(promises) {
		t.Errorf("states %v during the outage, expected all provisioning: the fault did not happen", states)
	}
	// What holds storage-svc's own listener comes back first.
	for i := len(down) - 1; i >= 0; i-- {
		down[i].end()
	}
	began := time.Now()
	s.allReady(promises)
	t.Logf("all ready %s after the outage", time.Since(began).Round(time.Millisecond))
}

// TestBrokerWipedTwice loses everything that NATS has stored, twice, while people sign up.
func TestBrokerWipedTwice(t *testing.T) {
	s := startStack(t, nil)
	j := &journal{}
	canary := filepath.Join(s.env["NATS_DIR"], "canary")
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.crowd(j, 1000, 4, s.env["MEMBER_URL"])
	}()
	for _, at := range []int{300, 600} {
		eventually(t, time.Minute, "signups", func() bool { return j.len() >= at })
		if err := os.WriteFile(canary, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s.operate("wipe", "nats")
		if _, err := os.Stat(canary); err == nil {
			t.Fatal("the folder of NATS was not wiped")
		}
		if n := j.len(); n >= 1000 {
			t.Fatalf("the wipe came after all %d signups", n)
		}
	}
	<-done
	if t.Failed() {
		return
	}
	s.audit(j)
}

// TestReplicas runs two of each service, and kills one storage service while people sign up.
func TestReplicas(t *testing.T) {
	const people = 5000
	s := startStack(t, noTimers, "--members", "2", "--storages", "2")
	j := &journal{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.crowd(j, people, 8, s.env["MEMBER_URL"], s.env["MEMBER_URL_2"])
	}()
	eventually(t, time.Minute, "signups", func() bool { return j.len() >= people/3 })
	s.operate("kill", "storage")
	s.goneAway("storage", s.env["STORAGE_URL"])
	eventually(t, time.Minute, "signups", func() bool { return j.len() >= people/2 })
	s.operate("start", "storage")
	<-done
	if t.Failed() {
		return
	}
	s.audit(j)
	for _, replica := range []string{"STORAGE_URL", "STORAGE_URL_2"} {
		if !strings.Contains(metrics(t, s.env[replica]), `storage_attempt_seconds_count{`) {
			t.Errorf("%s made no attempt: it did not share the work", replica)
		}
	}
}

func metrics(t testing.TB, base string) string {
	t.Helper()
	resp, err := http.Get(base + "/metrics") //nolint:gosec // an address of this test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
