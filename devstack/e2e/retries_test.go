package e2e

import (
	"fmt"
	"net/http"
	"testing"
)

// TestGroupRetryFinishesWhatItBegan retries a thousand rejected signups together. The group retry stops while
// signups are rejected again. Once the cause is removed it finishes, although member-svc is killed in between.
// Each time, it asks once for each signup.
func TestGroupRetryFinishesWhatItBegan(t *testing.T) {
	t.Parallel()
	const n = 1000
	s := startStack(t, noTimers)
	s.provider("reject")
	b := newBook(t)
	people := s.crowd(b, n, 8, s.env["MEMBER_URL"])
	const refused = "SELECT count(*) FROM signup_saga WHERE state = 'needs_attention'"
	eventually(t, healLimit, "the refusals", func() bool { return s.count("MEMBER_DATABASE_URL", refused) == n })

	failures := s.call(http.MethodGet, s.env["ADMIN_URL"]+"/admin/v1/failures", s.env["VIEWER_TOKEN"], "")
	kinds, _ := failures.Body["items"].([]any)
	if len(kinds) != 1 || kinds[0].(map[string]any)["count"] != float64(n) {
		t.Fatalf("failures: %+v, expected one kind", failures)
	}
	retry := fmt.Sprintf(`{"filter":{"error":%q},"reason":"the provider has been told","rate_per_second":200`,
		kinds[0].(map[string]any)["fingerprint"])
	if dry := s.call(http.MethodPost, s.env["ADMIN_URL"]+"/admin/v1/retries", s.env["ADMIN_TOKEN"], retry+
		`,"dry_run":true}`); dry.Body["matched"] != float64(n) {
		t.Fatalf("dry run: %+v", dry)
	}

	stopped := s.retryGroup(retry+"}",
		func(r map[string]any) bool { return r["state"] != "running" && r["unsettled"] == 0.0 })
	again, _ := stopped["failed"].(float64)
	if stopped["state"] != "stopped" || stopped["stopped_because"] != "failures" || again < 10 || again > n/2 ||
		stopped["released"] != again {
		t.Fatalf("while the provider refuses: %v", stopped)
	}
	t.Logf("stopped itself after %v of %d failed again", again, n)

	s.provider("none")
	killed := false
	finished := s.retryGroup(retry+"}", func(r map[string]any) bool {
		if released, _ := r["released"].(float64); !killed && released >= n/10 {
			s.killTwice()
			if s.count("MEMBER_DATABASE_URL", refused) == 0 {
				t.Error("it was killed too late to be in the middle")
			}
			s.operate("start", "member")
			killed = true
		}
		return r["state"] != "running"
	})
	if !killed {
		t.Error("it was not killed")
	}
	for field, want := range map[string]any{"state": "finished", "matched": n, "released": n, "succeeded": n,
		"failed": 0, "skipped": 0, "remaining": 0} {
		if fmt.Sprint(finished[field]) != fmt.Sprint(want) {
			t.Errorf("%s is %v, expected %v", field, finished[field], want)
		}
	}
	s.audit(b, people) // among others, that each was created once at the provider
	for what, c := range map[string]struct {
		database, sql string
		want          int
	}{
		"retries in the timelines": {"MEMBER_DATABASE_URL", "SELECT count(*) FROM saga_event WHERE kind = 'retried'",
			n + int(again)},
		"sagas that were retried": {"MEMBER_DATABASE_URL",
			"SELECT count(DISTINCT saga_id) FROM saga_event WHERE kind = 'retried'", n},
		"sagas asked for thrice": {"MEMBER_DATABASE_URL", "SELECT count(*) FROM signup_saga WHERE generation = 3",
			int(again)},
		"storages at first go": {"STORAGE_DATABASE_URL",
			"SELECT count(*) FROM storage WHERE status = 'ready' AND attempts = 1", n},
	} {
		if got := s.count(c.database, c.sql); got != c.want {
			t.Errorf("%d %s, expected %d", got, what, c.want)
		}
	}
}

// killTwice kills member-svc twice, the second time in the middle of the step that it resumes: part of the group
// is released in a transaction that is never committed.
func (s *stack) killTwice() {
	s.t.Helper()
	s.operate("kill", "member")
	s.goneAway("member", s.env["MEMBER_URL"])
	_ = s.do("start", "member", "after.markReleased") // fails if the point is reached before the service is ready
	eventually(s.t, healLimit, "the second death", func() bool { return s.state("member") == "died" })
}

// retryGroup starts a group retry and polls it until done returns true.
func (s *stack) retryGroup(body string, done func(retry map[string]any) bool) map[string]any {
	s.t.Helper()
	begun := s.call(http.MethodPost, s.env["ADMIN_URL"]+"/admin/v1/retries", s.env["ADMIN_TOKEN"], body)
	if begun.Status != http.StatusAccepted {
		s.t.Fatalf("retry: %+v", begun)
	}
	now := begun
	eventually(s.t, healLimit, "the end of a retry", func() bool {
		now = s.call(http.MethodGet, s.env["ADMIN_URL"]+begun.Header.Get("Location"), s.env["VIEWER_TOKEN"], "")
		return now.Status == http.StatusOK && done(now.Body)
	})
	return now.Body
}
