package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// stopBroker kills and pauses NATS.
func (w *world) stopBroker() error {
	const times = 5
	w.plan("NATS kill -9", times)
	w.plan("NATS SIGSTOP", times)
	for i := range 2 * times {
		begin, end, kind, least, most := "kill", "start", "NATS kill -9", 200*time.Millisecond, 1200*time.Millisecond
		if i%2 == 1 {
			begin, end, kind, least, most = "pause", "resume", "NATS SIGSTOP", 500*time.Millisecond,
				2500*time.Millisecond
		}
		if err := w.do(begin, "nats", ""); err != nil {
			return err
		}
		between(w.rand, least, most)
		state, err := w.look("nats")
		if err != nil {
			return err
		}
		if state == "killed" || state == "paused" {
			w.fired(kind)
		}
		if err := w.do(end, "nats", ""); err != nil {
			return err
		}
		between(w.rand, 100*time.Millisecond, 1500*time.Millisecond)
	}
	return nil
}

// loseBroker wipes the folder of NATS once, and rolls it back twice to its state some seconds earlier.
func (w *world) loseBroker() error {
	const back = 4 * time.Second
	w.plan("NATS wiped", 1)
	w.plan("NATS rolled back", 2)
	canary := filepath.Join(w.env["NATS_DIR"], "wiped")
	if err := os.WriteFile(canary, nil, 0o600); err != nil {
		return err
	}
	if err := w.do("wipe", "nats", ""); err != nil {
		return err
	}
	if _, err := os.Stat(canary); errors.Is(err, os.ErrNotExist) {
		w.fired("NATS wiped")
	}
	for range 2 {
		between(w.rand, time.Second, 2*time.Second)
		snapshot := filepath.Join(w.dir, "nats-snapshot")
		err := w.whileKilled("nats", func() error { return os.CopyFS(snapshot, os.DirFS(w.env["NATS_DIR"])) })
		if err != nil {
			return err
		}
		<-time.After(back)
		err = w.whileKilled("nats", func() error {
			before, err := folderSize(w.env["NATS_DIR"])
			if err != nil {
				return err
			}
			if err := os.RemoveAll(w.env["NATS_DIR"]); err != nil {
				return err
			}
			if err := os.Rename(snapshot, w.env["NATS_DIR"]); err != nil {
				return err
			}
			if after, err := folderSize(w.env["NATS_DIR"]); err != nil || after >= before {
				return fmt.Errorf("rolled back from %d to %d bytes: nothing was lost (%w)", before, after, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		w.fired("NATS rolled back")
	}
	return nil
}

func (w *world) whileKilled(component string, do func() error) error {
	if err := w.do("kill", component, ""); err != nil {
		return err
	}
	return errors.Join(do(), w.do("start", component, ""))
}

func folderSize(dir string) (size int64, err error) {
	err = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// databaseTime is slightly more than DATABASE_TIMEOUT.
const databaseTime = 3 * time.Second

// stopPostgres kills the database without warning, in the middle of commits. Meanwhile a signup is told when to retry.
func (w *world) stopPostgres() error {
	const times = 4
	w.plan("Postgres stopped at once", times)
	impatient := &http.Client{Timeout: oneTry}
	for range times {
		err := w.whileKilled("postgres", func() error {
			between(w.rand, 100*time.Millisecond, time.Second)
			began := time.Now()
			a, err := request(impatient, http.MethodPost, w.env["MEMBER_URL"]+"/v1/members",
				`{"username":"nobody","password":"a long enough password"}`, nil)
			took := time.Since(began)
			if err != nil || a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" ||
				took > databaseTime {
				return fmt.Errorf("a signup without Postgres after %s: %+v, %w", took, a, err)
			}
			w.fired("Postgres stopped at once")
			return nil
		})
		if err != nil {
			return err
		}
		between(w.rand, 500*time.Millisecond, 2*time.Second)
	}
	return nil
}

// breakLinks makes each link fail in two ways.
func (w *world) breakLinks(links ...string) error {
	for i, name := range links {
		for n := range 2 {
			fault := linkFaults[(i+2*n+w.rand.IntN(2))%len(linkFaults)]
			link, kind := w.links[name], "link "+name+" "+string(fault)
			w.plan(kind, 1)
			met := link.met(fault)
			link.set(fault)
			between(w.rand, 2*time.Second, 3*time.Second)
			if link.met(fault) > met {
				w.fired(kind)
			}
			link.set(passing)
			between(w.rand, 300*time.Millisecond, time.Second)
		}
	}
	return nil
}

// misbehave makes the provider fail 3 of 10 calls, in one way after the other, for 2,000 calls.
func (w *world) misbehave() error {
	const calls = 2000
	modes := []string{"outage", "slow", "flaky", "hang"}
	for _, mode := range modes {
		w.plan("provider "+mode, 1)
	}
	began, err := w.attempts()
	if err != nil {
		return err
	}
	w.plan("provider calls", calls)
	var made int
	for i := 0; made < calls; i++ {
		mode := modes[i%len(modes)]
		if err := w.fault(mode, 0.3, 300); err != nil {
			return err
		}
		between(w.rand, time.Second, 2*time.Second)
		now, err := w.attempts()
		if err != nil {
			return err
		}
		made = now - began
		w.fired("provider " + mode)
	}
	w.tally("provider calls", 0, made)
	return w.fault("none", 0, 0)
}

// fault sets how the provider misbehaves.
func (w *world) fault(mode string, probability float64, latencyMS int) error {
	body := fmt.Sprintf(`{"mode":%q,"probability":%g,"latency_ms":%d}`, mode, probability, latencyMS)
	a, err := request(http.DefaultClient, http.MethodPut, w.env["STORAGE_URL"]+"/v1/faults", body,
		map[string]string{"Authorization": "Bearer " + w.env["STORAGE_TOKEN"]})
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("PUT /v1/faults: %+v", a)
	}
	return err
}

var attemptsLine = regexp.MustCompile(`(?m)^storage_attempt_seconds_count\{.*\} (\d+)$`)

// attempts returns how many provider calls both storage services have counted since their start.
func (w *world) attempts() (sum int, err error) {
	for _, url := range []string{"STORAGE_URL", "STORAGE_URL_2"} {
		for _, found := range attemptsLine.FindAllStringSubmatch(metrics(w.t, w.env[url]), -1) {
			n, err := strconv.Atoi(strings.TrimSpace(found[1]))
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// leaveSometimes makes one person in ten leave after a while.
func (w *world) leaveSometimes(ctx context.Context, p person) error {
	if rand.N(10) != 0 {
		return nil
	}
	<-time.After(rand.N(2 * time.Second))
	return w.people.leave(ctx, p)
}

// leaveAtOnce makes a person leave at a random moment of the provisioning.
func (w *world) leaveAtOnce(ctx context.Context, p person) error {
	<-time.After(rand.N(60 * time.Millisecond))
	return w.people.leave(ctx, p)
}

// leaveSoon makes half of the people leave at once, and some of the others later.
func (w *world) leaveSoon(ctx context.Context, p person) error {
	if rand.N(2) == 0 {
		return w.leaveAtOnce(ctx, p)
	}
	return w.leaveSometimes(ctx, p)
}

// pauseWorker pauses a storage service in the middle of its calls, lets the other one remove the storages once
// the leases have expired, and resumes the first. The first must not create what it was about to create. For
// each resumed call it is random whether the call continues or has already timed out, so there are several.
func (w *world) pauseWorker() error {
	const kind, together = "worker paused past its lease", 12
	w.plan(kind, 1)
	// Other pending work would be paused instead of the storages that are about to be removed.
	err := errors.Join(w.until("nothing to be under way", func() bool {
		return w.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM storage WHERE status = 'pending'") == 0
	}),
		w.do("stop", "storage-2", ""), w.fault("slow", 1, 700))
	if err != nil {
		return err
	}
	var people []person
	for range together {
		p, err := w.people.signUp(w.t.Context(), false)
		if err != nil {
			return err
		}
		people = append(people, p)
	}
	leased := func() int {
		return w.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM storage WHERE lease_token IS NOT NULL")
	}
	if err := errors.Join(w.until("calls to begin", func() bool { return leased() > together/2 }),
		w.do("pause", "storage", "")); err != nil {
		return err
	}
	w.exec("STORAGE_DATABASE_URL", "UPDATE provider_fault SET mode = 'none'")
	w.progress("%d calls are frozen", leased())
	for _, p := range people {
		if err := w.people.leave(w.t.Context(), p); err != nil {
			return err
		}
	}
	refused := regexp.MustCompile(`storage_attempt_seconds_count\{desired="present",result="rejected"\} [1-9]`)
	err = errors.Join(w.do("start", "storage-2", ""), w.until("the storages to be taken away", func() bool {
		return w.count("MEMBER_DATABASE_URL", "SELECT count(*) FROM signup_saga WHERE state = 'withdrawing'") == 0
	}), w.do("resume", "storage", ""))
	if err == nil {
		err = w.until("a call that was woken to be refused",
			func() bool { return refused.MatchString(metrics(w.t, w.env["STORAGE_URL"])) })
	}
	if err == nil {
		w.fired(kind)
	}
	return err
}

// until is like eventually, but returns an error, so that the oracle can still judge the system.
func (w *world) until(what string, cond func() bool) error {
	for deadline := time.Now().Add(healLimit); !cond(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("gave up waiting for %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
	return nil
}
