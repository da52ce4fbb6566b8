//go:build chaos

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// Sizes of the disks: enough for what the attack writes.
const (
	brokerDisk   = "256m"
	databaseDisk = "768m"
)

// smallDisks returns a command that gives NATS and Postgres their own disks, which only the stack's processes see.
func smallDisks(t testing.TB, dir string) []string {
	script := fmt.Sprintf(`cd "$1" && mkdir nats postgres &&
mount -t tmpfs -o size=%s broker nats && mount -t tmpfs -o size=%s database postgres && shift && exec "$@"`,
		brokerDisk, databaseDisk)
	return append(testenv.OwnMounts(t), "sh", "-euc", script, "sh", dir)
}

// TestFullDisks fills the disk of the broker, then that of the database, while people sign up.
func TestFullDisks(t *testing.T) {
	w := newWorld(t, *seed)
	w.within = smallDisks(t, w.dir)
	w.start("NATS_STREAM_MAX_BYTES=33554432") // JetStream reserves that for each of four streams
	w.attack("the disk of the broker is full", true, w.leaveSometimes, w.fillBroker)
	w.attack("the disk of the database is full", false, w.leaveSometimes, w.fillDatabase)
	w.judge()
}

// disk returns the folder of a component, as the stack sees it.
func (w *world) disk(component string) string {
	return filepath.Join("/proc", strconv.Itoa(w.up.cmd.Process.Pid), "root", w.dir, component)
}

// whileFull fills a disk to the last byte, and keeps filling what becomes free, until done returns true. Then it
// frees the space.
func (w *world) whileFull(component string, done func() bool) (err error) {
	filler := filepath.Join(w.disk(component), "filler")
	f, err := os.OpenFile(filler, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(filler)) }()
	chunk := make([]byte, 64<<10)
	return w.until("the "+component+" to feel that its disk is full", func() bool {
		for size := len(chunk); size > 0; {
			if _, err := f.Write(chunk[:size]); errors.Is(err, syscall.ENOSPC) {
				size /= 4
			}
		}
		return done()
	})
}

// fillBroker checks that signups continue while nothing can be published.
func (w *world) fillBroker() error {
	const kind, some = "NATS disk full", 200
	w.plan(kind, 1)
	log := filepath.Join(w.dir, "log", "nats.log")
	before := w.tries.acknowledged.Load()
	err := w.whileFull("nats", func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(text), "no space left on device") &&
			w.tries.acknowledged.Load() > before+some
	})
	if err != nil {
		return err
	}
	w.fired(kind)
	// After a full disk, the server stores nothing any more until its operator restarts it.
	return errors.Join(w.do("kill", "nats", ""), w.do("start", "nats", ""))
}

// fillDatabase checks that signups are asked to retry, and that no acknowledged one is lost.
func (w *world) fillDatabase() error {
	const kind, some = "Postgres disk full", 100
	w.plan(kind, 1)
	before := w.tries.retried.Load()
	err := w.whileFull("postgres", func() bool { return w.tries.retried.Load() > before+some })
	if err != nil {
		return err
	}
	w.fired(kind)
	before = w.tries.acknowledged.Load()
	return w.until("signups after there is room again", func() bool {
		// A server that could not write its log has ended, and must be started.
		if state, err := w.look("postgres"); err == nil && state != "running" {
			_ = w.do("start", "postgres", "")
		}
		return w.tries.acknowledged.Load() > before+some
	})
}
