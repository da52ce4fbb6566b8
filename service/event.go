package service

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
)

// NewEvent makes an event for the outbox. It uses e's type, its subject (the ordering key) and, for a saga, its
// id, generation and trace. The event id is new, so a repeated reply is a new event. The lane is that of the
// type in [contract.Table]; a type that is not in the table is essential, as a step's commands always are. Data
// that the contract does not allow is [contract.ErrMalformed].
func NewEvent(e contract.Event, data interface{ Validate() error }) (outbox.Event, error) {
	lane := contract.Essential
	if route, known := contract.RouteOf(e.Type); known {
		lane = route.Lane
	}
	id, err := uuid.NewV7()
	if err != nil {
		return outbox.Event{}, fmt.Errorf("event id: %w", err)
	}
	payload, err := contract.Encode(data)
	if err != nil {
		return outbox.Event{}, fmt.Errorf("encode %s: %w", e.Type, err)
	}
	return outbox.Event{
		Lane: string(lane), ID: id.String(), Key: e.Subject, Type: string(e.Type), Payload: payload,
		Headers: e.Headers(),
	}, nil
}

// Defective reports whether Postgres refused the data of a statement (a data exception or a
// violated constraint), or the contract refused a message. The same write can never succeed.
func Defective(err error) bool {
	var pg *pgconn.PgError
	return errors.Is(err, contract.ErrMalformed) ||
		errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23"))
}
