package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// promise is a signup that was answered with 201.
type promise struct {
	Username string
	SignupID string
	MemberID string
	Took     time.Duration
}

// journal is the client's own record of what it was promised. Safe for concurrent use.
type journal struct {
	mu       sync.Mutex
	promises []promise
}

func (j *journal) add(p promise) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.promises = append(j.promises, p)
}

func (j *journal) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.promises)
}

// median is the time within which half of the promises were made.
func median(promises []promise) time.Duration {
	times := make([]time.Duration, len(promises))
	for i, p := range promises {
		times[i] = p.Took
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// signUp signs somebody up at a replica of the member service.
func signUp(client *http.Client, member string) (promise, error) {
	name := "guest" + strings.ToLower(rand.Text()[:14])
	body := fmt.Sprintf(`{"username":%q,"password":%q,"email":"%s@example.org"}`, name, rand.Text(), name)
	began := time.Now()
	a, err := request(client, http.MethodPost, member+"/v1/members", body, nil)
	if err != nil {
		return promise{}, err
	}
	if a.Status != http.StatusCreated {
		return promise{}, fmt.Errorf("POST /v1/members answered %d: %v", a.Status, a.Body)
	}
	p := promise{Username: name, Took: time.Since(began)}
	p.SignupID, _ = a.Body["signup_id"].(string)
	p.MemberID, _ = a.Body["member_id"].(string)
	if p.SignupID == "" || p.MemberID == "" {
		return p, fmt.Errorf("a promise without ids: %v", a.Body)
	}
	return p, nil
}

// crowd signs n people up with some of them at a time, spread over the replicas. Every one must be accepted.
func (s *stack) crowd(j *journal, n, atOnce int, members ...string) []promise {
	s.t.Helper()
	made := &journal{}
	var wg sync.WaitGroup
	numbers := make(chan int)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}
	defer client.CloseIdleConnections()
	for range atOnce {
		wg.Go(func() {
			for i := range numbers {
				p, err := signUp(client, members[i%len(members)])
				if err != nil {
					s.t.Errorf("signup %d: %v", i, err)
					continue
				}
				made.add(p)
				j.add(p)
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	wg.Wait()
	if len(made.promises) != n {
		s.t.Fatalf("%d of %d signups were accepted", len(made.promises), n)
	}
	return made.promises
}

// states counts the given promises by the state that their owners see.
func (s *stack) states(promises []promise) map[string]int {
	s.t.Helper()
	count := map[string]int{}
	for _, p := range promises {
		count[s.stateOf(p)]++
	}
	return count
}

func (s *stack) stateOf(p promise) string {
	s.t.Helper()
	a := s.call(http.MethodGet, s.env["MEMBER_URL"]+"/v1/signups/"+p.SignupID, "", "")
	state, _ := a.Body["state"].(string)
	if a.Status != http.StatusOK || a.Body["member_id"] != p.MemberID {
		s.t.Fatalf("GET a promised signup: %+v", a)
	}
	return state
}

// allReady waits until every promise is kept, without doing anything for it.
func (s *stack) allReady(promises []promise) {
	s.t.Helper()
	open := slices.Clone(promises)
	last := ""
	defer func() {
		if len(open) > 0 {
			s.t.Logf("%d of %d are not ready; the first is %s", len(open), len(promises), last)
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

// audit compares four independent records: the client's journal, both databases, and what the provider did.
func (s *stack) audit(j *journal) {
	s.t.Helper()
	began := time.Now()
	s.allReady(j.promises)
	took := time.Since(began)
	created := s.providerLedger()
	for _, p := range j.promises {
		if created[p.MemberID] != 1 {
			s.t.Errorf("%s: the provider created %d storages", p.MemberID, created[p.MemberID])
		}
	}
	n := len(j.promises)
	if len(created) != n {
		s.t.Errorf("the provider has created storages for %d members, %d were promised one", len(created), n)
	}
	if folders := s.providerFolders(); folders != n {
		s.t.Errorf("the provider holds %d storages for %d members", folders, n)
	}
	for name, count := range map[string]int{
		"members": s.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM member"),
		"sagas":   s.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM signup_saga WHERE state = 'ready' AND generation = 1"),
		"storages": s.count("STORAGE_DATABASE_URL",
			"SELECT count(*) FROM storage WHERE desired = 'present' AND status = 'ready'"),
	} {
		if count != n {
			s.t.Errorf("%d %s for %d promises", count, name, n)
		}
	}
	if dead := s.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM dead_letter"); dead != 0 {
		s.t.Errorf("%d dead letters", dead)
	}
	s.t.Logf("audit: accepted %d, all ready after %s, storages created %d", n, took.Round(time.Millisecond), len(created))
}

// providerLedger counts the creates of each member's storage, and fails on anything but creates.
func (s *stack) providerLedger() map[string]int {
	s.t.Helper()
	created := map[string]int{}
	file, err := os.Open(s.env["PROVIDER_LEDGER"])
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var entry struct {
			Op       string `json:"op"`
			MemberID string `json:"member_id"`
		}
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil || entry.Op != "create" {
			s.t.Errorf("ledger: %v: %s", err, lines.Text())
		}
		created[entry.MemberID]++
	}
	if err := lines.Err(); err != nil {
		s.t.Fatal(err)
	}
	return created
}

// providerFolders counts the storages that are there, by their owner markers.
func (s *stack) providerFolders() int {
	s.t.Helper()
	owners := 0
	err := filepath.WalkDir(s.env["PROVIDER_DIR"], func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == "owner" {
			owners++
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return owners
}

// exec changes a database, to pass over time.
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

// count asks a database.
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
