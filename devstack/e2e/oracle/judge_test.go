package oracle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func effect(op, member string) Effect { return Effect{Op: op, MemberID: member} }

// sound returns the evidence of a small system without violations: ann is ready, ben has left.
func sound() Evidence {
	step := func(saga, state string, version, generation int64) Step {
		return Step{SagaID: saga, State: state, Version: version, Generation: generation}
	}
	return Evidence{
		Client: []Line{
			{Op: Asked, Key: "1", Username: "ann"},
			{Op: Accepted, Key: "1", Username: "ann", SignupID: "sgn_1", MemberID: "a", Twice: true},
			{Op: Accepted, Key: "1", Username: "ann", SignupID: "sgn_1", MemberID: "a", Twice: true},
			{Op: Asked, Key: "2", Username: "ben"},
			{Op: Accepted, Key: "2", Username: "ben", SignupID: "sgn_2", MemberID: "b"},
			{Op: Leaving, Key: "2"},
			{Op: Left, Key: "2"},
			{Op: Asked, Key: "3", Username: "cid"},
		},
		Ledger: []Effect{effect("create", "a"), effect("create", "b"), effect("delete", "b")},
		Members: []Member{
			{ID: "a", Username: "ann", SagaID: "sa", SignupID: "sgn_1", State: "ready", HasAddress: true, Generation: 1,
				Version: 2, Mail: "sent"},
			{ID: "b", SagaID: "sb", SignupID: "sgn_2", State: "withdrawn", Generation: 2, Version: 4, Mail: "dropped"},
		},
		Steps: []Step{
			step("sa", "provisioning", 1, 1), step("sa", "ready", 2, 1), step("sa", "ready", 2, 1),
			step("sb", "provisioning", 1, 1), step("sb", "ready", 2, 1), step("sb", "withdrawing", 3, 2),
			step("sb", "withdrawn", 4, 2),
		},
		Keys:     map[string]string{"1": "a"},
		Storages: []Storage{{"a", "present", "ready", 1}, {"b", "absent", "absent", 2}},
		Markers:  map[string]Marker{"a": {Canary: true}, "b": {Tombstone: true}},
		Canaries: map[string]bool{"a": true, "b": true},
		Mails:    3, MailsTwice: 1, Searched: 1,
		Faults: []Fault{{"kill", 2, 3}},
	}
}

// Each invariant detects the damage that breaks it. Without this test, a check could stop detecting anything
// unnoticed.
func TestEveryInvariantHasTeeth(t *testing.T) {
	if verdicts := Judge(sound()); !Sound(verdicts) {
		t.Fatalf("the sound system is condemned: %+v", verdicts)
	}
	for name, c := range map[string]struct {
		invariant string
		damage    func(e *Evidence)
	}{
		"the member was lost": {"I1", func(e *Evidence) { e.Members = e.Members[1:] }},
		"another signup id":   {"I1", func(e *Evidence) { e.Members[0].SignupID = "sgn_9" }},
		"another name":        {"I1", func(e *Evidence) { e.Members[0].Username = "eve" }},
		"two of one name": {"I1",
			func(e *Evidence) { e.Members = append(e.Members, Member{ID: "z", Username: "ann", State: "ready"}) }},
		"the key belongs to another": {"I1", func(e *Evidence) { e.Keys["1"] = "b" }},
		"an unanswered signup exists twice": {"I2", func(e *Evidence) {
			e.Members = append(e.Members, Member{ID: "x", Username: "cid"}, Member{ID: "y", Username: "cid"})
		}},
		"a member whom nobody asked for": {"I2",
			func(e *Evidence) { e.Members = append(e.Members, Member{ID: "z", Username: "zoe"}) }},
		"a saga is stuck":       {"I3", func(e *Evidence) { e.Members[0].State = "provisioning" }},
		"a withdrawal is stuck": {"I3", func(e *Evidence) { e.Members[1].State = "withdrawing" }},
		"created twice": {"I4",
			func(e *Evidence) { e.Ledger = append(e.Ledger, effect("create", "a")) }},
		"created after the end": {"I4",
			func(e *Evidence) { e.Ledger = append(e.Ledger, effect("create", "b")) }},
		"ready without a storage": {"I4", func(e *Evidence) { delete(e.Markers, "a") }},
		"ready, never created":    {"I4", func(e *Evidence) { e.Ledger = e.Ledger[1:] }},
		"the canary is gone":      {"I4", func(e *Evidence) { e.Markers["a"] = Marker{} }},
		"a zombie":                {"I5", func(e *Evidence) { e.Markers["b"] = Marker{} }},
		"a withdrawn member's data": {"I5",
			func(e *Evidence) { e.Markers["b"] = Marker{Tombstone: true, Canary: true} }},
		"a storage row that is still there": {"I5", func(e *Evidence) { e.Storages[1].Status = "ready" }},
		"a leaving member became ready":     {"I5", func(e *Evidence) { e.Members[1].State = "ready" }},
		"a storage of nobody":               {"I6", func(e *Evidence) { e.Markers["z"] = Marker{} }},
		"a create for nobody": {"I6",
			func(e *Evidence) { e.Ledger = append(e.Ledger, effect("create", "z")) }},
		"a row for nobody": {"I6",
			func(e *Evidence) { e.Storages = append(e.Storages, Storage{MemberID: "z"}) }},
		"a generation that nobody asked for": {"I6", func(e *Evidence) { e.Storages[0].Generation = 2 }},
		"the databases disagree":             {"I6", func(e *Evidence) { e.Storages[0].Status = "pending" }},
		"a dead letter":                      {"I6", func(e *Evidence) { e.DeadLetters = 1 }},
		"a poisonous message got lost":       {"I6", func(e *Evidence) { e.Poisoned = 1 }},
		"a mail was not sent":                {"I7", func(e *Evidence) { e.Members[0].Mail = "" }},
		"a mail was lost":                    {"I7", func(e *Evidence) { e.Mails = 0 }},
		"too many mails":                     {"I7", func(e *Evidence) { e.Mails = 4 }},
		"an illegal step":                    {"I8", func(e *Evidence) { e.Steps[1].State = "withdrawn" }},
		"a step was left out":                {"I8", func(e *Evidence) { e.Steps = slices.Delete(e.Steps, 4, 5) }},
		"a generation went back":             {"I8", func(e *Evidence) { e.Steps[6].Generation = 1 }},
		"the history ends elsewhere":         {"I8", func(e *Evidence) { e.Members[0].Version = 3 }},
		"a double click made two":            {"I9", func(e *Evidence) { e.Client[2].MemberID = "b" }},
		"nobody clicked twice": {"I9",
			func(e *Evidence) { e.Client[1].Twice, e.Client[2].Twice = false, false }},
		"a name got out":         {"I10", func(e *Evidence) { e.Leaks = []string{"nats/1.blk"} }},
		"nothing was searched":   {"I10", func(e *Evidence) { e.Searched = 0 }},
		"a fault did not happen": {"I11", func(e *Evidence) { e.Faults[0].Fired = 1 }},
		"no fault was planned":   {"I11", func(e *Evidence) { e.Faults[0].Planned = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			e := sound()
			c.damage(&e)
			var red []string
			for _, v := range Judge(e) {
				if v.Broken > 0 {
					red = append(red, v.Name)
				}
			}
			if !slices.Contains(red, c.invariant) {
				t.Errorf("%s stays green; red are %v", c.invariant, red)
			}
		})
	}
}

func TestSearchLooksAcrossPieces(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"first": "quokka", "across": strings.Repeat("x", 1<<20-3) + "quokka", "none": strings.Repeat("quokk", 1<<19),
		"deep/last": strings.Repeat("y", 3<<20) + "quokka",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, searched, err := Search("quokka", dir)
	if err != nil || len(found) != 3 || searched < 6<<20 {
		t.Errorf("found %v in %d bytes, %v", found, searched, err)
	}
}

func TestReadLinesForgivesOnlyTheLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	for text, want := range map[string]int{"": 0, "{\"op\":\"asked\"}\n{\"op\":\"lef": 1,
		"{\"op\":\"as\n{\"op\":\"left\"}\n": -1} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		lines, err := ReadLines[Line](path)
		if (err != nil) != (want < 0) || err == nil && len(lines) != want {
			t.Errorf("%q: %v, %v", text, lines, err)
		}
	}
}
