// Package oracle decides, from the outside, whether a system that was attacked has kept its promises. It shares no code
// with the services: it reads four journals that nobody of them writes together (the client's own, the provider's
// ledger, and the two databases), and what lies in the provider's folder, and compares them.
package oracle

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Canary is part of every name, address and password that the clients of a test use. Nobody but the Member database may
// hold it.
const Canary = "quokka"

// CanaryFile is what a test puts into a storage to see whether it survives.
const CanaryFile = "canary"

// What a client writes down.
const (
	Asked    = "asked"    // before the first request: the member may exist from now on
	Accepted = "accepted" // after a 201
	Leaving  = "leaving"  // before asking to be forgotten
	Left     = "left"     // after a 202
)

// Line is one line of the client's journal.
type Line struct {
	Op       string `json:"op"`
	Key      string `json:"key"` // the Idempotency-Key, one per signup
	Username string `json:"username,omitempty"`
	SignupID string `json:"signup_id,omitempty"`
	MemberID string `json:"member_id,omitempty"`
	Twice    bool   `json:"twice,omitempty"` // one of two answers to a double click
}

// Effect is one line of the provider's ledger: something that changed there.
type Effect struct {
	Op       string    `json:"op"` // create or delete
	MemberID string    `json:"member_id"`
	At       time.Time `json:"at"`
}

// Member is a row of the Member database with its saga and its mail.
type Member struct {
	ID, Username, SagaID, SignupID, State string
	HasAddress                            bool
	Generation, Version                   int64
	Mail                                  string // state of the welcome mail; empty: none
}

// Step is a transition in a saga's timeline.
type Step struct {
	SagaID, Kind, State string
	Version, Generation int64
}

// Storage is a row of the Storage database.
type Storage struct {
	MemberID, Desired, Status string
	Generation                int64
}

// Marker is what the provider holds for a member.
type Marker struct {
	Tombstone bool
	Canary    bool // the canary file is there
}

// Fault is a kind of fault with how often it was to happen and was seen to happen.
type Fault struct {
	Kind    string `json:"kind"`
	Planned int    `json:"planned"`
	Fired   int    `json:"fired"`
}

// Evidence is all that the judgement rests on, collected when the system has come to rest.
type Evidence struct {
	Client      []Line
	Ledger      []Effect
	Members     []Member
	Steps       []Step            // in the order in which they were written
	Keys        map[string]string // member id by idempotency key
	Storages    []Storage
	DeadLetters int
	Poisoned    int               // messages that belong there
	Markers     map[string]Marker // by member id
	Canaries    map[string]bool   // members into whose storage a canary was put
	Mails       int               // received by the mail server
	MailsTwice  int               // that a death between the mail server's yes and its record excuses
	Leaks       []string          // places outside the Member database where Canary was found
	Searched    int64             // bytes that were searched for it
	Faults      []Fault
}

// ReadLines reads a journal of JSON lines. A last line that was cut off is left out: its writer died.
func ReadLines[T any](path string) ([]T, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var all []T
	lines := bufio.NewScanner(file)
	var broken error
	for lines.Scan() {
		if broken != nil {
			return nil, broken
		}
		var one T
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			broken = fmt.Errorf("%s: %w: %s", path, err, lines.Text())
			continue
		}
		all = append(all, one)
	}
	return all, lines.Err()
}

// StorageDir is a member's folder at the provider.
func StorageDir(provider, memberID string) string {
	return filepath.Join(provider, memberID[len(memberID)-2:], memberID)
}

// ReadMarkers reads what the provider's folder holds.
func ReadMarkers(provider string) (map[string]Marker, error) {
	owners, err := filepath.Glob(filepath.Join(provider, "??", "*", "owner"))
	if err != nil {
		return nil, err
	}
	markers := make(map[string]Marker, len(owners))
	for _, owner := range owners {
		text, err := os.ReadFile(owner)
		if err != nil {
			return nil, err
		}
		var content struct {
			MemberID  string `json:"member_id"`
			Tombstone bool   `json:"tombstone"`
		}
		if err := json.Unmarshal(text, &content); err != nil {
			return nil, fmt.Errorf("%s: %w", owner, err)
		}
		_, err = os.Stat(filepath.Join(filepath.Dir(owner), CanaryFile))
		markers[content.MemberID] = Marker{Tombstone: content.Tombstone, Canary: err == nil}
	}
	return markers, nil
}
