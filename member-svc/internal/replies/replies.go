// Package replies applies the participants' replies to sagas.
package replies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
)

// kinds maps the last part of an event type to its kind. The first part is the name of the step.
var kinds = map[string]saga.Kind{
	"provisioned": saga.Provisioned, "rejected": saga.Rejected, "deprovisioned": saga.Deprovisioned,
	"attempt-failed": saga.AttemptFailed,
}

// Handler returns a handler for the messages of the participants. It applies the replies of a batch in one
// transaction. Duplicate, late and reordered replies are left to the engine. Reports about the provider are
// stored. The handler calls observe with the outcome of each message: one of [saga.Outcome], "unknown_saga",
// "malformed" or "noted".
func Handler(
	st *store.Store, log *slog.Logger, observe func(outcome string),
) func(context.Context, []service.Message) error {
	return func(ctx context.Context, batch []service.Message) error {
		changes := make([]store.Change, 0, len(batch))
		for _, m := range batch {
			e, err := contract.Receive(m.Subject, m.Headers, m.Body)
			var change *store.Change
			switch {
			case err != nil:
			case e.Type == contract.StorageProviderChanged:
				err = note(ctx, st, e)
			default:
				change, err = decode(e)
			}
			switch {
			case errors.Is(err, contract.ErrMalformed): // a redelivery does not help; the timer asks again
				log.ErrorContext(service.WithTraceParent(ctx, e.TraceParent), "malformed reply skipped", "saga_id",
					e.SagaID, "error", err)
				observe("malformed")
			case err != nil:
				return err
			case change == nil:
				observe("noted")
			default:
				changes = append(changes, *change)
			}
		}
		return apply(ctx, st, log, observe, changes)
	}
}

// apply applies all changes in one transaction. If the database rejects the data of one, each change gets its
// own transaction, so that one bad reply cannot hold up the others.
func apply(ctx context.Context, st *store.Store, log *slog.Logger, observe func(string), changes []store.Change) error {
	results, err := st.Apply(ctx, changes...)
	if service.Defective(err) {
		if len(changes) == 1 {
			log.ErrorContext(service.WithTraceParent(ctx, changes[0].TraceParent), "reply refused by the database",
				"saga_id", changes[0].SagaID, "error", err)
			observe("malformed")
			return nil
		}
		for _, c := range changes {
			if err := apply(ctx, st, log, observe, []store.Change{c}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, r := range results {
		ctx := service.WithTraceParent(ctx, r.Change.TraceParent)
		if r.Outcome == "" {
			log.WarnContext(ctx, "reply for an unknown saga", "saga_id", r.SagaID, "kind", r.Event.Kind)
			observe("unknown_saga")
			continue
		}
		if r.Outcome == saga.Advanced && r.ErrorClass != "" {
			log.WarnContext(ctx, "a signup needs attention", "saga_id", r.ID, "state", r.State, "class", r.ErrorClass)
		}
		observe(string(r.Outcome))
	}
	return err
}

func decode(e contract.Event) (*store.Change, error) {
	step, what, _ := strings.Cut(string(e.Type), ".")
	kind, ok := kinds[what]
	if !ok {
		return nil, fmt.Errorf("%s is not a reply: %w", e.Type, contract.ErrMalformed)
	}
	var reply contract.StorageReply
	if err := e.DataTo(&reply); err != nil {
		return nil, err
	}
	event := saga.Event{
		Kind: kind, Step: step, MessageID: service.CleanText(e.ID),
		Generation: reply.Generation, Attempt: reply.Attempt,
	}
	if reply.Error != nil {
		event.Error = cleaned(*reply.Error)
	}
	if event.Kind == saga.Rejected { // an operator will read this: there must be a reason
		event.Error.Class = cmp.Or(event.Error.Class, string(saga.Rejected))
		event.Error.Fingerprint = cmp.Or(event.Error.Fingerprint, event.Error.Class)
	}
	return &store.Change{SagaID: reply.SagaID, MemberID: reply.MemberID, Event: event, TraceParent: e.TraceParent}, nil
}

func note(ctx context.Context, st *store.Store, e contract.Event) error {
	var change contract.ProviderChange
	if err := e.DataTo(&change); err != nil {
		return err
	}
	if change.Error != nil {
		*change.Error = cleaned(*change.Error)
	}
	return st.NoteProvider(ctx, change)
}

func cleaned(e contract.StorageError) contract.StorageError {
	return contract.StorageError{
		Class: service.CleanText(e.Class), Message: service.CleanText(e.Message),
		Fingerprint: service.CleanText(e.Fingerprint),
	}
}
