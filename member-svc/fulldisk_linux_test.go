//go:build verify

package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// fill uses up all space on a disk, including space that is freed meanwhile, until done returns true. Then it
// frees the space.
func fill(t *testing.T, disk, what string, done func() bool) {
	t.Helper()
	filler, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(filler.Close(), os.Remove(filler.Name())); err != nil {
			t.Error(err)
		}
	}()
	chunk := make([]byte, 64<<10)
	testenv.Eventually(t, 30*time.Second, what, func() bool {
		for size := len(chunk); size > 0; {
			if _, err := filler.Write(chunk[:size]); errors.Is(err, syscall.ENOSPC) {
				size /= 4
			} else if err != nil {
				t.Fatal(err)
			}
		}
		return done()
	})
}

// The disk of Postgres is really full, first for its tables, then for its log, which stops the server. Requests
// are refused with Retry-After, signups work again once there is space and a server, and no signup that was
// answered 201 is lost. Run by make verify.
func TestFullDiskOfPostgres(t *testing.T) {
	disk := testenv.SmallDisk(t, "160m")
	if disk == "" {
		return
	}
	const busy = 16
	server := testenv.ClusterIn(t, filepath.Join(disk, "pg"))
	proxy := testenv.NewProxy(t, server())
	env := environment(t, proxy.URL, "nats://127.0.0.1:1")
	getenv := func(name string) string { return env[name] }
	if err := run(t.Context(), []string{"migrate"}, getenv, io.Discard); err != nil {
		t.Fatal(err)
	}
	s := start(t, env)
	created, refused, stop := load(t, s, "mina", busy)
	stop = sync.OnceFunc(stop)
	defer stop()
	goOn := func(after string) {
		t.Helper()
		before, began := created.Load(), time.Now()
		testenv.Eventually(t, 20*time.Second, "signups after "+after, func() bool {
			proxy.Point(server()) // the operator restarts a stopped server
			return created.Load() > before+10*busy
		})
		t.Logf("%s: %d more after %s; %d created, %d refused",
			after, 10*busy, time.Since(began), created.Load(), refused.Load())
		testenv.Eventually(t, 5*time.Second, "readiness", func() bool {
			status, _, _, _ := call(t, "GET", s.admin+"/readyz", "")
			return status == http.StatusOK
		})
	}
	goOn("the start")

	before := refused.Load()
	fill(t, disk, "refusals", func() bool { return refused.Load() > before+10*busy })
	goOn("the tables had no room")

	kept := storetest.Connect(t, server())
	session, err := kept.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Release()
	fill(t, disk, "the end of the server", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, proxy.URL)
		if err != nil {
			return true
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "SELECT pg_switch_wal(), txid_current()")
		return err != nil
	})
	if _, err := session.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the server has not ended")
	}
	goOn("the log had no room")

	stop()
	members := storetest.Count(t, storetest.Connect(t, proxy.URL), "SELECT count(*) FROM member")
	if int64(members) < created.Load() {
		t.Errorf("%d members of %d who were answered 201", members, created.Load())
	}
}
