package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// member is a saga in the comparison of one of its steps.
type member struct {
	store.Progress
	step int
}

// Key implements reconcile.Keyed.
func (m member) Key() string { return key(m.MemberID, m.step) }

// key returns the key of a member at a step: the member's id for the first step, and the id with the step
// appended for the others. All ids have the same length, so keys order by member, then by step.
func key(memberID string, step int) string {
	if step == 0 {
		return memberID
	}
	return fmt.Sprintf("%s/%d", memberID, step)
}

// splitKey is the inverse of key. A key of another form belongs to the first step.
func splitKey(key string) (memberID string, step int) {
	memberID, text, _ := strings.Cut(key, "/")
	step, _ = strconv.Atoi(text)
	return memberID, step
}

// members returns a page of sagas in the order of their members' ids, each once for every step that is
// compared.
func (r *Reconciler) members(ctx context.Context, after string) ([]member, error) {
	after, _ = splitKey(cmp.Or(after, uuid.Nil.String()))
	found, err := r.store.ListProgress(ctx, r.MinAge, after, pageSize)
	var parts []member
	for _, p := range found {
		for step, participant := range r.participants {
			if participant != nil {
				parts = append(parts, member{p, step})
			}
		}
	}
	return parts, err
}

// member reads one member again; nil if there is none.
func (r *Reconciler) member(ctx context.Context, memberID string, step int) (*member, error) {
	p, err := r.store.ReadProgress(ctx, r.MinAge, memberID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &member{p, step}, err
}
