package service_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

// A step that waits for ever and ignores its context is left running: the process ends in time.
func TestStopLeavesBehindWhatHangs(t *testing.T) {
	forever := make(chan struct{})
	defer close(forever)
	hangs := func(context.Context) error { <-forever; return nil }
	closed := false
	p := &service.Process{
		Log: discard(), DrainTimeout: 200 * time.Millisecond,
		Relays: []service.Task{{Name: "deaf", Run: hangs}},
		Closers: []func(context.Context) error{hangs, hangs, func(context.Context) error {
			closed = true
			return nil
		}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	var err error
	select {
	case err = <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the stop hangs")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %s", took)
	}
	if !errors.Is(err, context.DeadlineExceeded) || !closed {
		t.Errorf("closed %t, %v", closed, err)
	}
}

// An interrupted job has failed. A service that was stopped while it waited for something has not.
func TestInterruptedJobsFail(t *testing.T) {
	stopped, stop := context.WithCancel(t.Context())
	stop()
	away := fmt.Errorf("waiting for postgres: %w", context.Canceled)
	for _, c := range []struct {
		ctx  context.Context
		args []string
		err  error
		ok   bool
	}{
		{stopped, []string{"serve"}, away, true},
		{stopped, []string{"broker"}, away, true},
		{stopped, []string{"migrate"}, away, false},
		{stopped, []string{"reconcile", "--dry-run"}, away, false},
		{stopped, nil, away, false},
		{stopped, []string{"migrate"}, nil, true}, // its work was done by then
		{stopped, []string{"serve"}, errors.New("x"), false},
		{t.Context(), []string{"serve"}, away, false},
	} {
		if err := service.Ended(c.ctx, c.args, c.err); (err == nil) != c.ok {
			t.Errorf("%q, stopped %t: %v", c.args, c.ctx.Err() != nil, err)
		}
	}
	url := testenv.Database(t, "empty", nil)
	ctx, cancel := context.WithCancel(t.Context())
	log := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) {
		if bytes.Contains(b, []byte("set up streams")) { // NATS is away, and migrate waits for it
			cancel()
		}
	}), nil))
	p := service.Program{Name: "test", Producer: contract.Storage}
	common := service.Common{NATSURL: service.NewSecret("nats://127.0.0.1:1")}
	err := p.Migrate(ctx, service.NewSecret(url), common, log)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("migrate without its streams: %v", err)
	}
}

type writerFunc func([]byte)

func (w writerFunc) Write(b []byte) (int, error) { w(b); return len(b), nil }
