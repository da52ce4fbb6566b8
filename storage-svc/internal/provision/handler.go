package provision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/service"
)

// DeadLetter is a message that can never be applied, kept for a person to handle.
type DeadLetter struct {
	Fingerprint string // equal for repetitions of the same message
	Subject     string
	SagaID      string // empty if unknown
	Generation  int64
	Reason      string
	Headers     []byte // JSON
	Body        []byte
	Reply       *Reply // the rejection, if it is known whom to answer
}

// Inbox stores commands, in one transaction per call.
type Inbox interface {
	Apply(ctx context.Context, commands []Command, dead []DeadLetter) error
	// Requeue applies the command that parse finds in a dead letter's message, and deletes the letter, in one
	// transaction.
	Requeue(ctx context.Context, id string, parse func(service.Message) (Command, error)) error
	// Defective reports whether the data of a message caused err: repeating cannot help.
	Defective(err error) bool
}

// Handler applies storage commands.
type Handler struct {
	Inbox Inbox
	Wake  func() // called after commands have been stored
	Log   *slog.Logger
	// Poisoned, if not nil, is called with the number of messages that became dead letters.
	Poisoned func(n int)
}

// Handle applies a batch of messages. It fails only for reasons that have nothing to do with a message. If a
// message is the reason that the transaction fails, each message is applied on its own, and the bad one becomes
// a dead letter.
func (h *Handler) Handle(ctx context.Context, batch []service.Message) error {
	err := h.apply(ctx, batch, nil)
	if err == nil || !h.Inbox.Defective(err) {
		return err
	}
	for i := range batch {
		err := h.apply(ctx, batch[i:i+1], nil)
		if err != nil && h.Inbox.Defective(err) {
			err = h.apply(ctx, batch[i:i+1], err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ErrStillPoison means that a dead letter's message still cannot be applied.
var ErrStillPoison = errors.New("still poison")

// Requeue handles a dead letter's message as if it had just been delivered. The
// letter stays if that fails, for example with [ErrStillPoison].
func (h *Handler) Requeue(ctx context.Context, id string) error {
	err := h.Inbox.Requeue(ctx, id, func(m service.Message) (Command, error) {
		_, c, err := parse(m)
		return c, err
	})
	if errors.Is(err, contract.ErrMalformed) || err != nil && h.Inbox.Defective(err) {
		return fmt.Errorf("%w: %w", ErrStillPoison, err)
	}
	if err == nil {
		h.Log.Info("dead letter applied", "fingerprint", id)
		h.Wake()
	}
	return err
}

// apply stores a batch of commands. With a defect, all messages become dead letters.
func (h *Handler) apply(ctx context.Context, batch []service.Message, defect error) error {
	var commands []Command
	var dead []DeadLetter
	for _, m := range batch {
		e, c, err := parse(m)
		if err == nil {
			err = defect
		}
		if err != nil {
			dead = append(dead, deadLetter(m, e, err))
			continue
		}
		commands = append(commands, c)
	}
	if err := h.Inbox.Apply(ctx, commands, dead); err != nil {
		return err
	}
	for _, d := range dead {
		h.Log.ErrorContext(ctx, "message put aside", "subject", d.Subject, "saga", d.SagaID, "reason", d.Reason,
			"fingerprint", d.Fingerprint)
	}
	if len(dead) > 0 && h.Poisoned != nil {
		h.Poisoned(len(dead))
	}
	h.Wake()
	return nil
}

// parse also returns, together with an error, what it could read of the event.
func parse(m service.Message) (contract.Event, Command, error) {
	e, err := contract.Receive(m.Subject, m.Headers, m.Body)
	if err != nil {
		return e, Command{}, err
	}
	var data contract.StorageCommand
	if err := e.DataTo(&data); err != nil {
		return e, Command{}, err
	}
	c := Command{
		MemberID: data.MemberID, SagaID: data.SagaID,
		Generation: data.Generation, QuotaBytes: data.QuotaBytes, TraceParent: e.TraceParent,
	}
	switch e.Type {
	case contract.StorageProvision:
		c.Desired = Present
	case contract.StorageDeprovision:
		c.Desired = Absent
	default:
		return e, c, fmt.Errorf("%w: %s is not a storage command", contract.ErrMalformed, e.Type)
	}
	return e, c, nil
}

func canonical(id string) (string, bool) {
	u, err := uuid.FromString(id)
	return u.String(), err == nil
}

// deadLetter makes a dead letter. It adds an answer only if the message is a command for Storage, came as one,
// and says whom to answer: Storage never answers for another participant.
func deadLetter(m service.Message, e contract.Event, reason error) DeadLetter {
	sum := sha256.Sum256(append([]byte(m.Subject+"\x00"+e.SagaID+"\x00"), m.Body...))
	d := DeadLetter{
		Fingerprint: hex.EncodeToString(sum[:]), Subject: service.CleanText(m.Subject),
		Reason: service.CleanText(reason.Error()),
	}
	d.Headers, d.Body = kept(m)
	saga, sagaKnown := canonical(e.SagaID)
	member, memberKnown := canonical(e.Subject)
	if !sagaKnown {
		return d
	}
	known := e.Generation >= 1 && e.Generation <= contract.MaxGeneration
	if known {
		d.Generation = e.Generation
	}
	d.SagaID = saga
	route, _ := contract.RouteOf(e.Type)
	if memberKnown && known && route.For == contract.Storage && !errors.Is(reason, contract.ErrForeign) {
		d.Reply = &Reply{Type: contract.StorageRejected, TraceParent: e.TraceParent, Data: contract.StorageReply{
			MemberID: member, SagaID: saga, Generation: e.Generation,
			Error: storageError(ClassPoison, d.Reason),
		}}
	}
	return d
}

// kept returns what a person may read later. A message that can never be applied merely because of its size is
// not kept whole: letters must not fill the disk.
func kept(m service.Message) (headers, body []byte) {
	headers, _ = json.Marshal(m.Headers) // a map of strings always encodes
	if len(headers) > 2*contract.MaxHeaderBytes {
		headers = []byte("{}")
	}
	return headers, m.Body[:min(len(m.Body), 2*contract.MaxDataBytes)]
}
