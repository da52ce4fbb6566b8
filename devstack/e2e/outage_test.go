package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A signup takes milliseconds, whatever else is down.
const signupMedian = 50 * time.Millisecond

// TestSignupsSurviveOutages stops everything that a signup must not need, first one by one and then together.
func TestSignupsSurviveOutages(t *testing.T) {
	s := startStack(t, noTimers)
	b := newBook(t)
	all := s.crowd(b, 20, 4, s.env["MEMBER_URL"])
	s.allReady(all)

	nats := outage{"NATS killed", func() { s.operate("kill", "nats"); s.goneAway("nats", s.env["NATS_URL"]) },
		func() { s.operate("start", "nats") }, true}
	mail := outage{"SMTP killed", func() { s.operate("kill", "smtp"); s.goneAway("smtp", s.env["MAIL_URL"]) },
		func() { s.operate("start", "smtp") }, false}
	provider := outage{"provider outage", func() { s.provider("outage") }, func() { s.provider("none") }, true}
	storage := outage{"storage stopped",
		func() { s.operate("stop", "storage"); s.goneAway("storage", s.env["STORAGE_URL"]) },
		func() { s.operate("start", "storage") }, true}
	for _, down := range [][]outage{{nats}, {provider}, {mail}, {storage}, {provider, nats, mail, storage}} {
		t.Run(nameOf(down), func(t *testing.T) { all = append(all, s.signUpDuring(t, b, down)...) })
	}
	if tried := s.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM storage WHERE outage_attempts > 0"); tried == 0 {
		t.Error("no attempt met the provider's outage: it never happened")
	}
	s.audit(b, all)
	eventually(t, healLimit, "the welcome mails", func() bool {
		return s.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM mail WHERE state = 'sent'") == len(all)
	})
}

// outage breaks something and restores it. While it lasts, no signup becomes ready if holdsUpReady is set.
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

func (s *stack) signUpDuring(t *testing.T, b *book, down []outage) []person {
	held := false
	for _, o := range down {
		o.begin()
		held = held || o.holdsUpReady
	}
	people := s.crowd(b, 50, 4, s.env["MEMBER_URL"])
	took := median(people)
	t.Logf("%d signups, all 201, p50 %s", len(people), took.Round(100*time.Microsecond))
	if took >= signupMedian {
		t.Errorf("p50 is %s, expected less than %s", took, signupMedian)
	}
	if states := s.states(people); held && states["provisioning"] != len(people) {
		t.Errorf("states %v during the outage, expected all provisioning: the fault did not happen", states)
	}
	// In reverse: storage-svc must be back before the provider's fault is ended through its listener.
	for i := len(down) - 1; i >= 0; i-- {
		down[i].end()
	}
	began := time.Now()
	s.allReady(people)
	t.Logf("all ready %s after the outage", time.Since(began).Round(time.Millisecond))
	return people
}

func metrics(t testing.TB, base string) string {
	t.Helper()
	resp, err := http.Get(base + "/metrics") // the address is a constant of this test
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
