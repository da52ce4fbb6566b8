package main

import (
	"bytes"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// together sends n requests concurrently and counts the answers by status and code. bodies counts each
// different body of a 201.
func together(
	t *testing.T, s *svc, n int, body string, headers ...string,
) (counts map[string]int, bodies map[string]int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	defer client.CloseIdleConnections()
	counts, bodies = map[string]int{}, map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range n {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.public+"/v1/members",
			strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i+1 < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		wg.Go(func() {
			<-begin
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			raw, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			what := strconv.Itoa(resp.StatusCode) + " " + resp.Header.Get("Idempotent-Replayed")
			mu.Lock()
			defer mu.Unlock()
			counts[what]++
			if resp.StatusCode == http.StatusCreated {
				bodies[string(raw)]++
			}
		})
	}
	close(begin)
	wg.Wait()
	return counts, bodies
}

// crowded starts a service with room for all requests of a crowd, however slow the machine is.
func crowded(t *testing.T, url string) *svc {
	t.Helper()
	env := environment(t, url+"&connect_timeout=60", "nats://127.0.0.1:1")
	maps.Copy(env, map[string]string{"HASH_CONCURRENCY": "16", "HASH_QUEUE_WAIT": "1m", "DATABASE_TIMEOUT": "1m",
		"HASH_MEMORY_KIB": "64"})
	return start(t, env)
}

func TestManySignupsForOneUsername(t *testing.T) {
	url := storetest.URL(t)
	s := crowded(t, url)
	counts, _ := together(t, s, 1000, `{"username":"mina","password":"`+phrase+`"}`)
	if want := map[string]int{"201 ": 1, "409 ": 999}; !maps.Equal(counts, want) {
		t.Errorf("%v, want %v", counts, want)
	}
	if n := storetest.Count(t, storetest.Connect(t, url), "SELECT count(*) FROM member"); n != 1 {
		t.Errorf("%d members", n)
	}
}

func TestManySignupsWithOneKey(t *testing.T) {
	url := storetest.URL(t)
	s := crowded(t, url)
	counts, bodies := together(t, s, 1000, `{"username":"mina","password":"`+phrase+`"}`, "Idempotency-Key",
		"the-key")
	if want := map[string]int{"201 ": 1, "201 true": 999}; !maps.Equal(counts, want) || len(bodies) != 1 {
		t.Errorf("%v with %d different bodies, want %v with one", counts, len(bodies), want)
	}
	pool := storetest.Connect(t, url)
	if n := storetest.Count(t, pool, "SELECT count(*) FROM member"); n != 1 {
		t.Errorf("%d members", n)
	}
	if n := storetest.Count(t, pool,
		"SELECT count(*) FROM idempotency_key WHERE expires_at - now() BETWEEN interval '23 hours 50 minutes' AND "+
			"interval '24 hours'"); n != 1 {
		t.Errorf("%d keys that are kept for 24 hours", n)
	}
}

// The time of a refusal does not reveal whether a username exists. The test makes pairs of calls in random
// order, one with a name that exists and one with a name that does not. A sign test asks how likely it is that
// one kind is slower so often by chance. Slow moments of the machine hit either kind, and each counts once.
//
// The test fails if the two kinds differ beyond chance (5 standard deviations) and by more than a twentieth of
// such a call. That is a thousandth of a call at the real cost.
func TestUnknownNamesAreNotRevealed(t *testing.T) {
	const pairs, deviations, share = 1000, 5, 0.05
	env := environment(t, storetest.URL(t), "nats://127.0.0.1:1")
	maps.Copy(env, map[string]string{"HASH_MEMORY_KIB": "64", "SESSION_RATE_PER_MINUTE": "1000000"})
	s := start(t, env)
	signUp(t, s, "mina")
	refusal := func(name string) time.Duration {
		began := time.Now()
		resp, err := http.Post(s.public+"/v1/sessions", "application/json",
			bytes.NewReader([]byte(`{"username":"`+name+`","password":"another password"}`)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("%s: %s %v", name, resp.Status, err)
		}
		return time.Since(began)
	}
	var differences, known []float64
	slower := 0
	for i := range pairs + 50 {
		names, took := []string{"mina", "nora"}, map[string]time.Duration{}
		rand.Shuffle(2, func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			took[name] = refusal(name)
		}
		if i < 50 { // warm-up: connections, statements
			continue
		}
		if took["mina"] > took["nora"] {
			slower++
		}
		differences = append(differences, float64(took["mina"]-took["nora"]))
		known = append(known, float64(took["mina"]))
	}
	z := (float64(slower) - pairs/2) / math.Sqrt(pairs/4)
	difference := median(differences) / median(known)
	t.Logf("the name that exists was slower in %d of %d pairs (%.1f standard deviations), by %.1f %% of %s", slower,
		pairs, z, 100*difference, time.Duration(median(known)))
	if math.Abs(z) > deviations && math.Abs(difference) > share {
		t.Errorf("the time reveals whether a name exists: %d of %d pairs, %.1f standard deviations, %.1f %%", slower,
			pairs, z, 100*difference)
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// A missing pepper is the operator's mistake: no member is told that the password is wrong, and the log names
// the missing pepper.
func TestMissingPepper(t *testing.T) {
	const old, newer = "2025:b2xkIGtleSBvZiBzaXh0ZWVu", "2026:bmV3IGtleSBvZiBzaXh0ZWVu"
	url := storetest.URL(t)
	run := func(peppers string) *svc {
		env := environment(t, url, "nats://127.0.0.1:1")
		env["PASSWORD_PEPPERS"] = peppers
		return start(t, env)
	}
	s := run(old)
	signUp(t, s, "mina")
	pool := storetest.Connect(t, url)
	keyed := func(id string) int {
		return storetest.Count(t, pool,
			"SELECT count(*) FROM member WHERE password_hash LIKE '%,keyid=' || rtrim(encode($1::text::bytea, "+
				"'base64'), '=') || '$%'", id)
	}
	if keyed("2025") != 1 {
		t.Error("the hash does not name its pepper")
	}
	lost := run(newer)
	status, _, body, raw := call(t, "POST", lost.public+"/v1/sessions", `{"username":"mina","password":"`+phrase+`"}`)
	if log := lost.log.String(); status != 500 || body["code"] != "internal" || !strings.Contains(log, `2025`) ||
		strings.Contains(log, "b2xk") || strings.Contains(log, "bmV3") {
		t.Errorf("%d %s\n%s", status, raw, log)
	}
	signIn(t, run(newer+"\n"+old), "mina")
	if keyed("2026") != 1 {
		t.Error("the hash was not renewed with the newer pepper")
	}
	signIn(t, lost, "mina")
}
