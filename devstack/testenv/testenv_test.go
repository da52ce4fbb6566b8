package testenv_test

import (
	"bufio"
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestDatabaseIsAFreshCopyOfTheTemplate(t *testing.T) {
	migrations := 0
	migrate := func(ctx context.Context, url string) error {
		migrations++
		conn := connect(t, url)
		defer conn.Close(ctx)
		_, err := conn.Exec(ctx, "CREATE TABLE note (text text); INSERT INTO note VALUES ('from the template')")
		return err
	}
	for range 2 {
		conn := connect(t, testenv.Database(t, "notes", migrate))
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM note").Scan(&n); err != nil || n != 1 {
			t.Fatalf("%d notes, error %v; want only the template's", n, err)
		}
		if _, err := conn.Exec(t.Context(), "INSERT INTO note VALUES ('of one test')"); err != nil {
			t.Fatal(err)
		}
	}
	if migrations != 1 {
		t.Errorf("migrated %d times, want once", migrations)
	}
}

func TestClusterIsNotTheSharedOne(t *testing.T) {
	system := map[int64]bool{}
	for _, url := range []string{testenv.Database(t, "any", nil), testenv.Cluster(t)} {
		var id int64
		const identity = "SELECT system_identifier FROM pg_control_system()"
		if err := connect(t, url).QueryRow(t.Context(), identity).Scan(&id); err != nil {
			t.Fatal(err)
		}
		system[id] = true
	}
	if len(system) != 2 {
		t.Error("both have the same system identifier")
	}
}

func TestNATSKeepsItsPortAndIsEmptyAfterWipe(t *testing.T) {
	s := testenv.NATS(t)
	url := s.URL
	for _, again := range []func(){func() { s.Kill(); s.Start() }, func() { s.Stop(); s.Start() }, s.Wipe} {
		again()
		greeting(t, s.URL, 5*time.Second)
	}
	if s.URL != url {
		t.Errorf("URL changed from %s to %s", url, s.URL)
	}
	if _, err := os.Stat(s.Dir + "/jetstream"); err != nil {
		t.Errorf("the store is not in Dir: %v", err)
	}
}

func TestPausedNATSIsSilent(t *testing.T) {
	s := testenv.NATS(t)
	s.Pause()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatalf("a paused server sent %d bytes", n)
	}
	s.Resume()
	greeting(t, s.URL, 5*time.Second)
}

func greeting(t *testing.T, url string, within time.Duration) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(within))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "INFO ") {
		t.Fatalf("greeted with %q, error %v", line, err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
