package api

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/storage-svc/internal/store"
)

func viewDeadLetter(d store.DeadLetter) wire.DeadLetter {
	return wire.DeadLetter{
		ID: d.ID, Subject: d.Subject, SagaID: d.SagaID, Generation: d.Generation, Reason: d.Reason, Headers: d.Headers,
		Body: strings.ToValidUTF8(string(d.Start), "�"), BodyBytes: d.Bytes,
		Seen: d.Seen, FirstSeen: d.FirstSeen.UTC(), LastSeen: d.LastSeen.UTC(),
	}
}

func (a *API) listDeadLetters(w http.ResponseWriter, r *http.Request) error {
	limit, after := defaultLimit, store.DeadLetter{}
	known := service.Params{"limit": service.Limit(&limit, maxLimit), "cursor": service.Parsed(&after, parseCursor)}
	if err := service.ReadQuery(r, known); err != nil {
		return err
	}
	found, err := a.Store.DeadLetters(r.Context(), after, limit+1)
	if err != nil {
		return err
	}
	return writePage(w, limit, found, viewDeadLetter, func(d store.DeadLetter) string {
		return base64.RawURLEncoding.EncodeToString([]byte(d.FirstSeen.UTC().Format(time.RFC3339Nano) + " " + d.ID))
	})
}

// parseCursor parses the position of the last dead letter of a page; "" is the beginning.
func parseCursor(cursor string) (d store.DeadLetter, err error) {
	if cursor == "" {
		return d, nil
	}
	raw, _ := base64.RawURLEncoding.DecodeString(cursor)
	at, id, _ := strings.Cut(string(raw), " ")
	if !store.KnownID(id) {
		return d, errors.New("not an id")
	}
	d.ID = id
	d.FirstSeen, err = time.Parse(time.RFC3339Nano, at)
	return d, err
}

// requeue applies a dead letter's message. After a double click, the second request finds the letter gone.
func (a *API) requeue(w http.ResponseWriter, r *http.Request) error {
	if err := a.Requeue(r.Context(), chi.URLParam(r, "id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
