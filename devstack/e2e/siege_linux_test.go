package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The addresses of the clients. All of 127.0.0.0/8 is this machine.
const (
	slowAddress, rudeAddress, goodAddress = "127.0.0.1", "127.0.0.3", "127.0.0.2"

	slowOnes  = 5000    // connections that one address tries to hold
	dialing   = 256     // concurrent dials: fewer than the kernel queues for the service
	bigBody   = 1 << 30 // bytes that the service should not read to the end
	bigHeader = 16 << 20
)

// TestSiege runs a service under attack by hostile clients. All requests of the other clients are answered, and
// their p99 is at most twice that without an attack. Other load on the machine comes and goes, so periods with
// and without the attack alternate, and the medians of their p99 are compared. There are more periods while the
// difference may still be chance. The attackers share the processors with the service, so they hold connections
// rather than open many.
func TestSiege(t *testing.T) {
	const (
		turns  = 5                // at least
		enough = 40 * time.Second // time limit for more of them
		factor = 2
		memory = 256 << 10 // KiB
	)
	began := time.Now()
	s := startStack(t, []string{"PROVISION_PROMISE=1h", "MAX_CONNECTIONS=4000"})
	pid := s.pid("member")
	g := newGood(s)
	g.turn(t) // warms up
	b := &besiegers{url: s.env["MEMBER_URL"]}
	var calm, siege []time.Duration
	for turn := 0; turn < turns || time.Since(began) < enough && middle(siege) > factor*middle(calm); turn++ {
		calm = append(calm, g.turn(t))
		b.start(t)
		siege = append(siege, g.turn(t))
		b.end()
		if t.Failed() {
			return
		}
	}
	t.Logf("p99 in calm %s, under siege %s: medians %s and %s", calm, siege, middle(calm), middle(siege))
	t.Logf("%d slow connections, %d huge bodies, %d huge headers, %d malformed bodies; %d good requests", b.slow.Load(),
		b.bodies.Load(), b.headers.Load(), b.malformed.Load(), g.requests.Load())
	if middle(siege) > factor*middle(calm) {
		t.Errorf("the p99 of others is more than %d times that of calm", factor)
	}
	if b.slow.Load() < slowOnes || b.bodies.Load() == 0 || b.headers.Load() == 0 || b.malformed.Load() == 0 {
		t.Error("there was no siege")
	}
	if again := s.pid("member"); again != pid {
		t.Errorf("the service died: process %d, then %d", pid, again)
	}
	if log := mustRead(t, filepath.Join(s.dir, "log", "member.log")); strings.Contains(log, "panic") {
		t.Errorf("panic in\n%s", tail(log))
	}
	peak := highWater(t, pid)
	t.Logf("at most %d MiB, %s in all", peak>>10, time.Since(began))
	if peak > memory {
		t.Errorf("the service had %d KiB at its peak", peak)
	}
}

// besiegers attack from start to end, repeatedly.
type besiegers struct {
	url  string
	stop chan struct{}
	done sync.WaitGroup

	slow, bodies, headers, malformed atomic.Int64 // tries
}

// start starts the attackers and returns when all have begun.
func (b *besiegers) start(t *testing.T) {
	t.Helper()
	b.stop = make(chan struct{})
	target := strings.TrimPrefix(b.url, "http://")
	before, turns := b.slow.Load(), make(chan struct{}, dialing)
	for range slowOnes {
		b.again(5*time.Second, func() error {
			turns <- struct{}{}
			conn, err := dialer(slowAddress).Dial("tcp", target)
			<-turns
			b.slow.Add(1)
			if err == nil {
				dribble(conn, 3*time.Second, b.stop)
			}
			return nil
		})
	}
	attack := func(try func() error) {
		b.again(200*time.Millisecond, func() error {
			err := try()
			if err != nil {
				t.Error(err)
			}
			return err
		})
	}
	attack(b.body)
	attack(func() error { return b.header(target) })
	for name, body := range malformed {
		attack(func() error {
			b.malformed.Add(1)
			status, err := post(rudeAddress, b.url+"/v1/members", strings.NewReader(body))
			if err != nil || status < 400 || status >= 500 {
				return fmt.Errorf("%s: %d, %w", name, status, err)
			}
			return nil
		})
	}
	eventually(t, 20*time.Second, "the siege", func() bool { return b.slow.Load() >= before+slowOnes })
}

// again repeats try, with pauses, until the end, or until it fails.
func (b *besiegers) again(pause time.Duration, try func() error) {
	stop := b.stop
	b.done.Go(func() {
		for try() == nil {
			select {
			case <-stop:
				return
			case <-time.After(pause):
			}
		}
	})
}

func (b *besiegers) end() {
	close(b.stop)
	b.done.Wait()
}

// body sends a body of which the service should read only a small part.
func (b *besiegers) body() error {
	b.bodies.Add(1)
	sent := &counted{Reader: io.LimitReader(endless{}, bigBody)}
	status, err := post(rudeAddress, b.url+"/v1/members", sent)
	if n := sent.n.Load(); n > bigBody/16 || err == nil && status != http.StatusRequestEntityTooLarge {
		return fmt.Errorf("%d bytes of a body were taken, %d, %w", n, status, err)
	}
	return nil
}

// header sends endless headers.
func (b *besiegers) header(target string) error {
	b.headers.Add(1)
	conn, err := dialer(rudeAddress).Dial("tcp", target)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * oneTry))
	sent := &counted{Reader: io.LimitReader(fields{}, bigHeader)}
	if _, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n"); err == nil {
		_, _ = io.Copy(conn, sent)
	}
	answer, _ := io.ReadAll(conn)
	// A connection reset may arrive before the response.
	if n := sent.n.Load(); n >= bigHeader || len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") {
		return fmt.Errorf("%d bytes of headers were taken: %.100s", n, answer)
	}
	return nil
}

// fields are endless headers.
type fields struct{}

func (fields) Read(p []byte) (int, error) {
	const field = "X-Field: value\r\n"
	for i := range p {
		p[i] = field[i%len(field)]
	}
	return len(p) / len(field) * len(field), nil
}

// good are the ordinary clients.
type good struct {
	s        *stack
	requests atomic.Int64
}

func newGood(s *stack) *good { return &good{s: s} }

// turn makes two clients work for some time and returns the p99 of their requests. All requests and a probe must
// be answered.
func (g *good) turn(t *testing.T) time.Duration {
	t.Helper()
	const clients, rounds, perConnection = 2, 50, 5
	var mu sync.Mutex
	var all []time.Duration
	var work sync.WaitGroup
	for range clients {
		work.Go(func() {
			client := &http.Client{Timeout: 2 * oneTry,
				Transport: &http.Transport{DialContext: dialer(goodAddress).DialContext}}
			defer client.CloseIdleConnections()
			timed := func(method, path, body string, want int) answer {
				began := time.Now()
				a, err := request(client, method, g.s.env["MEMBER_URL"]+path, body, nil)
				if err != nil || a.Status != want {
					t.Errorf("%s: %d %v %v", method, a.Status, a.Body, err)
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, time.Since(began))
				return a
			}
			for round := range rounds {
				name := fmt.Sprint("good", g.requests.Add(2))
				a := timed(http.MethodPost, "/v1/members",
					fmt.Sprintf(`{"username":%q,"password":"a long enough password"}`, name), http.StatusCreated)
				if t.Failed() {
					return
				}
				timed(http.MethodGet, a.Header.Get("Location"), "", http.StatusOK)
				if round%perConnection == 0 {
					client.CloseIdleConnections()
				}
			}
		})
	}
	if a := g.s.call(http.MethodGet, g.s.env["ADMIN_URL"]+"/readyz", "", ""); a.Status != http.StatusOK {
		t.Errorf("not ready: %d %v", a.Status, a.Body)
	}
	work.Wait()
	slices.Sort(all)
	return all[len(all)*99/100-1]
}

func middle(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// pid returns the process id of a component.
func (s *stack) pid(component string) int {
	s.t.Helper()
	out, err := s.control(http.MethodGet, "/status")
	var status struct {
		Components []struct {
			Name string
			PID  int
		}
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &status)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range status.Components {
		if c.Name == component {
			return c.PID
		}
	}
	s.t.Fatalf("no %s in %s", component, out)
	return 0
}

var vmHWM = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)

// highWater returns the peak memory of a process, in KiB.
func highWater(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := vmHWM.FindSubmatch(text)
	if found == nil {
		t.Fatalf("no VmHWM in\n%s", text)
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
