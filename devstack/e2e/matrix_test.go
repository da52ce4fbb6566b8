package e2e

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The size of the attack. The defaults are the gate; make chaos asks for more. Whatever is drawn at random is drawn from the seed.
var (
	seed       = flag.Uint64("seed", 1, "of everything that is drawn at random")
	rate       = flag.Int("rate", 60, "signups per second during the attack")
	kills      = flag.Int("kills", 35, "kill -9 of services at named points; 3 of 7 hit a relay")
	rounds     = flag.Int("rounds", 1, "times that broker, database, links and provider are attacked")
	races      = flag.Int("races", 2000, "withdrawals that race with the provisioning")
	signups    = flag.Int("signups", 0, "least number of acknowledged signups")
	reportFile = flag.String("report", "", "write the result as JSON to this file")
)

// TestFaultMatrix attacks a system of two replicas each, from all sides, while people sign up and leave, and judges what is left.
func TestFaultMatrix(t *testing.T) {
	w := startWorld(t, *seed)
	w.progress("the system is up; seed %d", *seed)
	w.attack("services die", false, nil, w.killServices)
	for range *rounds {
		w.attack("the broker dies and freezes", true, nil, w.stopBroker)
		w.attack("the broker loses data", true, nil, w.loseBroker)
		w.attack("Postgres dies", false, nil, w.stopPostgres)
		w.attack("links to storage and NATS fail", true, nil, func() error { return w.breakLinks("storage:nats", "storage:postgres", "member:nats") })
		w.attack("links to members fail", false, nil, func() error { return w.breakLinks("member:postgres", "client:member", "client:member-2") })
		w.attack("the provider misbehaves", true, nil, w.misbehave)
	}
	if missing := *signups - int(w.tries.acknowledged.Load()); missing > 0 {
		w.attack("more people sign up", true, nil, func() error { return w.await(func() bool { return int(w.tries.acknowledged.Load()) >= *signups }) })
	}
	w.judge()
}

// await polls without a limit of its own: go test has one.
func (w *world) await(cond func() bool) error {
	for !cond() {
		select {
		case <-w.t.Context().Done():
			return w.t.Context().Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// between waits for a random time, to let the attack hit at any moment.
func between(r *rand.Rand, least, most time.Duration) {
	<-time.After(least + time.Duration(r.Int64N(int64(most-least))))
}

// Where a service can be made to end itself: the steps of its relays, and the statements around everything that it does.
var (
	relaySteps = []string{"read", "publish", "published", "checkpoint", "checkpointed"}
	points     = map[string][]string{
		"member": {
			"before.lookUpSignup", "before.insertMember", "after.insertMember", "before.commit.loadSagas", "after.commit.loadSagas",
			"after.queueMails", "after.claimMails", "before.finishMail",
		},
		"storage": {
			"before.commit.insertStorages", "after.commit.insertStorages", "after.claimDue", "before.finishAttempts",
			"before.commit.finishAttempts", "after.commit.finishAttempts",
		},
	}
)

// killer lets the replicas of one service end themselves at points, one after the other.
type killer struct {
	*world
	service string
	mu      sync.Mutex
	rand    *rand.Rand
	todo    []string // points
	open    int      // armed, but not reached
}

func (w *world) killServices() error {
	var services sync.WaitGroup
	errs := make([]error, 2)
	for i, service := range []string{"member", "storage"} {
		k := &killer{world: w, service: service, rand: rand.New(rand.NewPCG(*seed, uint64(i+1)))}
		k.draw((*kills + i) / 2)
		services.Go(func() { errs[i] = k.run() })
	}
	services.Wait()
	return errors.Join(errs...)
}

// draw picks the points: each kind in turn, in random order.
func (k *killer) draw(n int) {
	relays := (n*3 + 6) / 7
	for i := range n {
		point := fmt.Sprintf("relay.%s.%s:%d", [...]string{"essential", "essential", "nonessential"}[i%3], relaySteps[i%len(relaySteps)], 1+k.rand.IntN(4))
		if i >= relays {
			sql := points[k.service]
			point = fmt.Sprintf("%s:%d", sql[(i-relays)%len(sql)], 1+k.rand.IntN(5))
		}
		k.todo = append(k.todo, point)
		k.plan(kindOf(k.service, point), 1)
	}
	k.rand.Shuffle(n, func(i, j int) { k.todo[i], k.todo[j] = k.todo[j], k.todo[i] })
}

// kindOf groups points for the report.
func kindOf(service, point string) string {
	point, _, _ = strings.Cut(point, ":")
	if parts := strings.Split(point, "."); parts[0] == "relay" {
		return "kill -9 relay of " + service + " at " + parts[2]
	}
	return "kill -9 " + service + " " + point
}

func (k *killer) run() error {
	replicas := members
	if k.service == "storage" {
		replicas = storages
	}
	var wg sync.WaitGroup
	errs := make([]error, len(replicas))
	for i, replica := range replicas {
		wg.Go(func() { errs[i] = k.attack(replica) })
	}
	wg.Wait()
	for _, replica := range replicas {
		errs = append(errs, k.do("kill", replica, ""), k.do("start", replica, ""))
	}
	return errors.Join(errs...)
}

// attack arms one replica with point after point. A relay's point is reached only by the leader, which is the one replica that
// did not die last: so both are armed. One that has nothing left to die of stays down until the other one has led.
func (k *killer) attack(replica string) error {
	for {
		k.mu.Lock()
		if len(k.todo) == 0 {
			k.mu.Unlock()
			if err := k.do("kill", replica, ""); err != nil {
				return err
			}
			return k.await(func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.open == 0 })
		}
		point := k.todo[0]
		k.todo = k.todo[1:]
		k.open++
		k.mu.Unlock()
		if err := k.killAt(replica, point); err != nil {
			return err
		}
		k.mu.Lock()
		k.open--
		k.mu.Unlock()
	}
}

func (k *killer) killAt(replica, point string) error {
	const limit = 45 * time.Second // a leader that died is replaced after 6 s, what it had fetched is delivered again after 30
	if err := k.do("kill", replica, ""); err != nil {
		return err
	}
	log := filepath.Join(k.dir, "log", replica+".log")
	name, _, _ := strings.Cut(point, ":")
	seen, err := occurrences(log, "point="+name)
	if err != nil {
		return err
	}
	armed := k.do("start", replica, point) // fails if the point is reached before the service is ready
	deadline := time.Now().Add(limit)
	for {
		state, err := k.look(replica)
		if err != nil {
			return err
		}
		if state == "died" {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has not come to %s within %s: %w", replica, point, limit, armed)
		}
		<-time.After(20 * time.Millisecond)
	}
	now, err := occurrences(log, "point="+name)
	if err != nil || now != seen+1 {
		return errors.Join(err, fmt.Errorf("%s died, but not at %s: %w", replica, point, armed))
	}
	k.fired(kindOf(k.service, point))
	return nil
}

func occurrences(file, text string) (int, error) {
	content, err := os.ReadFile(file)
	return strings.Count(string(content), text), err
}
