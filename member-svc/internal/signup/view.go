package signup

import (
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// View is a signup as its owner sees it, at the time when it was read.
type View struct {
	wire.Signup
	Version  int64 `json:"-"` // becomes the ETag
	Redrives int   `json:"-"` // of the saga: a re-drive is news, too
}

var storageStatus = map[saga.State]string{
	saga.Provisioning: "pending", saga.Ready: "ready", saga.NeedsAttention: "failed",
	saga.Withdrawing: "pending", saga.WithdrawNeedsAttention: "pending", saga.Withdrawn: "removed",
}

// Below returns the view with prefix, a path that a proxy has removed, before each link.
func (v View) Below(prefix string) View {
	links := make(map[string]string, len(v.Links))
	for name, path := range v.Links {
		links[name] = prefix + path
	}
	v.Links = links
	return v
}

// NewView returns the view of r at the time when it was read.
func NewView(r store.Record, steps saga.Steps) View {
	state := r.State
	if r.UsernameKey == nil && !state.Left() { // erased, see store.Apply
		state = saga.Withdrawing
	}
	self := "/v1/signups/" + r.SignupID
	return View{Version: r.Version, Redrives: r.Redrives, Signup: wire.Signup{
		SignupID: r.SignupID, MemberID: r.MemberID, Username: r.Username, Plan: r.Plan,
		State: string(state.Public()), Delayed: steps.Delayed(r.Saga, r.Now),
		CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(),
		Storage: wire.SignupStorage{Status: storageStatus[state], QuotaBytes: store.QuotaBytes[r.Plan]},
		Links:   map[string]string{"self": self, "events": self + "/events"},
	}}
}
