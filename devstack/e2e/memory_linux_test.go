package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// TestMemoryUnderACrowd makes 500 people sign up at the same time, at the real cost of password hashes. Everyone
// gets a response, either a 201 or the advice to retry, and the memory of the service stays within its limit.
func TestMemoryUnderACrowd(t *testing.T) {
	const people, most = 500, 256 << 10 // KiB
	s := startStack(t, noTimers, "--hash-cost", "real")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: people}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	answers := map[string]int{}
	var wg sync.WaitGroup
	for i := range people {
		wg.Go(func() {
			a, err := request(client, http.MethodPost, s.env["MEMBER_URL"]+"/v1/members",
				fmt.Sprintf(`{"username":"crowd%d","password":"correct horse battery"}`, i), nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[fmt.Sprint(a.Status, " ", a.Body["code"])]++
			if a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
		})
	}
	wg.Wait()
	accepted := answers["201 <nil>"]
	if accepted == 0 || accepted+answers["503 busy"]+answers["503 unavailable"] != people {
		t.Errorf("answers: %v", answers)
	}
	if n := s.count("MEMBER_DATABASE_URL",
		"SELECT count(*) FROM member WHERE password_hash LIKE '$argon2id$v=19$m=7168,t=5,p=1$%'"); n != accepted {
		t.Errorf("%d members with hashes of real cost, %d were accepted", n, accepted)
	}
	peak := s.peakMemory("member")
	t.Logf("answers %v, %d MiB resident at most", answers, peak>>10)
	if peak > most {
		t.Errorf("%d MiB were resident, expected %d at most", peak>>10, most>>10)
	}
}

// peakMemory returns a component's peak resident memory, in KiB.
func (s *stack) peakMemory(component string) (kib int) {
	s.t.Helper()
	out, err := s.control(http.MethodGet, "/status")
	if err != nil {
		s.t.Fatal(err)
	}
	var status struct {
		Components []struct {
			Name string
			PID  int
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		s.t.Fatal(err)
	}
	for _, c := range status.Components {
		if c.Name != component {
			continue
		}
		for line := range strings.Lines(mustRead(s.t, fmt.Sprintf("/proc/%d/status", c.PID))) {
			if n, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 && err == nil {
				return kib
			}
		}
	}
	s.t.Fatalf("nothing is known of the memory of %s:\n%s", component, out)
	return 0
}
