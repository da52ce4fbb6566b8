package service_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

// A pass that had nothing to do does not count as a recovery.
func TestIdlePassIsNoRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		pass := 0
		logger := slog.New(slog.NewTextHandler(&log, nil))
		service.Loop(ctx, "test", time.Second, nil, logger, func(context.Context) (bool, error) {
			pass++
			switch {
			case pass == 100:
				cancel()
			case pass == 99:
				return false, nil
			case pass%2 == 1:
				return false, errors.New("the server is away")
			}
			return false, service.ErrIdle
		})
		if n := strings.Count(log.String(), "msg=recovered task=test failures=49"); n != 1 {
			t.Errorf("recovered %d times, want once, after the work has succeeded:\n%s", n, &log)
		}
		if n := strings.Count(log.String(), "the server is away"); n != 6 { // 1, 2, 4, 8, 16, 32
			t.Errorf("%d lines about 49 equal failures, want 6", n)
		}
	})
}

// Each new kind of failure is logged at once, however many of another kind came before it.
func TestFailuresAreLoggedByKind(t *testing.T) {
	var log bytes.Buffer
	f := service.Failures{Task: "test", Log: slog.New(slog.NewTextHandler(&log, nil))}
	for i := range 100 {
		f.Add(t.Context(), fmt.Errorf("dial tcp 127.0.0.1:%d: connection refused after %d.5ms", 30000+i, i))
	}
	for range 3 {
		f.Add(t.Context(), errors.New("EHLO: 504 not a name"))
	}
	if n := f.Add(t.Context(), errors.New("EHLO: 550 not a name")); n != 104 {
		t.Errorf("%d failures", n)
	}
	for what, want := range map[string]int{"connection refused": 7, "504 not a name": 2, "550 not a name": 1} {
		if n := strings.Count(log.String(), what); n != want {
			t.Errorf("%d lines about %q, want %d:\n%s", n, what, want, &log)
		}
	}
	log.Reset()
	for i := range 1000 {
		f.Add(t.Context(), errors.New("cause "+strings.Repeat("x", i)))
	}
	if n := strings.Count(log.String(), "\n"); n > 32+10 {
		t.Errorf("%d lines about 1000 kinds: they are not bounded", n)
	}
	log.Reset()
	f.Recovered()
	f.Recovered()
	if want := "msg=recovered task=test failures=1104"; strings.Count(log.String(), want) != 1 {
		t.Errorf("no %q, once, in %s", want, &log)
	}
}
