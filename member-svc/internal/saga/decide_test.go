package saga

import (
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

var (
	testStep = Provision(30*time.Second, 24*time.Hour)
	refusal  = contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
)

func begin(t *testing.T) Saga {
	t.Helper()
	s, effects, outcome := testStep.Decide(Saga{ID: "s"}, Event{Kind: SignedUp}, epoch)
	if outcome != Advanced || len(effects) != 2 || effects[0].Type != contract.StorageProvision || effects[1].Type != contract.MemberSignedUp {
		t.Fatalf("signed up: %s %v", outcome, effects)
	}
	return s
}

func TestTransitions(t *testing.T) {
	reply := func(k Kind, g int64) Event { return Event{Kind: k, Generation: g, Error: refusal} }
	retry := Event{Kind: Retried, Actor: "ann", Reason: "more room now"}
	late := func(s Saga) time.Time { return s.OpenedAt.Add(testStep.GiveUpAge) }
	soon := func(Saga) time.Time { return epoch.Add(time.Second) }
	for name, tc := range map[string]struct {
		events  []Event
		now     func(Saga) time.Time
		state   State
		gen     int64
		outcome Outcome
	}{
		"provisioned":                     {[]Event{reply(Provisioned, 1)}, soon, Ready, 1, Advanced},
		"provisioned twice":               {[]Event{reply(Provisioned, 1), reply(Provisioned, 1)}, soon, Ready, 1, Unchanged},
		"rejected":                        {[]Event{reply(Rejected, 1)}, soon, NeedsAttention, 1, Advanced},
		"rejected twice":                  {[]Event{reply(Rejected, 1), reply(Rejected, 1)}, soon, NeedsAttention, 1, Unchanged},
		"rejected, then provisioned":      {[]Event{reply(Rejected, 1), reply(Provisioned, 1)}, soon, Ready, 1, Advanced},
		"rejected after ready":            {[]Event{reply(Provisioned, 1), reply(Rejected, 1)}, soon, Ready, 1, Recorded},
		"retried":                         {[]Event{reply(Rejected, 1), retry}, soon, Provisioning, 2, Advanced},
		"retried twice":                   {[]Event{reply(Rejected, 1), retry, retry}, soon, Provisioning, 2, Unchanged},
		"stale rejection after a retry":   {[]Event{reply(Rejected, 1), retry, reply(Rejected, 1)}, soon, Provisioning, 2, Recorded},
		"late success after a retry":      {[]Event{reply(Rejected, 1), retry, reply(Provisioned, 1)}, soon, Ready, 2, Advanced},
		"retry while provisioning":        {[]Event{retry}, soon, Provisioning, 1, Refused},
		"retry when ready":                {[]Event{reply(Provisioned, 1), retry}, soon, Ready, 1, Refused},
		"reply ahead":                     {[]Event{reply(Provisioned, 5)}, soon, NeedsAttention, 1, Advanced},
		"reply ahead twice":               {[]Event{reply(Provisioned, 5), reply(Provisioned, 5)}, soon, NeedsAttention, 1, Unchanged},
		"own reply while behind":          {[]Event{reply(Provisioned, 5), reply(Provisioned, 1)}, soon, NeedsAttention, 1, Recorded},
		"retry while behind":              {[]Event{reply(Provisioned, 5), retry}, soon, Provisioning, 6, Advanced},
		"gave up":                         {[]Event{{Kind: TimerDue}}, late, NeedsAttention, 1, GaveUp},
		"gave up, asks again":             {[]Event{{Kind: TimerDue}, {Kind: TimerDue}}, late, NeedsAttention, 1, Redriven},
		"gave up, then success":           {[]Event{{Kind: TimerDue}, reply(Provisioned, 1)}, late, Ready, 1, Advanced},
		"gave up, then rejected":          {[]Event{{Kind: TimerDue}, reply(Rejected, 1)}, late, NeedsAttention, 1, Advanced},
		"timer too early":                 {[]Event{{Kind: TimerDue}}, soon, Provisioning, 1, Unchanged},
		"withdraw":                        {[]Event{{Kind: Withdraw}}, soon, Withdrawing, 2, Advanced},
		"withdrawn":                       {[]Event{{Kind: Withdraw}, reply(Deprovisioned, 2)}, soon, Withdrawn, 2, Advanced},
		"withdrawal refused":              {[]Event{{Kind: Withdraw}, reply(Rejected, 2)}, soon, WithdrawNeedsAttention, 2, Advanced},
		"withdrawal refused, retried":     {[]Event{{Kind: Withdraw}, reply(Rejected, 2), retry}, soon, Withdrawing, 3, Advanced},
		"late success while withdrawing":  {[]Event{{Kind: Withdraw}, reply(Provisioned, 1)}, soon, Withdrawing, 2, Recorded},
		"late success when withdrawn":     {[]Event{{Kind: Withdraw}, reply(Deprovisioned, 2), reply(Provisioned, 1)}, soon, Withdrawn, 2, Recorded},
		"removed although never asked to": {[]Event{reply(Deprovisioned, 1)}, soon, Provisioning, 1, Recorded},
		"a try failed":                    {[]Event{{Kind: AttemptFailed, Generation: 1}}, soon, Provisioning, 1, Recorded},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t)
			var outcome Outcome
			for _, e := range tc.events {
				s, _, outcome = testStep.Decide(s, e, tc.now(s))
			}
			if s.State != tc.state || s.Generation != tc.gen || outcome != tc.outcome {
				t.Errorf("got %s generation %d, %s; want %s generation %d, %s", s.State, s.Generation, outcome, tc.state, tc.gen, tc.outcome)
			}
		})
	}
}

func TestRejectionKeepsItsReasonUntilTheRetry(t *testing.T) {
	s, _, _ := testStep.Decide(begin(t), Event{Kind: Rejected, Generation: 1, Error: refusal}, epoch)
	if got := (contract.StorageError{Class: s.ErrorClass, Message: s.ErrorMessage, Fingerprint: s.ErrorFingerprint}); got != refusal {
		t.Errorf("reason %+v, want %+v", got, refusal)
	}
	if s, _, _ = testStep.Decide(s, Event{Kind: Retried}, epoch); s.ErrorClass != "" || !s.RetryOpen {
		t.Errorf("after the retry: %+v", s)
	}
}

func TestTimersWaitLongerEachTime(t *testing.T) {
	s := begin(t)
	if want := epoch.Add(testStep.Promise); !s.DueAt.Equal(want) {
		t.Fatalf("first due %s, want %s", s.DueAt, want)
	}
	now := epoch
	for _, want := range []time.Duration{60, 120, 240, 480, 960, 1920, 3600, 3600, 3600} {
		now = *s.DueAt
		var outcome Outcome
		s, _, outcome = testStep.Decide(s, Event{Kind: TimerDue, Jitter: 1}, now)
		if got := s.DueAt.Sub(now); outcome != Redriven || got != want*time.Second {
			t.Fatalf("re-drive %d: %s, waits %s, want %s", s.Redrives, outcome, got, want*time.Second)
		}
	}
	s.Redrives = 1000
	if s, _, _ = testStep.Decide(s, Event{Kind: TimerDue, Jitter: 1}, *s.DueAt); s.DueAt.Sub(now) > 2*testStep.RedriveCap {
		t.Errorf("the cap does not hold: due %s", s.DueAt)
	}
}

func TestDelayedAndPublicStates(t *testing.T) {
	s := begin(t)
	if testStep.Delayed(s, epoch.Add(testStep.Promise)) || !testStep.Delayed(s, epoch.Add(testStep.Promise+1)) {
		t.Error("delayed means older than the promise")
	}
	if WithdrawNeedsAttention.Public() != Withdrawing || WithdrawNeedsAttention.Settled() || !NeedsAttention.Settled() || Provisioning.Settled() {
		t.Error("public states")
	}
}
