package outbox

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
)

// A relay in another process is stopped: with a batch ready to send, with all of a batch sent but the message
// that commits it, with one batch published and the next ready, or between two messages that it publishes one by
// one. A second relay takes over and publishes these events. When the first continues, the broker refuses what
// it still sends, and it stands by until it is needed again.
func TestStoppedProcessCannotPublishWhatAnotherPublished(t *testing.T) {
	for name, tt := range map[string]struct {
		events  int
		point   string
		stored  int
		refusal string
	}{
		"before a batch":            {maxBatch + 100, "fault publish", 0, "refused"},
		"before the end of a batch": {maxBatch + 100, "Nats-Batch-Commit", 0, "answered with error 10071"},
		"before a checkpoint":       {maxBatch + 100, "fault checkpoint", maxBatch, "refused"},
		"before the third of a few": {5, "ce-outboxid: 3", 2, "answered with error 10071"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			events := make([]Event, tt.events)
			for i := range events {
				events[i] = event(fmt.Sprint(i%7), i)
			}
			tx := b.begin()
			want := b.append(tx, events...)
			b.end(tx.Commit)

			other := b.otherProcess(tt.point)
			other.await("at " + tt.point)
			other.stop()
			if got := len(b.messages()); got != tt.stored {
				t.Fatalf("%d messages are in the stream, want %d", got, tt.stored)
			}
			b.age(staleAfter, 0)
			_, stop := b.start(Hooks{})
			b.published()
			b.wantExactly(want)
			other.resume()
			other.await(tt.refusal)
			want = append(want, b.commit(5)...)
			b.published()
			b.wantExactly(want)
			stop()
			other.await("leads")
			want = append(want, b.commit(5)...)
			b.published()
			b.wantExactly(want)
		})
	}
}

// otherProcess is this test program, run as a relay.
type otherProcess struct {
	*bench
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
}

func (b *bench) otherProcess(point string) *otherProcess {
	b.t.Helper()
	program, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	p := &otherProcess{bench: b, cmd: exec.Command(program), lines: make(chan string)}
	p.cmd.Env = append(os.Environ(), processPoint+"="+point, "DATABASE_URL="+b.pool.Config().ConnString(), "NATS_URL="+
		b.nats.URL)
	p.cmd.Stderr = b.t.Output()
	// A separate process group lets the system continue, and so end, the process if this one dies while it is
	// stopped.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		b.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			select {
			case p.lines <- s.Text():
			case <-ended:
			}
		}
	}()
	b.t.Cleanup(func() {
		close(ended)
		_ = p.cmd.Process.Kill() // ends a stopped process, too
		_ = p.cmd.Wait()
	})
	return p
}

// await waits until the process prints what.
func (p *otherProcess) await(what string) {
	p.t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("the other process ended before it was %s", what)
			}
			if line == what {
				return
			}
		case <-late:
			p.t.Fatalf("gave up waiting for the other process to be %s", what)
		}
	}
}

// stop stops the process at the point where it waits, and returns once it has stopped.
func (p *otherProcess) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		p.t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		p.t.Fatalf("%v, status %v; want a stopped process", err, status)
	}
	if _, err := fmt.Fprintln(p.in, "go on"); err != nil { // it reads this when it runs again
		p.t.Fatal(err)
	}
}

func (p *otherProcess) resume() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		p.t.Fatal(err)
	}
}

// processPoint names the variable that makes this program a relay. Its value says where the relay announces
// itself and waits for the order to continue: at a fault point of the hooks, or before it sends something that
// contains a given text.
const processPoint = "OUTBOX_TEST_RELAY_PAUSES_AT"

// TestMain runs the tests, or a relay that one of them started.
func TestMain(m *testing.M) {
	if point := os.Getenv(processPoint); point != "" {
		if err := relayProcess(point); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testenv.Main(m)
}

func relayProcess(point string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	told := make(chan struct{})
	go func() {
		defer cancel() // the test has ended
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			told <- struct{}{}
		}
	}()
	var once sync.Once
	at := func(what []byte) {
		if bytes.Contains(what, []byte(point)) {
			once.Do(func() { fmt.Println("at", point); <-told })
		}
	}
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.SetCustomDialer(wire{at}))
	if err != nil {
		return err
	}
	defer nc.Close()
	r, err := NewRelay(RelayConfig{
		Lane: lane, Pool: pool, NATS: nc, Stream: StreamConfig("MEMBER_ESSENTIAL", []string{"signup.essential.>"}, 1),
		Source: "/test", SubjectPrefix: "signup.essential.", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Hooks: Hooks{
			Fault:   func(p string) error { at([]byte("fault " + p)); return nil },
			Refused: func() { fmt.Println("refused") },
			Led: func(leading bool) {
				if leading {
					fmt.Println("leads")
				}
			},
		},
	})
	if err != nil {
		return err
	}
	_ = r.Run(ctx)
	return nil
}

// wire inspects what is sent through the connection to the broker.
type wire struct{ at func(what []byte) }

func (w wire) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &wiredConn{conn, w.at}, err
}

type wiredConn struct {
	net.Conn
	at func(what []byte)
}

func (c *wiredConn) Write(p []byte) (int, error) {
	c.at(p)
	return c.Conn.Write(p)
}

func (c *wiredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if _, code, found := strings.Cut(string(p[:n]), `"err_code":`); found {
		code, _, _ = strings.Cut(code, ",")
		fmt.Println("answered with error", code)
	}
	return n, err
}
