package e2e

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestTheStoryByHand breaks and repairs a stack with the buttons of the fault screen.
func TestTheStoryByHand(t *testing.T) {
	s := startStack(t, noTimers)
	s.press("/people", nil)
	s.seesOnScreen("Everything runs:</strong> 10 of 10 signups since then were answered 201; nobody waits.")

	s.press("/component", url.Values{"verb": {"kill"}, "name": {"nats"}})
	s.goneAway("nats", s.env["NATS_URL"])
	s.press("/people", nil)
	s.seesOnScreen("NATS is down:</strong> 10 of 10 signups since then were answered 201; 10 wait for their storage.")
	s.press("/component", url.Values{"verb": {"start"}, "name": {"nats"}})
	s.seesOnScreen("Everything runs:</strong> nobody has tried to sign up since then; nobody waits.")

	s.press("/provider", url.Values{"mode": {"outage"}, "probability": {"1"}, "latency": {"0"}})
	s.press("/people", nil)
	s.seesOnScreen(
		"The provider is away:</strong> 10 of 10 signups since then were answered 201; 10 wait for their storage.")
	s.press("/provider", url.Values{"mode": {"odd"}, "probability": {"1"}, "latency": {"0"}})
	s.seesOnScreen("must be none, outage,")
	s.press("/provider", url.Values{"mode": {"none"}, "probability": {"1"}, "latency": {"0"}})
	s.seesOnScreen("Everything runs:</strong> nobody has tried to sign up since then; nobody waits.")
	if ready := s.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM signup_saga WHERE state = 'ready'"); ready != 30 {
		t.Errorf("%d of 30 are ready", ready)
	}

	s.press("/component", url.Values{"verb": {"kill"}, "name": {"member"}})
	s.press("/people", nil)
	s.seesOnScreen("The Member service is down:</strong> 0 of 10 signups since then were answered 201.")
	s.press("/component", url.Values{"verb": {"start"}, "name": {"member"}})
	s.press("/stream", url.Values{"on": {"yes"}})
	s.seesOnScreen("Stop the stream")
	eventually(t, healLimit, "people of the stream",
		func() bool { return s.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM signup_saga") >= 32 })
	s.press("/stream", url.Values{"on": {"no"}})
	s.seesOnScreen("Start a stream")
	s.seesOnScreen("signups since then were answered 201; nobody waits.")
}

// press posts a form to the fault screen.
func (s *stack) press(path string, form url.Values) {
	s.t.Helper()
	answer, err := http.PostForm(s.env["FAULTS_URL"]+path, form)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Request.Method != http.MethodGet {
		s.t.Fatalf("POST %s: %s %s", path, answer.Status, answer.Request.Method)
	}
}

// seesOnScreen waits until the fault screen shows a text.
func (s *stack) seesOnScreen(want string) {
	s.t.Helper()
	var shown string
	defer func() {
		if s.t.Failed() {
			s.t.Logf("the fault screen showed %s", shown)
		}
	}()
	eventually(s.t, healLimit, want, func() bool {
		answer, err := http.Get(s.env["FAULTS_URL"])
		if err != nil {
			s.t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		shown = string(text)
		return err == nil && answer.StatusCode == http.StatusOK && strings.Contains(shown, want)
	})
}
