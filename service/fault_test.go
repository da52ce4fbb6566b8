package service

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// Each point is tested in a process of its own, which is this test program again: it works on a table until it
// is killed, and the table shows how far it came.
func TestFaultPoints(t *testing.T) {
	if url := os.Getenv("FAULT_TEST_URL"); url != "" {
		if err := work(t.Context(), url, os.Getenv("FAULT")); err != nil {
			t.Fatal(err)
		}
		return
	}
	const never = -1
	for point, rows := range map[string]int{
		"before.batchX": 0, "after.batchX": 1, "before.insertX:2": 2, "after.insertX:2": 3, "before.commit.txX": 3,
		"after.commit.txX": 4,
		"after.batchY":     never, "after.brokenX": never, "before.commit.txX:2": never,
	} {
		t.Run(point, func(t *testing.T) {
			url := testenv.Database(t, "faults", func(ctx context.Context, url string) error {
				return connected(ctx, url, func(conn *pgx.Conn) error {
					_, err := conn.Exec(ctx, "CREATE TABLE x (id int)")
					return err
				})
			})
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestFaultPoints$")
			cmd.Env = append(os.Environ(), "FAULT_TEST_URL="+url, "FAULT="+point)
			out, err := cmd.CombinedOutput()
			status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
			killed := status.Signaled() && status.Signal() == syscall.SIGKILL
			if killed != (rows != never) || !killed && err != nil {
				t.Fatalf("it ended with %v\n%s", err, out)
			}
			if !killed {
				return
			}
			var got int
			if err := connected(t.Context(), url, func(conn *pgx.Conn) error {
				return conn.QueryRow(t.Context(), "SELECT count(*) FROM x").Scan(&got)
			}); err != nil || got != rows {
				t.Errorf("%d rows were written, want %d, %v", got, rows, err)
			}
		})
	}
}

// work writes one row by a batch, two by statements and one by a transaction.
func work(ctx context.Context, url, point string) error {
	log := slog.New(slog.DiscardHandler)
	pool, err := OpenPool(ctx, NewSecret(url), Common{Fault: point}, log)
	if err != nil {
		return err
	}
	defer pool.Close()
	b := new(pgx.Batch)
	b.Queue("-- name: batchX\nINSERT INTO x VALUES (1)")
	b.Queue("-- name: batchY\nSELECT 1")
	if err := pool.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	for range 2 {
		if _, err := pool.Exec(ctx, "-- name: insertX\nINSERT INTO x VALUES (1)"); err != nil {
			return err
		}
	}
	if _, err := pool.Exec(ctx, "-- name: brokenX\nSELECT 1/0"); err == nil {
		return errors.New("a broken statement succeeded")
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, sql := range []string{"-- name: txX\nINSERT INTO x VALUES (1)", "-- name: txY\nSELECT 1"} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

// connected runs fn with a connection of its own.
func connected(ctx context.Context, url string, fn func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return errors.Join(fn(conn), conn.Close(ctx))
}

func TestFaultsAreRefusedUnlessAllowed(t *testing.T) {
	for _, c := range []struct {
		point, allowed string
		ok             bool
	}{
		{"", "off", true}, {"", "on", true}, {"before.x:3", "on", true}, {"relay.essential.publish", "on", true},
		{"before.x", "off", false}, {"before.x", "perhaps", false}, {"before.x:0", "on", false},
		{"before x", "on", false},
	} {
		var cfg Common
		vars := map[string]string{"FAULT": c.point, "FAULTS": c.allowed}
		err := LoadConfig(func(name string) string { return vars[name] }, &cfg)
		if (err == nil) != c.ok {
			t.Errorf("FAULT=%q FAULTS=%q: %v", c.point, c.allowed, err)
		}
	}
}

func TestRelayFaultHasTheLanesName(t *testing.T) {
	f := newFault(Common{Fault: "relay.essential.publish:3"}, slog.New(slog.DiscardHandler))
	for _, step := range []string{"read", "publish", "published", "publish"} {
		if err := f.relay("essential")(step); err != nil {
			t.Error(err)
		}
	}
	if err := f.relay("nonessential")("publish"); err != nil || f.left.Load() != 1 {
		t.Errorf("%d visits left, want 1, %v", f.left.Load(), err)
	}
	var off *fault
	if off.relay("essential") != nil {
		t.Error("without a fault the relay is given a hook")
	}
}
