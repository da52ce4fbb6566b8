// Package oracle decides, from the outside, whether an attacked system has kept its promises. It shares no code
// with the services. It compares four independent records (the client's journal, the provider's ledger, and the
// two databases) and the contents of the provider's folder. No service writes all of them.
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

// Canary is part of every name, address and password that the clients of a test use. Only the Member database
// may hold it.
const Canary = "quokka"

// CanaryFile is a file that a test puts into a storage to check that it survives.
const CanaryFile = "canary"

// The operations in a client's journal.
const (
	Asked    = "asked"    // before the first request: the member may exist from now on
	Accepted = "accepted" // after a 201
	Leaving  = "leaving"  // before asking to be deleted
	Left     = "left"     // after a 202
)

// Line is one line of the client's journal.
type Line struct {
	Op       string `json:"op"`
	Key      string `json:"key"` // the Idempotency-Key, one per signup
	Username string `json:"username,omitempty"`
	SignupID string `json:"signup_id,omitempty"`
	MemberID string `json:"member_id,omitempty"`
	Twice    bool   `json:"twice,omitempty"` // one of the two answers to a double click
}

// Effect is one line of the provider's ledger: an effective create or delete.
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
	Mail                                  string // state of the welcome mail; empty if there is none
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
	Canary    bool // the canary file exists
}

// Fault is a kind of fault, with how often it was planned and how often it was observed.
type Fault struct {
	Kind    string `json:"kind"`
	Planned int    `json:"planned"`
	Fired   int    `json:"fired"`
}

// Evidence is everything that the verdicts are based on, collected when the system is at rest.
type Evidence struct {
	Client      []Line
	Ledger      []Effect
	Members     []Member
	Steps       []Step            // in the order in which they were written
	Keys        map[string]string // member id by idempotency key
	Storages    []Storage
	DeadLetters int
	Poisoned    int               // messages that belong in dead_letter
	Markers     map[string]Marker // by member id
	Canaries    map[string]bool   // members with a canary file in their storage
	Mails       int               // received by the mail server
	MailsTwice  int               // allowed duplicates: a death between the mail server's yes and its record
	Leaks       []string          // places outside the Member database where Canary was found
	Searched    int64             // bytes that were searched for Canary
	Faults      []Fault
}

// ReadLines reads a journal of JSON lines. It ignores a truncated last line: its writer died.
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

// StorageDir returns a member's folder at the provider.
func StorageDir(provider, memberID string) string {
	return filepath.Join(provider, memberID[len(memberID)-2:], memberID)
}

// ReadMarkers reads the markers in the provider's folder.
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
