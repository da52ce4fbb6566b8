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

// The size of the attack. The defaults are those of make verify; make chaos asks for more. All random choices
// come from the seed.
var (
	seed     = flag.Uint64("seed", 1, "of everything that is drawn at random")
	rate     = flag.Int("rate", 60, "signups per second during the attack")
	kills    = flag.Int("kills", 35, "kill -9 of services at named points; 3 of 7 hit a relay")
	duration = flag.Duration("duration", 0,
		"length of the attack, whatever the counts; 0: until the counts are reached")
	rounds     = flag.Int("rounds", 1, "times that broker, database, links and provider are attacked")
	races      = flag.Int("races", 2000, "withdrawals that race with the provisioning")
	signups    = flag.Int("signups", 0, "least number of acknowledged signups")
	pending    = flag.Int("pending", 2000, "signups that wait for a provider in its outage")
	outageTime = flag.Duration("outage", 20*time.Second, "length of that outage")
	open       = flag.Int("open", 500,
		"signups that are open when the broker is wiped while the storage service is down")
	reportDir = flag.String("report", "", "write the results as JSON into this folder")
)

// TestFaultMatrix attacks a system of two replicas of each service, from all sides, while people sign up and
// leave. Then it judges the result.
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	w := startWorld(t, *seed)
	w.progress("the system is up; seed %d", *seed)
	w.attack("services die", false, w.leaveSoon, w.killServices)
	for range *rounds {
		w.attack("the broker dies and freezes", true, w.leaveSometimes, w.stopBroker)
		w.attack("the broker loses data", true, w.leaveSometimes, w.loseBroker)
		w.attack("messages repeat, swap and break", true, w.leaveSometimes, w.disorder)
		w.attack("clients have no manners", true, w.leaveSometimes, w.harass)
		w.attack("Postgres dies", false, w.leaveSometimes, w.stopPostgres)
		w.attack("links to storage and NATS fail", true, w.leaveSometimes,
			func() error { return w.breakLinks("storage:nats", "storage:postgres", "member:nats") })
		w.attack("links to members fail", false, w.leaveSometimes,
			func() error { return w.breakLinks("member:postgres", "client:member", "client:member-2") })
		w.attack("the provider misbehaves", true, w.leaveSometimes, w.misbehave)
	}
	before := w.count("MEMBER_DATABASE_URL", raced) // while services died
	w.attack("people leave at once", true, w.leaveAtOnce, func() error {
		return w.await(func() bool {
			now := w.count("MEMBER_DATABASE_URL", raced)
			return now >= *races && now-before >= *races/4 || w.spent(0.93)
		})
	})
	seen := w.count("MEMBER_DATABASE_URL", raced)
	w.tally("withdrawal while provisioning", min(seen, *races), seen)
	if err := w.pauseWorker(); err != nil {
		t.Error(err)
	}
	if missing := *signups - int(w.tries.acknowledged.Load()); missing > 0 {
		w.attack("more people sign up", true, nil, func() error {
			return w.await(func() bool { return int(w.tries.acknowledged.Load()) >= *signups || w.spent(1) })
		})
	}
	w.judge()
}

// spent reports whether a part of the time is over, if the time is limited.
func (w *world) spent(part float64) bool {
	return *duration > 0 && time.Since(w.began).Seconds() > part*duration.Seconds()
}

// raced counts the withdrawals that began while the storage was being provisioned.
const raced = `SELECT count(DISTINCT e.saga_id) FROM saga_event e WHERE e.state = 'withdrawing' AND e.version = 2`

// await polls without its own time limit, because go test has one. It gives up if the load does.
func (w *world) await(cond func() bool) error {
	for !cond() {
		select {
		case <-w.load.spoilt:
			return errors.New("the clients have given up")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// between waits for a random time, so that the attack can hit at any moment.
func between(r *rand.Rand, least, most time.Duration) {
	<-time.After(least + time.Duration(r.Int64N(int64(most-least))))
}

// The points at which a service can be made to end itself: the steps of its relays, and the statements around
// everything that it does.
var (
	relaySteps = []string{"read", "publish", "published", "checkpoint", "checkpointed"}
	points     = map[string][]string{
		"member": {
			"before.lookUpSignup", "before.insertMember", "after.insertMember", "before.commit.loadSagas",
			"after.commit.loadSagas",
			"after.queueMails", "after.claimMails", "before.settleMail",
		},
		"storage": {
			"before.commit.insertStorages", "after.commit.insertStorages", "after.claimDue", "before.finishAttempts",
			"before.commit.finishAttempts", "after.commit.finishAttempts",
		},
	}
)

// killer makes the replicas of one service end themselves at points, one after the other.
type killer struct {
	*world
	service string
	mu      sync.Mutex
	rand    *rand.Rand
	todo    []string // points
	open    int      // armed, but not yet reached
}

func (w *world) killServices() error {
	// storage-svc sends events on its non-essential lane only when attempts fail.
	if err := w.fault("flaky", 0.1, 0); err != nil {
		return err
	}
	var services sync.WaitGroup
	errs := make([]error, 2)
	for i, service := range []string{"member", "storage"} {
		k := &killer{world: w, service: service, rand: rand.New(rand.NewPCG(*seed, uint64(i+1)))}
		k.draw((*kills + i) / 2)
		services.Go(func() { errs[i] = k.run() })
	}
	services.Wait()
	return errors.Join(errors.Join(errs...), w.fault("none", 0, 0))
}

// draw chooses the points: each kind in turn, in random order.
func (k *killer) draw(n int) {
	relays := (n*3 + 6) / 7
	for i := range n {
		point := fmt.Sprintf("relay.%s.%s:%d", [...]string{"essential", "essential", "nonessential"}[i%3],
			relaySteps[i%len(relaySteps)], 1+k.rand.IntN(4))
		if i >= relays {
			sql := points[k.service]
			point = fmt.Sprintf("%s:%d", sql[(i-relays)%len(sql)], 1+k.rand.IntN(3))
		}
		k.todo = append(k.todo, point)
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

// attack arms one replica with one point after the other. Only the leader reaches a relay's point, and the
// leader is the replica that did not die last: so both replicas are armed. A replica that has no points left
// stays down until the other one has led.
func (k *killer) attack(replica string) error {
	for {
		k.mu.Lock()
		if len(k.todo) == 0 || k.spent(0.62) {
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
		k.plan(kindOf(k.service, point), 1)
		err := k.killAt(replica, point)
		k.mu.Lock()
		k.open--
		k.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// killAt arms a replica and waits until it dies. Two replicas could wait for ever for each other's lane, each leading
// the lane that the other one waits for. So killAt restarts its replica after a while, which hands over its lane.
func (k *killer) killAt(replica, point string) error {
	const limit = 5 * time.Minute
	// Messages that a dead consumer had fetched are redelivered after half a minute. They may be all the work
	// there is.
	wait := 45 * time.Second
	if strings.HasPrefix(point, "relay.") {
		wait = 8*time.Second + rand.N(4*time.Second) // a dead leader is replaced after six seconds
	}
	log := filepath.Join(k.dir, "log", replica+".log")
	name, _, _ := strings.Cut(point, ":")
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if err := k.do("kill", replica, ""); err != nil {
			return err
		}
		seen, err := occurrences(log, "point="+name)
		if err != nil {
			return err
		}
		_ = k.do("start", replica, point) // fails if the point is reached before the service is ready
		dead, err := k.dies(replica, wait)
		if err != nil {
			return err
		}
		if !dead {
			continue
		}
		if now, err := occurrences(log, "point="+name); err != nil || now != seen+1 {
			return errors.Join(err, fmt.Errorf("%s died, but not at %s", replica, point))
		}
		k.fired(kindOf(k.service, point))
		return nil
	}
	return fmt.Errorf("%s has not come to %s within %s", replica, point, limit)
}

// dies reports whether a replica ends without a request, within the given time.
func (k *killer) dies(replica string, within time.Duration) (bool, error) {
	deadline := time.Now().Add(within)
	for time.Now().Before(deadline) {
		state, err := k.look(replica)
		if err != nil || state == "died" {
			return err == nil, err
		}
		<-time.After(20 * time.Millisecond)
	}
	return false, nil
}

func occurrences(file, text string) (int, error) {
	content, err := os.ReadFile(file)
	return strings.Count(string(content), text), err
}
