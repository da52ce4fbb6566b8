package main

import (
	"context"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// TestMain lets the test program run as a child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == childReplica || os.Args[1] == childNATS) {
		main()
		return
	}
	testenv.Main(m)
}

func TestLedgerNoticesDefects(t *testing.T) {
	for name, c := range map[string]struct {
		arrived []string
		want    string // part of the error, "" for none
	}{
		"all once":          {[]string{eventID(1), eventID(0), eventID(2)}, ""},
		"one lost":          {[]string{eventID(0), eventID(2)}, "1 are lost and 0 arrived twice"},
		"the last one lost": {[]string{eventID(0), eventID(1)}, "1 are lost and 0 arrived twice"},
		"one doubled": {[]string{eventID(0), eventID(1), eventID(2), eventID(1)},
			"0 are lost and 1 arrived twice"},
		"lost and doubled": {[]string{eventID(0), eventID(1), eventID(1)}, "1 are lost and 1 arrived twice"},
		"one too many":     {[]string{eventID(0), eventID(1), eventID(2), eventID(3)}, "1 belong to another run"},
		"a stranger": {[]string{eventID(0), eventID(1), eventID(2), "a6f6b27e-1f3c-4b0e-9a53-0d6f3f9f6a11"},
			"1 belong to another run"},
		"without an id": {[]string{eventID(0), eventID(1), eventID(2), ""}, "1 belong to another run"},
	} {
		t.Run(name, func(t *testing.T) {
			l := new(ledger)
			for _, id := range c.arrived {
				l.add(id)
			}
			err := l.check(3)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// testBench returns a bench on the test's own servers.
func testBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{out: io.Discard, began: time.Now(), sections: []*section{{}}}
	b.quick()
	b.backlog, b.slice = 2500, 200*time.Millisecond
	b.servers = &servers{dir: t.TempDir(), postgres: &server{url: testenv.Database(t, "bench", nil)},
		nats: &server{url: testenv.NATS(t).URL}}
	admin, err := newPool(t.Context(), b.servers.postgres.url, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	b.admin, b.bin = admin, filepath.Join("..", "bin")
	at, err := url.Parse(testenv.Database(t, "sites", b.migrate))
	if err != nil {
		t.Fatal(err)
	}
	b.template = strings.TrimPrefix(at.Path, "/")
	return b
}

// wrongSystem publishes its backlog with errors: events are missing or doubled.
type wrongSystem struct {
	ours
	from, to int // the range of numbers that it publishes
	again    int // how many of them it publishes twice
}

func (w *wrongSystem) fill(_ context.Context, n int) error {
	w.take(n)
	return nil
}

func (w *wrongSystem) start(context.Context) (func() error, error) {
	for n := w.from; n < w.to; n++ {
		for range 1 + min(1, max(0, w.again-n+w.from)) {
			if err := w.nc.PublishMsg(rawMessage(w.site, n)); err != nil {
				return nil, err
			}
		}
	}
	return func() error { return nil }, w.nc.Flush()
}

func TestLostOrDoubledEventFailsTheRow(t *testing.T) {
	b := testBench(t)
	for want, w := range map[string]wrongSystem{
		"":                               {from: 0, to: 10},
		"1 are lost and 1 arrived tw":    {from: 1, to: 10, again: 1}, // as many messages as events
		"0 are lost and 2 arrived tw":    {from: 0, to: 10, again: 2},
		"; 1 belong to another run":      {from: 0, to: 11},
		"1 are lost and 0 arrived twice": {from: 1, to: 11},
	} {
		m := maker{"wrong", func(_ context.Context, s *site) (system, error) {
			w.site = s
			return &w, nil
		}}
		_, err := b.drainRate(t.Context(), m, 10, 0)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestFailedRowFailsTheRun(t *testing.T) {
	b := testBench(t)
	b.servers.nats.url = "nats://127.0.0.1:1" // no server is there
	if err := b.run(t.Context(), func(row string) bool { return row == "R" }); err == nil {
		t.Error("no error")
	}
	if text := b.document("", ""); !strings.Contains(text, "**Failed:** ") {
		t.Errorf("the result lacks it:\n%s", text)
	}
}

func TestRawAndOutboxPassTheAudit(t *testing.T) {
	b := testBench(t)
	b.backlog = 10_000 // the limit must not be done before it is first counted
	if err := b.run(t.Context(), func(row string) bool { return row == "R" }); err != nil {
		t.Fatal(err)
	}
	if lines := b.section().lines; len(lines) != 1 || lines[0].limit.median() <= 0 || lines[0].value.median() <= 0 {
		t.Errorf("result %+v", lines)
	}
}
