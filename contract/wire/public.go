package wire

import "time"

// States of a signup, as its owner sees it. Operators also see [WithdrawNeedsAttention].
const (
	Provisioning   = "provisioning"
	Ready          = "ready"
	NeedsAttention = "needs_attention"
	Withdrawing    = "withdrawing"
	Withdrawn      = "withdrawn"
)

// WithdrawNeedsAttention is a state that only operators see; the member sees [Withdrawing].
const WithdrawNeedsAttention = "withdraw_needs_attention"

// NewMember is the request to sign up.
type NewMember struct {
	Username string `json:"username"`        // see docs/passwords.md
	Password string `json:"password"`        // never stored or logged
	Plan     string `json:"plan,omitempty"`  // "" is the service's default
	Email    string `json:"email,omitempty"` // "" for none; no mail is sent then
}

// Signup is the state of a signup, as its owner sees it. Anyone who knows its id can read it: keep the id
// secret.
type Signup struct {
	SignupID  string            `json:"signup_id"`  // a capability: who knows it can read the signup
	MemberID  string            `json:"member_id"`  // UUID
	Username  *string           `json:"username"`   // nil once the member has left
	Plan      string            `json:"plan"`       // free, plus or pro
	State     string            `json:"state"`      // one of the states above
	Delayed   bool              `json:"delayed"`    // it takes longer than promised
	CreatedAt time.Time         `json:"created_at"` // when the person signed up
	UpdatedAt time.Time         `json:"updated_at"` // of the last change
	Storage   SignupStorage     `json:"storage"`    // what was promised
	Links     map[string]string `json:"links"`      // relative URLs: self, events
}

// Settled reports whether no step is in progress.
func (s Signup) Settled() bool { return s.State != Provisioning && s.State != Withdrawing }

// SignupStorage is the storage that a member was promised.
type SignupStorage struct {
	Status     string `json:"status"`      // pending, ready, failed or removed
	QuotaBytes int64  `json:"quota_bytes"` // size in bytes
}

// Session is what a member gets by signing in.
type Session struct {
	Token     string    `json:"token"`      // 256 random bits: the service keeps only its hash
	ExpiresAt time.Time `json:"expires_at"` // when the member has to sign in again
}

// OpenSession is one of a member's sessions.
type OpenSession struct {
	ID         string    `json:"id"`           // to end it by; not its token
	CreatedAt  time.Time `json:"created_at"`   // when the member signed in
	LastUsedAt time.Time `json:"last_used_at"` // to the hour
	ExpiresAt  time.Time `json:"expires_at"`   // when it expires
	Current    bool      `json:"current"`      // it is the session of this request
}

// Member is an account, as the member sees it.
type Member struct {
	MemberID  string        `json:"member_id"`  // UUID
	Username  string        `json:"username"`   // as the member wrote it
	Email     *string       `json:"email"`      // nil if the member gave none
	Plan      string        `json:"plan"`       // free, plus or pro
	CreatedAt time.Time     `json:"created_at"` // when the member signed up
	SignupID  string        `json:"signup_id"`  // a capability, see [Signup]
	Storage   SignupStorage `json:"storage"`    // what was promised
}
