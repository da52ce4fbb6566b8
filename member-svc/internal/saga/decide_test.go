package saga

import (
	"math"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

var (
	one = Steps{Provision(30*time.Second, 24*time.Hour)}
	two = append(one[:1:1], Step{Name: "second", Command: "second.provision", Compensation: "second.deprovision",
		Promise: time.Minute, RedriveCap: time.Hour, GiveUpAge: 48 * time.Hour})
	refusal = contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
)

func begin(t *testing.T) Saga {
	t.Helper()
	s, effects, outcome := one.Decide(Saga{ID: "s"}, Event{Kind: SignedUp}, epoch)
	if outcome != Advanced || len(effects) != 2 || effects[0] != contract.StorageProvision ||
		effects[1] != contract.MemberSignedUp {
		t.Fatalf("signed up: %s %v", outcome, effects)
	}
	return s
}

func TestTransitions(t *testing.T) {
	reply := func(k Kind, g int64) Event { return Event{Kind: k, Step: "storage", Generation: g, Error: refusal} }
	retry, leave := Event{Kind: Retried, Actor: "ann", Reason: "more room now"}, Event{Kind: Withdraw}
	success, no := reply(Provisioned, 1), reply(Rejected, 1)
	late := func(s Saga) time.Time { return s.OpenedAt.Add(one[0].GiveUpAge) }
	soon := func(Saga) time.Time { return epoch.Add(time.Second) }
	for name, tc := range map[string]struct {
		events  []Event
		now     func(Saga) time.Time
		state   State
		gen     int64
		outcome Outcome
	}{
		"provisioned": {[]Event{reply(Provisioned, 1)}, soon, Ready, 1, Advanced},
		"provisioned twice": {[]Event{reply(Provisioned, 1), reply(Provisioned, 1)}, soon, Ready, 1,
			Unchanged},
		"rejected": {[]Event{reply(Rejected, 1)}, soon, NeedsAttention, 1, Advanced},
		"rejected twice": {[]Event{reply(Rejected, 1), reply(Rejected, 1)}, soon, NeedsAttention, 1,
			Unchanged},
		"rejected, then provisioned": {[]Event{reply(Rejected, 1), reply(Provisioned, 1)}, soon, Ready, 1,
			Advanced},
		"rejected after ready": {[]Event{reply(Provisioned, 1), reply(Rejected, 1)}, soon, Ready, 1,
			Recorded},
		"retried": {[]Event{reply(Rejected, 1), retry}, soon, Provisioning, 2, Advanced},
		"retried twice": {[]Event{reply(Rejected, 1), retry, retry}, soon, Provisioning, 2,
			Unchanged},
		"stale rejection after a retry": {[]Event{reply(Rejected, 1), retry, reply(Rejected, 1)}, soon, Provisioning,
			2, Recorded},
		"late success after a retry": {[]Event{reply(Rejected, 1), retry, reply(Provisioned, 1)}, soon, Ready, 2,
			Advanced},
		"retry while provisioning":  {[]Event{retry}, soon, Provisioning, 1, Refused},
		"retry when ready":          {[]Event{reply(Provisioned, 1), retry}, soon, Ready, 1, Refused},
		"reply never commanded":     {[]Event{reply(Provisioned, 5)}, soon, Provisioning, 1, Recorded},
		"rejection never commanded": {[]Event{reply(Rejected, 5)}, soon, Provisioning, 1, Recorded},
		"removal never commanded":   {[]Event{success, reply(Deprovisioned, 7)}, soon, Ready, 1, Recorded},
		"the largest number": {[]Event{reply(Provisioned, math.MaxInt64)}, soon, Provisioning, 1,
			Recorded},
		"own reply after it": {[]Event{reply(Provisioned, 5), success}, soon, Ready, 1, Advanced},
		"retry after it":     {[]Event{reply(Rejected, 5), no, retry}, soon, Provisioning, 2, Advanced},
		"leaving after it":   {[]Event{reply(Deprovisioned, 5), leave}, soon, Withdrawing, 2, Advanced},
		"gave up":            {[]Event{{Kind: TimerDue}}, late, NeedsAttention, 1, GaveUp},
		"gave up, asks again": {[]Event{{Kind: TimerDue}, {Kind: TimerDue}}, late, NeedsAttention, 1,
			Redriven},
		"gave up, then success": {[]Event{{Kind: TimerDue}, reply(Provisioned, 1)}, late, Ready, 1, Advanced},
		"gave up, then rejected": {[]Event{{Kind: TimerDue}, reply(Rejected, 1)}, late, NeedsAttention, 1,
			Advanced},
		"timer too early": {[]Event{{Kind: TimerDue}}, soon, Provisioning, 1, Unchanged},
		"withdraw":        {[]Event{{Kind: Withdraw}}, soon, Withdrawing, 2, Advanced},
		"withdrawn": {[]Event{{Kind: Withdraw}, reply(Deprovisioned, 2)}, soon, Withdrawn, 2,
			Advanced},
		"withdrawal refused": {[]Event{{Kind: Withdraw}, reply(Rejected, 2)}, soon, WithdrawNeedsAttention,
			2, Advanced},
		"withdrawal refused, retried": {[]Event{{Kind: Withdraw}, reply(Rejected, 2), retry}, soon, Withdrawing, 3,
			Advanced},
		"late success while withdrawing": {[]Event{{Kind: Withdraw}, reply(Provisioned, 1)}, soon, Withdrawing, 2,
			Recorded},
		"late success when withdrawn": {[]Event{{Kind: Withdraw}, reply(Deprovisioned, 2), reply(Provisioned, 1)},
			soon, Withdrawn, 2, Recorded},
		"removed although never asked to": {[]Event{reply(Deprovisioned, 1)}, soon, Provisioning, 1, Recorded},
		"reply of somebody unknown": {[]Event{{Kind: Provisioned, Step: "nobody", Generation: 7}}, soon,
			Provisioning, 1, Recorded},
		"a try failed": {[]Event{{Kind: AttemptFailed, Generation: 1}}, soon, Provisioning, 1, Recorded},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t)
			var outcome Outcome
			for _, e := range tc.events {
				s, _, outcome = one.Decide(s, e, tc.now(s))
			}
			if s.State != tc.state || s.Generation != tc.gen || outcome != tc.outcome {
				t.Errorf("got %s generation %d, %s; want %s generation %d, %s", s.State, s.Generation, outcome,
					tc.state, tc.gen, tc.outcome)
			}
		})
	}
}

func TestRejectionKeepsItsReasonUntilTheRetry(t *testing.T) {
	s, _, _ := one.Decide(begin(t), Event{Kind: Rejected, Step: "storage", Generation: 1, Error: refusal}, epoch)
	if got := (contract.StorageError{Class: s.ErrorClass, Message: s.ErrorMessage,
		Fingerprint: s.ErrorFingerprint}); got != refusal {
		t.Errorf("reason %+v, want %+v", got, refusal)
	}
	if s, _, _ = one.Decide(s, Event{Kind: Retried}, epoch); s.ErrorClass != "" || !s.RetryOpen {
		t.Errorf("after the retry: %+v", s)
	}
}

func TestTimersWaitLongerEachTime(t *testing.T) {
	s := begin(t)
	if want := epoch.Add(one[0].Promise); !s.DueAt.Equal(want) {
		t.Fatalf("first due %s, want %s", s.DueAt, want)
	}
	now := epoch
	for _, want := range []time.Duration{60, 120, 240, 480, 960, 1920, 3600, 3600, 3600} {
		now = *s.DueAt
		var outcome Outcome
		s, _, outcome = one.Decide(s, Event{Kind: TimerDue, Jitter: 1}, now)
		if got := s.DueAt.Sub(now); outcome != Redriven || got != want*time.Second {
			t.Fatalf("re-drive %d: %s, waits %s, want %s", s.Redrives, outcome, got, want*time.Second)
		}
	}
	s.Redrives = 1000
	if s, _, _ = one.Decide(s, Event{Kind: TimerDue, Jitter: 1}, *s.DueAt); s.DueAt.Sub(now) > 2*one[0].RedriveCap {
		t.Errorf("the cap does not hold: due %s", s.DueAt)
	}
}

func TestDelayedAndPublicStates(t *testing.T) {
	s := begin(t)
	if one.Delayed(s, epoch.Add(one[0].Promise)) || !one.Delayed(s, epoch.Add(one[0].Promise+1)) {
		t.Error("delayed means older than the promise")
	}
	if WithdrawNeedsAttention.Public() != Withdrawing || WithdrawNeedsAttention.Settled() ||
		!NeedsAttention.Settled() || Provisioning.Settled() {
		t.Error("public states")
	}
}

// Steps come one after the other, and are taken back in reverse; all share the saga's generation.
func TestOneStepAfterTheOther(t *testing.T) {
	reply := func(k Kind, step string, g int64) Event {
		return Event{Kind: k, Step: step, Generation: g, Error: refusal}
	}
	s, _, _ := two.Decide(Saga{}, Event{Kind: SignedUp}, epoch)
	for i, tc := range []struct {
		event   Event
		state   State
		step    int
		gen     int64
		command contract.Type // that is sent
		outcome Outcome
	}{
		{reply(Provisioned, "second", 1), Provisioning, 0, 1, "", Recorded}, // not asked for yet
		{reply(Provisioned, "storage", 1), Provisioning, 1, 1, "second.provision", Advanced},
		{reply(Provisioned, "storage", 1), Provisioning, 1, 1, "", Unchanged},
		{reply(Rejected, "storage", 1), Provisioning, 1, 1, "", Recorded}, // of a step that is done
		{reply(Rejected, "second", 1), NeedsAttention, 1, 1, "", Advanced},
		{Event{Kind: Retried}, Provisioning, 1, 2, "second.provision", Advanced},
		{reply(Provisioned, "second", 2), Ready, 1, 2, "", Advanced},
		{reply(Provisioned, "storage", 1), Ready, 1, 2, "", Unchanged},
		{Event{Kind: Withdraw}, Withdrawing, 1, 3, "second.deprovision", Advanced},
		{reply(Deprovisioned, "storage", 3), Withdrawing, 1, 3, "", Recorded}, // not its turn
		{reply(Rejected, "second", 3), WithdrawNeedsAttention, 1, 3, "", Advanced},
		{Event{Kind: Retried}, Withdrawing, 1, 4, "second.deprovision", Advanced},
		{reply(Deprovisioned, "second", 4), Withdrawing, 0, 4, "storage.deprovision", Advanced},
		{Event{Kind: Retried}, Withdrawing, 0, 4, "", Unchanged}, // the retry continues with the next step
		{reply(Deprovisioned, "second", 4), Withdrawing, 0, 4, "", Unchanged},
		{reply(Deprovisioned, "storage", 4), Withdrawn, 0, 4, "", Advanced},
		{reply(Deprovisioned, "second", 4), Withdrawn, 0, 4, "", Unchanged},
	} {
		next, effects, outcome := two.Decide(s, tc.event, epoch)
		var command contract.Type
		if len(effects) > 0 {
			command = effects[0]
		}
		if next.State != tc.state || next.Step != tc.step || next.Generation != tc.gen || command != tc.command ||
			outcome != tc.outcome {
			t.Fatalf("%d %+v: %s at step %d, generation %d, %s %s; want %+v", i, tc.event, next.State, next.Step,
				next.Generation, command, outcome, tc)
		}
		s = next
	}
}

// Each step has its own promise and give-up age, counted from the step's own command.
func TestStepsHaveTheirOwnTimes(t *testing.T) {
	s, _, _ := two.Decide(Saga{}, Event{Kind: SignedUp}, epoch)
	later := epoch.Add(time.Hour)
	s, _, _ = two.Decide(s, Event{Kind: Provisioned, Step: "storage", Generation: 1}, later)
	if !s.DueAt.Equal(later.Add(time.Minute)) || two.Delayed(s, later.Add(time.Minute)) ||
		!two.Delayed(s, later.Add(time.Minute+1)) {
		t.Errorf("due %s", s.DueAt)
	}
	if _, _, outcome := two.Decide(s, Event{Kind: TimerDue}, later.Add(48*time.Hour-1)); outcome != Redriven {
		t.Errorf("before the give-up age: %s", outcome)
	}
	if s, _, outcome := two.Decide(s, Event{Kind: TimerDue}, later.Add(48*time.Hour)); outcome != GaveUp ||
		s.State != NeedsAttention {
		t.Errorf("at the give-up age: %s", outcome)
	}
}

// During a rollout an old version meets sagas at a step that it does not know. It leaves them alone, unless
// there is a retry or a withdrawal (see checkHandOver). A saga that was ready before a step was added stays
// ready, and a step that was never started is not taken back.
func TestStepsAreAdded(t *testing.T) {
	ahead := Saga{State: Provisioning, Step: 1, Version: 2, Generation: 1, DueAt: &epoch}
	for _, k := range []Kind{TimerDue, Provisioned, Deprovisioned, Rejected} {
		if got, effects, outcome := one.Decide(ahead, Event{Kind: k, Step: "storage", Generation: 9},
			epoch); outcome != Refused || got != ahead || len(effects) > 0 {
			t.Errorf("%s: %s %+v", k, outcome, got)
		}
	}
	if one.Delayed(ahead, epoch) {
		t.Error("nobody knows whether it is delayed")
	}
	s, _, _ := one.Decide(begin(t), Event{Kind: Provisioned, Step: "storage", Generation: 1}, epoch)
	s, effects, _ := two.Decide(s, Event{Kind: Withdraw}, epoch)
	if effects[0] != contract.StorageDeprovision {
		t.Errorf("%v", effects)
	}
	if s, _, _ = two.Decide(s, Event{Kind: Deprovisioned, Step: "storage", Generation: 2},
		epoch); s.State != Withdrawn {
		t.Errorf("%+v", s)
	}
}

// A row whose counters an older version or a manual edit has pushed out of bounds still accepts all events that
// its state accepts.
func TestCountersOutOfBoundsComeBack(t *testing.T) {
	for _, state := range []State{Ready, Provisioning, NeedsAttention, WithdrawNeedsAttention} {
		poisoned := begin(t)
		poisoned.State = state
		poisoned.Generation, poisoned.Version, poisoned.Redrives = math.MaxInt64, math.MaxInt64, math.MaxInt
		for _, kind := range []Kind{Withdraw, Retried, TimerDue} {
			s, _, outcome := one.Decide(poisoned, Event{Kind: kind}, epoch.Add(one[0].Promise))
			if outcome != Advanced && outcome != Redriven {
				continue // this state does not accept the event
			}
			if s.Generation != contract.MaxGeneration || s.Version <= 0 || s.Redrives < 0 ||
				s.Redrives > math.MaxInt32 {
				t.Errorf("%s of %s: %+v", kind, state, s)
			}
			reply := Event{Kind: Provisioned, Step: "storage", Generation: s.Generation}
			if s.State.leaving() {
				reply.Kind = Deprovisioned
			}
			before := s.Version
			if s, _, outcome = one.Decide(s, reply, epoch); outcome == Advanced && s.Version == before {
				t.Errorf("%s of %s: two transitions to one version", kind, state)
			}
			if s.State != Ready && s.State != Withdrawn {
				t.Errorf("%s of %s ends %s", kind, state, s.State)
			}
		}
		if state == Ready || state == Provisioning {
			if s, _, _ := one.Decide(poisoned, Event{Kind: Withdraw}, epoch); s.State != Withdrawing {
				t.Errorf("a member in state %s cannot leave: %s", state, s.State)
			}
		}
	}
}
