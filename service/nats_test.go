package service_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/signup-saga/signup-saga/service"
)

// Repeated refusals by NATS are logged by kind, and say what to do.
func TestRefusalsOfNATSAreLoggedByKind(t *testing.T) {
	var log bytes.Buffer
	common := service.Common{NATSURL: service.NewSecret("nats://127.0.0.1:1")}
	nc, err := service.ConnectNATS(common, "test", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	nc.Opts.ReconnectErrCB(nc.Conn, nats.ErrAuthorization)
	for range 100 {
		for _, subject := range []string{"a", "b"} {
			nc.Opts.AsyncErrorCB(nc.Conn, nil, fmt.Errorf("%w to %q", nats.ErrPermissionViolation, subject))
		}
	}
	if err := nc.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "permissions violation to"); n != 2*7 { // the 1st, 2nd, 4th … 64th
		t.Errorf("logged %d times", n)
	}
	for _, want := range []string{"NATS cannot be reached: check its URL", "NATS does not let this user in: check"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %s", want, &log)
		}
	}
}
