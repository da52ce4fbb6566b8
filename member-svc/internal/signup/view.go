package signup

import (
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// View is a signup as its owner sees it.
type View struct {
	SignupID  string            `json:"signup_id"`
	MemberID  string            `json:"member_id"`
	Username  *string           `json:"username"` // null once the member has left
	Plan      string            `json:"plan"`
	State     saga.State        `json:"state"`
	Delayed   bool              `json:"delayed"`
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
	Storage   StorageView       `json:"storage"`
	Links     map[string]string `json:"links"`

	Version  int64 `json:"-"` // becomes the ETag
	Redrives int   `json:"-"` // of the saga: more of them are news, too
}

// StorageView is the storage within a [View].
type StorageView struct {
	Status     string `json:"status"`
	QuotaBytes int64  `json:"quota_bytes"`
}

var storageStatus = map[saga.State]string{
	saga.Provisioning: "pending", saga.Ready: "ready", saga.NeedsAttention: "failed",
	saga.Withdrawing: "pending", saga.WithdrawNeedsAttention: "pending", saga.Withdrawn: "removed",
}

// Below returns the view with its links below a path that a proxy has removed.
func (v View) Below(prefix string) View {
	links := make(map[string]string, len(v.Links))
	for name, path := range v.Links {
		links[name] = prefix + path
	}
	v.Links = links
	return v
}

// NewView shows r as it stood when it was read.
func NewView(r store.Record, steps saga.Steps) View {
	state := r.State
	if r.UsernameKey == nil && !state.Left() { // erased, see store.Apply
		state = saga.Withdrawing
	}
	return View{
		SignupID: r.SignupID, MemberID: r.MemberID, Username: r.Username, Plan: r.Plan,
		State: state.Public(), Delayed: steps.Delayed(r.Saga, r.Now),
		CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(),
		Storage: StorageView{storageStatus[state], store.QuotaBytes[r.Plan]},
		Links:   map[string]string{"self": "/v1/signups/" + r.SignupID, "events": "/v1/signups/" + r.SignupID + "/events"},
		Version: r.Version, Redrives: r.Redrives,
	}
}
