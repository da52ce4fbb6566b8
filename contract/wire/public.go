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
	Username string `json:"username"`
	Password string `json:"password"`
	Plan     string `json:"plan,omitempty"` // "" is the service's default
	Email    string `json:"email,omitempty"`
}

// Signup is the state of a signup, as its owner sees it. Anyone who knows its id can read it: keep the id
// secret.
type Signup struct {
	SignupID  string            `json:"signup_id"`
	MemberID  string            `json:"member_id"`
	Username  *string           `json:"username"` // nil once the member has left
	Plan      string            `json:"plan"`
	State     string            `json:"state"`
	Delayed   bool              `json:"delayed"` // it takes longer than promised
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
	Storage   SignupStorage     `json:"storage"`
	Links     map[string]string `json:"links"`
}

// Settled reports whether no step is in progress.
func (s Signup) Settled() bool { return s.State != Provisioning && s.State != Withdrawing }

// SignupStorage is the storage that a member was promised.
type SignupStorage struct {
	Status     string `json:"status"` // pending, ready, failed or removed
	QuotaBytes int64  `json:"quota_bytes"`
}

// Session is what a member gets by signing in.
type Session struct {
	Token     string    `json:"token"` // 256 random bits: the service keeps only its hash
	ExpiresAt time.Time `json:"expires_at"`
}

// OpenSession is one of a member's sessions.
type OpenSession struct {
	ID         string    `json:"id"`
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at"` // to the hour
	ExpiresAt  time.Time `json:"expires_at"`
	Current    bool      `json:"current"` // it is the session of this request
}

// Member is an account, as the member sees it.
type Member struct {
	MemberID  string        `json:"member_id"`
	Username  string        `json:"username"`
	Email     *string       `json:"email"` // nil if the member gave none
	Plan      string        `json:"plan"`
	CreatedAt time.Time     `json:"created_at"`
	SignupID  string        `json:"signup_id"`
	Storage   SignupStorage `json:"storage"`
}
