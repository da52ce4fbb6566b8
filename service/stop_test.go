package service_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

// A step that waits for ever, deaf to its context, is left behind: the process ends in time.
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
