package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whatever hangs, a service that is told to stop ends within DRAIN_DELAY plus DRAIN_TIMEOUT, and its whole
// output is JSON.
func TestStopIsBoundedWhateverHangs(t *testing.T) {
	const delay, timeout, bound = 200 * time.Millisecond, 4 * time.Second, 5200 * time.Millisecond
	collector, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	s := startStack(t, []string{
		"DRAIN_DELAY=" + delay.String(), "DRAIN_TIMEOUT=" + timeout.String(), "LOG_FORMAT=json",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + collector.Addr().String(),
	})
	for _, hanging := range []string{"postgres", "nats", "smtp", "provider"} {
		t.Run(hanging, func(t *testing.T) {
			signUpSome(t, s, hanging)
			if hanging == "provider" {
				s.provider("hang")
				signUpSome(t, s, "other")
			} else {
				s.operate("pause", hanging)
				go func() { // a signup is in progress
					body := fmt.Sprintf(`{"username":"late%s","password":"a long enough password"}`, hanging)
					_, _ = request(http.DefaultClient, http.MethodPost, s.env["MEMBER_URL"]+"/v1/members", body, nil)
				}()
				defer func() {
					if s.state(hanging) == "paused" {
						s.operate("resume", hanging)
					}
				}()
			}
			for _, service := range []string{"member", "storage"} {
				began := time.Now()
				s.operate("stop", service)
				took := time.Since(began)
				t.Logf("%s hangs: %s exits after %s", hanging, service, took.Round(10*time.Millisecond))
				if took > bound {
					t.Errorf("%s took %s to stop, may take %s", service, took, bound)
				}
			}
			if hanging != "provider" {
				s.operate("resume", hanging)
			}
			for _, service := range []string{"storage", "member"} {
				s.operate("start", service)
			}
			if hanging == "provider" {
				s.provider("none")
			}
		})
	}
	for _, service := range []string{"member", "storage"} {
		onlyJSON(t, filepath.Join(s.dir, "log", service+".log"))
	}
}

func signUpSome(t *testing.T, s *stack, prefix string) {
	t.Helper()
	for i := range 5 {
		body := fmt.Sprintf(`{"username":"%s%d","password":"a long enough password","email":"a@example.org"}`, prefix,
			i)
		answer, err := request(http.DefaultClient, http.MethodPost, s.env["MEMBER_URL"]+"/v1/members", body, nil)
		if err != nil || answer.Status != http.StatusCreated {
			t.Fatalf("sign up: %+v, %v", answer, err)
		}
	}
}

// onlyJSON fails the test for each line of a log that is not a JSON object.
func onlyJSON(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	n := 0
	for ; lines.Scan(); n++ {
		var object map[string]any
		if err := json.Unmarshal(lines.Bytes(), &object); err != nil && strings.TrimSpace(lines.Text()) != "" {
			t.Errorf("%s: %q is not JSON", filepath.Base(path), lines.Text())
		}
	}
	if n == 0 || lines.Err() != nil {
		t.Errorf("%s: %d lines, %v", filepath.Base(path), n, lines.Err())
	}
}
