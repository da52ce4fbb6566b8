package e2e

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/devstack/e2e/oracle"
)

// median returns the median time until people had their responses.
func median(people []person) time.Duration {
	times := make([]time.Duration, len(people))
	for i, p := range people {
		times[i] = p.took
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// crowd signs n people up, atOnce at a time, spread over the replicas. Each must be accepted at the first try.
func (s *stack) crowd(b *book, n, atOnce int, members ...string) []person {
	s.t.Helper()
	c := newClient(b, new(tries), members...)
	c.patience = 0
	defer c.http.CloseIdleConnections()
	var mu sync.Mutex
	var people []person
	var wg sync.WaitGroup
	turns := make(chan struct{})
	for range atOnce {
		wg.Go(func() {
			for range turns {
				p, err := c.signUp(s.t.Context(), false)
				if err != nil {
					s.t.Error(err)
					continue
				}
				mu.Lock()
				people = append(people, p)
				mu.Unlock()
			}
		})
	}
	for range n {
		turns <- struct{}{}
	}
	close(turns)
	wg.Wait()
	if len(people) != n {
		s.t.Fatalf("%d of %d signups were accepted", len(people), n)
	}
	return people
}

// states counts people by the state that they see themselves.
func (s *stack) states(people []person) map[string]int {
	s.t.Helper()
	count := map[string]int{}
	for _, p := range people {
		count[s.stateOf(p)]++
	}
	return count
}

func (s *stack) stateOf(p person) string {
	s.t.Helper()
	a := s.call(http.MethodGet, s.env["MEMBER_URL"]+"/v1/signups/"+p.SignupID, "", "")
	state, _ := a.Body["state"].(string)
	if a.Status != http.StatusOK || a.Body["member_id"] != p.MemberID {
		s.t.Fatalf("GET a promised signup: %+v", a)
	}
	return state
}

// allReady waits until every promise is kept, without helping.
func (s *stack) allReady(people []person) {
	s.t.Helper()
	open := slices.Clone(people)
	last := ""
	defer func() {
		if len(open) > 0 {
			s.t.Logf("%d of %d are not ready; the first is %s", len(open), len(people), last)
		}
	}()
	eventually(s.t, healLimit, "every signup to be ready", func() bool {
		for len(open) > 0 {
			if last = s.stateOf(open[0]); last != "ready" {
				return false
			}
			open = open[1:]
		}
		return true
	})
}

// audit waits until every signup is ready and has the oracle judge what can be judged without an attack.
func (s *stack) audit(b *book, people []person) {
	s.t.Helper()
	began := time.Now()
	s.allReady(people)
	took := time.Since(began)
	e, err := oracle.Collect(s.t.Context(), s.sources(b))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, v := range oracle.Judge(e) {
		if v.Broken > 0 && slices.Contains([]string{"I1", "I2", "I3", "I4", "I6", "I8", "I10"}, v.Name) {
			s.t.Errorf("%s (%s): %d of %d broken: %s", v.Name, v.Claim, v.Broken, v.Checked,
				strings.Join(v.Examples, "; "))
		}
	}
	if len(e.Members) != len(people) || len(e.Ledger) != len(people) {
		s.t.Errorf("%d members and %d effects at the provider for %d people", len(e.Members), len(e.Ledger),
			len(people))
	}
	s.t.Logf("audit: %d people, all ready after %s", len(people), took.Round(time.Millisecond))
}

// sources returns where the evidence is. The URLs bypass the proxies.
func (s *stack) sources(b *book) oracle.Sources {
	return oracle.Sources{
		Journal: b.file.Name(), Ledger: s.env["PROVIDER_LEDGER"], Provider: s.env["PROVIDER_DIR"],
		MemberDatabase: s.env["MEMBER_DATABASE_URL"], StorageDatabase: s.env["STORAGE_DATABASE_URL"],
		Searched: []string{s.env["NATS_DIR"], filepath.Join(s.dir, "log"), s.env["PROVIDER_DIR"],
			s.env["PROVIDER_LEDGER"]},
	}
}

// exec changes a database, for example to simulate that time has passed.
func (s *stack) exec(database, sql string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.env[database])
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "-- name: passTime\n"+sql); err != nil {
		s.t.Fatal(err)
	}
}

// count returns the number that a query of a database yields.
func (s *stack) count(database, sql string) int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.env[database])
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var n int
	if err := conn.QueryRow(ctx, "-- name: auditCount\n"+sql).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}
