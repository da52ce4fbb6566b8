package oracle

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict is the result for one invariant.
type Verdict struct {
	Name    string `json:"name"` // I1 …
	Claim   string `json:"claim"`
	Checked int    `json:"checked"` // number of checks
	Broken  int    `json:"broken"`
	// Examples are the first few violations.
	Examples []string `json:"examples,omitempty"`
}

func (v *Verdict) require(ok bool, format string, args ...any) {
	v.Checked++
	if ok {
		return
	}
	v.Broken++
	if len(v.Examples) < 5 {
		v.Examples = append(v.Examples, fmt.Sprintf(format, args...))
	}
}

// Judge checks every invariant on the evidence. An invariant with nothing to check counts as broken: it would
// prove nothing.
func Judge(e Evidence) []Verdict {
	c := newCase(e)
	verdicts := []Verdict{
		c.judge("I1", "every acknowledged signup exists exactly once", c.acknowledgedOnce),
		c.judge("I2", "an unacknowledged signup exists once or not at all", c.unacknowledged),
		c.judge("I3", "every saga is settled or visible to an operator", c.settled),
		c.judge("I4", "one create per member's life, none after its end; a canary survives every duplicate",
			c.oneCreate),
		c.judge("I5", "what was withdrawn has no live resource", c.noZombies),
		c.judge("I6", "no resource is without its owner", c.noOrphans),
		c.judge("I7", "mails go out at least once, twice only after a death in between", c.mails),
		c.judge("I8", "histories are legal, generations monotone", c.histories),
		c.judge("I9", "a double click is one signup", c.doubleClicks),
		c.judge("I10", "no personal data outside the Member database", c.noLeaks),
		c.judge("I11", "every fault has happened", c.faultsFired),
	}
	return verdicts
}

// Sound reports whether no invariant is broken.
func Sound(verdicts []Verdict) bool {
	return !slices.ContainsFunc(verdicts, func(v Verdict) bool { return v.Broken > 0 })
}

// signup is one signup as its client knows it.
type signup struct {
	Line          // of the answer, if there was one
	accepted      bool
	leaving, left bool
	clicks        int
	members       map[string]bool // that its answers name
}

// kase is the evidence, indexed for the checks.
type kase struct {
	Evidence
	signups  map[string]*signup // by key
	byID     map[string]Member
	byName   map[string][]Member
	storages map[string]Storage
	creates  map[string]int
	steps    map[string][]Step // by saga
}

func newCase(e Evidence) *kase {
	c := &kase{
		Evidence: e, signups: map[string]*signup{}, byID: map[string]Member{}, byName: map[string][]Member{},
		storages: map[string]Storage{}, creates: map[string]int{}, steps: map[string][]Step{},
	}
	for _, line := range e.Client {
		c.note(line)
	}
	for _, m := range e.Members {
		c.byID[m.ID] = m
		if m.Username != "" {
			c.byName[m.Username] = append(c.byName[m.Username], m)
		}
	}
	for _, s := range e.Storages {
		c.storages[s.MemberID] = s
	}
	for _, f := range e.Ledger {
		if f.Op == "create" {
			c.creates[f.MemberID]++
		}
	}
	for _, s := range e.Steps {
		c.steps[s.SagaID] = append(c.steps[s.SagaID], s)
	}
	return c
}

func (c *kase) note(line Line) {
	s := c.signups[line.Key]
	if s == nil {
		s = &signup{Line: line, members: map[string]bool{}}
		c.signups[line.Key] = s
	}
	switch line.Op {
	case Accepted:
		s.SignupID, s.MemberID, s.accepted = line.SignupID, line.MemberID, true
		s.members[line.MemberID+" "+line.SignupID] = true
		if line.Twice {
			s.clicks++
		}
	case Leaving:
		s.leaving = true
	case Left:
		s.left = true
	}
}

func (c *kase) judge(name, claim string, check func(v *Verdict)) Verdict {
	v := Verdict{Name: name, Claim: claim}
	check(&v)
	if v.Checked == 0 {
		v.require(false, "nothing to check it on")
	}
	return v
}

func (c *kase) acknowledgedOnce(v *Verdict) {
	for key, s := range c.signups {
		if !s.accepted {
			continue
		}
		m, ok := c.byID[s.MemberID]
		v.require(ok && m.SignupID == s.SignupID, "%s was promised %s, %s; the database has %+v", key, s.MemberID,
			s.SignupID, m)
		if ok && !s.leaving {
			v.require(m.Username == s.Username && len(c.byName[s.Username]) == 1, "%s: %q belongs to %+v", key,
				s.Username, c.byName[s.Username])
			v.require(c.Keys[key] == s.MemberID, "key %s belongs to %q, promised %s", key, c.Keys[key], s.MemberID)
		}
	}
}

func (c *kase) unacknowledged(v *Verdict) {
	promised := map[string]bool{}
	asked := map[string]bool{}
	for _, s := range c.signups {
		promised[s.MemberID] = true
		asked[s.Username] = true
		if !s.accepted {
			v.require(len(c.byName[s.Username]) <= 1, "%s exists %d times", s.Username, len(c.byName[s.Username]))
		}
	}
	for _, m := range c.Members {
		v.require(promised[m.ID] || asked[m.Username], "nobody asked for member %s", m.ID)
	}
}

func (c *kase) settled(v *Verdict) {
	visible := []string{"ready", "withdrawn", "needs_attention", "withdraw_needs_attention"}
	for _, m := range c.Members {
		v.require(slices.Contains(visible, m.State), "saga %s of member %s is %q", m.SagaID, m.ID, m.State)
	}
}

func (c *kase) oneCreate(v *Verdict) {
	dead := map[string]bool{}
	for _, f := range c.Ledger {
		v.require(!dead[f.MemberID], "%s %s after its end", f.Op, f.MemberID)
		dead[f.MemberID] = dead[f.MemberID] || f.Op == "delete"
	}
	for member, n := range c.creates {
		v.require(n == 1, "%s was created %d times", member, n)
	}
	for _, m := range c.Members {
		if m.State != "ready" {
			continue
		}
		held, ok := c.Markers[m.ID]
		v.require(c.creates[m.ID] == 1 && ok && !held.Tombstone, "%s is ready: %d creates, marker %v %+v", m.ID,
			c.creates[m.ID], ok, held)
		v.require(!c.Canaries[m.ID] || held.Canary, "the canary of %s is gone", m.ID)
	}
}

func (c *kase) noZombies(v *Verdict) {
	leaving := map[string]bool{}
	for _, s := range c.signups {
		if s.left {
			leaving[s.MemberID] = true
		}
	}
	for _, m := range c.Members {
		v.require(!leaving[m.ID] || m.State == "withdrawn",
			"the withdrawal of %s was accepted, but its state is %s", m.ID, m.State)
		if m.State != "withdrawn" {
			continue
		}
		held, ok := c.Markers[m.ID]
		v.require(!ok || held.Tombstone && !held.Canary, "%s is withdrawn, the provider holds %+v", m.ID, held)
		v.require(c.storages[m.ID].Status == "absent",
			"%s is withdrawn, but the storage is %+v", m.ID, c.storages[m.ID])
	}
}

func (c *kase) noOrphans(v *Verdict) {
	for id, held := range c.Markers {
		m, ok := c.byID[id]
		v.require(ok || held.Tombstone, "the provider holds a storage of %s, who does not exist", id)
		v.require(!ok || held.Tombstone == (m.State == "withdrawn"), "the provider holds %+v of %s, who is %s", held,
			id, m.State)
	}
	for id := range c.creates {
		v.require(c.byID[id].ID != "", "the ledger creates for %s, who does not exist", id)
	}
	for _, s := range c.Storages {
		v.require(c.byID[s.MemberID].ID != "", "the Storage database knows %s, who does not exist", s.MemberID)
		m := c.byID[s.MemberID]
		v.require((m.State != "ready" || s.Status == "ready") && s.Generation <= m.Generation,
			"%+v of a member who is %+v", s, m)
	}
	v.require(c.DeadLetters == c.Poisoned, "%d dead letters, %d messages belong there", c.DeadLetters, c.Poisoned)
}

func (c *kase) mails(v *Verdict) {
	sent, dropped := 0, 0
	for _, m := range c.Members {
		switch m.Mail {
		case "sent":
			sent++
		case "dropped": // possibly while it was being sent
			dropped++
		}
		v.require(!m.HasAddress || m.State == "withdrawn" || m.Mail == "sent", "the mail of %s is %q", m.ID, m.Mail)
	}
	v.require(c.Mails >= sent && c.Mails-sent <= dropped+c.MailsTwice,
		"%d mails were received for %d that were sent and %d that were dropped; %d may be double", c.Mails, sent,
		dropped, c.MailsTwice)
}

// legal lists which states may follow each state. It repeats the engine's rules on purpose.
var legal = map[string]string{
	"":                         "provisioning",
	"provisioning":             "ready needs_attention withdrawing",
	"ready":                    "needs_attention withdrawing",
	"needs_attention":          "provisioning ready needs_attention withdrawing",
	"withdrawing":              "withdrawn withdraw_needs_attention",
	"withdraw_needs_attention": "withdrawing withdrawn withdraw_needs_attention",
}

func (c *kase) histories(v *Verdict) {
	for _, m := range c.Members {
		var last Step
		for _, s := range c.steps[m.SagaID] {
			if s.Version <= last.Version {
				continue // a note between the transitions
			}
			v.require(s.Version == last.Version+1 && slices.Contains(strings.Fields(legal[last.State]), s.State) &&
				s.Generation >= last.Generation,
				"saga %s: %+v follows %+v", m.SagaID, s, last)
			last = s
		}
		v.require(last.State == m.State && last.Version == m.Version,
			"saga %s is %s, version %d; its history ends with %+v", m.SagaID, m.State, m.Version, last)
	}
}

func (c *kase) doubleClicks(v *Verdict) {
	for key, s := range c.signups {
		if s.clicks > 0 {
			v.require(len(s.members) == 1, "%s was answered with %d different members", key, len(s.members))
		}
	}
}

func (c *kase) noLeaks(v *Verdict) {
	v.require(len(c.Leaks) == 0, "%q was found in %s", Canary, strings.Join(c.Leaks, ", "))
	v.require(c.Searched > 0, "nothing was searched")
}

func (c *kase) faultsFired(v *Verdict) {
	for _, f := range c.Faults {
		v.require(f.Fired >= f.Planned && f.Planned > 0, "%s: %d of %d", f.Kind, f.Fired, f.Planned)
	}
}
