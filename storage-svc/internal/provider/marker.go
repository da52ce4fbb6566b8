package provider

import (
	"encoding/json"
	"errors"

	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

// marker says that a member's storage exists, or was removed.
type marker struct {
	MemberID   string `json:"member_id"`
	Generation int64  `json:"generation"`
	QuotaBytes int64  `json:"quota_bytes,omitempty"`
	Tombstone  bool   `json:"tombstone,omitempty"`
	// Act identifies the change that wrote this marker. Replaced is the live marker that a tombstone has
	// replaced. Only [S3] writes them.
	Act      string  `json:"act,omitempty"`
	Replaced *marker `json:"replaced,omitempty"`
}

var errNoMemberID = rejected("the member id is not a UUID")

func rejected(text string) error {
	return &provision.Failure{Class: provision.ClassRejected, Err: errors.New(text)}
}

// isMemberID reports whether id is a UUID in canonical form, which is safe as a part of paths and keys.
func isMemberID(id string) bool {
	u, err := uuid.FromString(id)
	return err == nil && u.String() == id
}

func parseMarker(content []byte) (m marker, err error) {
	if err := json.Unmarshal(content, &m); err != nil {
		return m, rejected("the marker is damaged")
	}
	return m, nil
}

// admits returns nil if the existing marker m is as good as wanted, otherwise why it is not.
func (m marker) admits(wanted marker) error {
	switch {
	case m.MemberID != wanted.MemberID:
		return rejected("the marker belongs to another member")
	case m.Tombstone:
		return &provision.Failure{Class: provision.ClassRejected, Err: provision.ErrTombstoned}
	}
	return nil
}

// resourceOf describes the member whose marker has this content.
func resourceOf(id string, content []byte) provision.Resource {
	m, err := parseMarker(content)
	r := provision.Resource{MemberID: id, State: provision.ResourceLive, Generation: m.Generation,
		QuotaBytes: m.QuotaBytes}
	switch {
	case err != nil || m.MemberID != id:
		return provision.Resource{MemberID: id, State: provision.ResourceDamaged}
	case m.Tombstone:
		r.State = provision.ResourceTombstone
	}
	return r
}

func clampLimit(limit int) int { return min(max(limit, 1), provision.MaxResources) }
