package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// process is a storage-svc that runs in the test's own process.
type process struct {
	t      *testing.T
	vars   map[string]string
	addr   string
	cancel context.CancelFunc
	ended  chan error
	copied <-chan struct{} // the log, once it has ended
}

// start runs the serve subcommand and waits until it listens.
func start(t *testing.T, vars map[string]string) *process {
	t.Helper()
	return startLogging(t, vars, io.Discard)
}

// startLogging is start with a log, which is complete when the process has stopped.
func startLogging(t *testing.T, vars map[string]string, logged io.Writer) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{t: t, vars: vars, cancel: cancel, ended: make(chan error, 1)}
	r, w := io.Pipe()
	go func() {
		p.ended <- run(ctx, []string{"serve"}, func(name string) string { return vars[name] }, w)
		w.Close()
	}()
	t.Cleanup(p.stop)
	copied := make(chan struct{})
	p.copied = copied
	lines := bufio.NewScanner(io.TeeReader(r, logged))
	for p.addr == "" && lines.Scan() {
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
			p.addr = line.Addr
		}
	}
	go func() { defer close(copied); _, _ = io.Copy(logged, r) }()
	if p.addr == "" {
		cancel()
		p.cancel = nil
		t.Fatalf("ended before it listened: %v", <-p.ended)
	}
	return p
}

func (p *process) stop() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.cancel = nil
	if err := <-p.ended; err != nil {
		p.t.Error(err)
	}
	<-p.copied
}

func (p *process) call(method, path, body string) (status int, answer string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, "http://"+p.addr+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.vars["STORAGE_TOKEN"])
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

const token = "a-token-of-these-tests-0123456789"

func environment(t *testing.T, natsURL string) map[string]string {
	dir := t.TempDir()
	return map[string]string{
		"STORAGE_HTTP_ADDR": "127.0.0.1:0", "STORAGE_TOKEN": token, "FAULTS": "on",
		"STORAGE_DATABASE_URL": testenv.Database(t, "empty", nil), "NATS_URL": natsURL,
		"PROVIDER_DIR": filepath.Join(dir, "storages"), "PROVIDER_LEDGER": filepath.Join(dir, "ledger"),
		"DRAIN_DELAY": "1ms", "LOG_FORMAT": "json", "OUTAGE_BACKOFF_CAP": "200ms", "BACKOFF_CAP": "200ms",
	}
}

func migrated(t *testing.T, vars map[string]string) {
	t.Helper()
	if err := run(t.Context(), []string{"migrate"}, func(name string) string { return vars[name] },
		io.Discard); err != nil {
		t.Fatal(err)
	}
}

// memberService plays the Member service: it sends commands and collects replies.
type memberService struct {
	t        *testing.T
	js       jetstream.JetStream
	replies  []contract.Event
	expected int // replies that expect has returned
}

func newMemberService(t *testing.T, url string) *memberService {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &memberService{t: t, js: js}
}

func (m *memberService) send(typ contract.Type, c contract.StorageCommand) {
	m.t.Helper()
	body, err := json.Marshal(c)
	if err != nil {
		m.t.Fatal(err)
	}
	msg := nats.NewMsg(contract.SubjectPrefix(contract.Essential) + string(typ))
	msg.Data = body
	for k, v := range map[string]string{
		"ce-specversion": "1.0", "ce-id": "e1", "ce-source": "/member-svc", "ce-type": string(typ),
		"ce-subject": c.MemberID,
		"ce-sagaid":  c.SagaID, "ce-generation": fmt.Sprint(c.Generation), "content-type": "application/json",
	} {
		msg.Header[k] = []string{v}
	}
	testenv.Eventually(m.t, 10*time.Second, "the command to be stored", func() bool {
		ctx, cancel := context.WithTimeout(m.t.Context(), time.Second)
		defer cancel()
		_, err := m.js.CreateStream(ctx, outbox.StreamConfig(contract.Stream(contract.Member, contract.Essential),
			contract.Subjects(contract.Member, contract.Essential), 1))
		if err == nil {
			_, err = m.js.PublishMsg(ctx, msg)
		}
		return err == nil
	})
}

// receive collects the replies that have arrived since its last call.
func (m *memberService) receive() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Second)
	defer cancel()
	stream, err := m.js.Stream(ctx, contract.Stream(contract.Storage, contract.Essential))
	for err == nil {
		var raw *jetstream.RawStreamMsg
		if raw, err = stream.GetMsg(ctx, uint64(len(m.replies)+1)); err != nil {
			return
		}
		e, err := contract.Parse(raw.Header, raw.Data)
		if err != nil {
			m.t.Fatal(err)
		}
		m.replies = append(m.replies, e)
	}
}

// expect waits for the next reply after those seen so far.
func (m *memberService) expect(typ contract.Type, generation int64) contract.StorageReply {
	m.t.Helper()
	testenv.Eventually(m.t, 20*time.Second, string(typ),
		func() bool { m.receive(); return len(m.replies) > m.expected })
	e := m.replies[m.expected]
	m.expected++
	var reply contract.StorageReply
	if err := e.DataTo(&reply); err != nil {
		m.t.Fatal(err)
	}
	if e.Type != typ || e.Generation != generation || reply.Generation != generation || e.Source != "/storage-svc" ||
		e.Subject != reply.MemberID {
		m.t.Fatalf("got %+v %+v, want %s %d", e, reply, typ, generation)
	}
	return reply
}

const (
	member = "01999e5c-0000-7000-8000-00000000000a"
	saga   = "01999e5c-0000-7000-8000-00000000000b"
)

func storageCommand(generation int64) contract.StorageCommand {
	return contract.StorageCommand{MemberID: member, SagaID: saga, Generation: generation, QuotaBytes: 5}
}

func TestCommandToReply(t *testing.T) {
	server := testenv.NATS(t)
	vars := environment(t, server.URL)
	migrated(t, vars)
	p := start(t, vars)
	m := newMemberService(t, server.URL)

	m.send(contract.StorageProvision, storageCommand(1))
	if r := m.expect(contract.StorageProvisioned, 1); r.QuotaBytes != 5 || r.Attempt != 1 || r.MemberID != member ||
		r.SagaID != saga {
		t.Errorf("reply %+v", r)
	}
	m.send(contract.StorageProvision, storageCommand(1))
	m.expect(contract.StorageProvisioned, 1)
	if m.replies[0].ID == m.replies[1].ID {
		t.Error("a repeated reply has the old event id")
	}
	if status, answer := p.call("GET", "/v1/storages/"+member, ""); status != 200 ||
		!strings.Contains(answer, `"status":"ready"`) {
		t.Errorf("%d %s", status, answer)
	}
	m.send(contract.StorageDeprovision, storageCommand(2))
	m.expect(contract.StorageDeprovisioned, 2)
	ledger, err := os.ReadFile(vars["PROVIDER_LEDGER"])
	if err != nil || strings.Count(string(ledger), `"create"`) != 1 || strings.Count(string(ledger), `"delete"`) != 1 {
		t.Errorf("ledger %s, %v", ledger, err)
	}
	testenv.Eventually(t, 10*time.Second, "three published replies in the metrics", func() bool {
		_, metrics := p.call("GET", "/metrics", "")
		return strings.Contains(metrics, `outbox_published_events_total{lane="essential"} 3`) &&
			strings.Contains(metrics, `outbox_lag_events{lane="essential"} 0`)
	})
}

func TestFaultsAndAWipedBroker(t *testing.T) {
	server := testenv.NATS(t)
	vars := environment(t, server.URL)
	migrated(t, vars)
	p := start(t, vars)
	m := newMemberService(t, server.URL)
	fault := func(mode string) {
		t.Helper()
		if status, answer := p.call("PUT", "/v1/faults", `{"mode":"`+mode+`"}`); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	fault("outage")
	m.send(contract.StorageProvision, storageCommand(1))
	testenv.Eventually(t, 10*time.Second, "attempts during the outage", func() bool {
		_, answer := p.call("GET", "/v1/storages/"+member, "")
		var s struct {
			Attempts       int `json:"attempts"`
			OutageAttempts int `json:"outage_attempts"`
		}
		return json.Unmarshal([]byte(answer), &s) == nil && s.Attempts == 0 && s.OutageAttempts >= 2
	})
	// The broker loses everything while the provider is unavailable.
	server.Wipe()
	m.replies, m.expected = nil, 0
	fault("reject")
	m.expect(contract.StorageRejected, 1)
	fault("none")
	m.send(contract.StorageProvision, storageCommand(2))
	m.expect(contract.StorageProvisioned, 2)
}

// Two replicas share the work, commands come twice, and the provider fails half of the time, often after doing
// the work: each storage is created once.
func TestReplicasCreateEachStorageOnce(t *testing.T) {
	const members = 200
	server := testenv.NATS(t)
	vars := environment(t, server.URL)
	migrated(t, vars)
	p := start(t, vars)
	start(t, vars)
	if status, answer := p.call("PUT", "/v1/faults", `{"mode":"flaky","probability":0.5}`); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	m := newMemberService(t, server.URL)
	for range 2 {
		for i := range members {
			c := storageCommand(1)
			c.MemberID = fmt.Sprintf("01999e5c-0000-7000-8000-%012x", i)
			m.send(contract.StorageProvision, c)
		}
	}
	provisioned := make(map[string]bool)
	testenv.Eventually(t, 30*time.Second, "every member's reply", func() bool {
		m.receive()
		for _, e := range m.replies {
			if e.Type == contract.StorageProvisioned {
				provisioned[e.Subject] = true
			}
		}
		return len(provisioned) == members
	})
	ledger, err := os.ReadFile(vars["PROVIDER_LEDGER"])
	if n := strings.Count(string(ledger), `"create"`); err != nil || n != members ||
		strings.Count(string(ledger), "\n") != members {
		t.Errorf("%d creates for %d members, %v", n, members, err)
	}
}

// The service waits for whatever is missing, in any order.
func TestStartsBeforeWhatItNeeds(t *testing.T) {
	server := testenv.NATS(t)
	server.Stop()
	vars := environment(t, server.URL)
	started := make(chan *process, 1)
	go func() { started <- start(t, vars) }()
	migrated(t, vars) // waits for NATS in vain, which is no error
	p := <-started
	if status, answer := p.call("GET", "/readyz?verbose", ""); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	get := func(name string) string {
		return map[string]string{"STORAGE_HTTP_ADDR": p.addr}[name]
	}
	if err := run(t.Context(), []string{"healthcheck"}, get, io.Discard); err != nil {
		t.Error(err)
	}
	server.Start()
	m := newMemberService(t, server.URL)
	m.send(contract.StorageProvision, storageCommand(1))
	m.expect(contract.StorageProvisioned, 1)
	p.stop()
	if err := run(t.Context(), []string{"healthcheck"}, get, io.Discard); err == nil {
		t.Error("healthy after it ended")
	}
}

func TestMigrateConfiguresStreams(t *testing.T) {
	server := testenv.NATS(t)
	vars := environment(t, server.URL)
	migrated(t, vars)
	migrated(t, vars)
	m := newMemberService(t, server.URL)
	for _, lane := range contract.Lanes() {
		s, err := m.js.Stream(t.Context(), contract.Stream(contract.Storage, lane))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.CachedInfo().Config.Subjects; !slices.Equal(got, contract.Subjects(contract.Storage, lane)) {
			t.Errorf("subjects %v", got)
		}
	}
}

func TestConfigurationErrorsAreListedAtOnce(t *testing.T) {
	get := func(name string) string {
		return map[string]string{"BACKOFF_CAP": "0s", "FAULTS": "maybe", "STORAGE_WORKERS": "many",
			"PROVIDER_RATE": "NaN", "STORAGE_HTTP_ADDR": "8090"}[name]
	}
	err := run(t.Context(), []string{"serve"}, get, io.Discard)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"STORAGE_DATABASE_URL", "STORAGE_TOKEN", "PROVIDER_DIR", "BACKOFF_CAP",
		"FAULTS", "STORAGE_WORKERS", "PROVIDER_RATE", "STORAGE_HTTP_ADDR"} {
		if strings.Count(err.Error(), want+":") != 1 {
			t.Errorf("%s not exactly once in:\n%v", want, err)
		}
	}
}

func TestUsage(t *testing.T) {
	nothing := func(string) string { return "" }
	for _, args := range [][]string{nil, {"helps"}, {"serve", "x"}} {
		if err := run(t.Context(), args, nothing, io.Discard); !errors.Is(err, service.ErrUsage) {
			t.Errorf("%v: %v", args, err)
		}
	}
	for _, asked := range []string{"help", "-h", "--help"} {
		var out strings.Builder
		err := run(t.Context(), []string{asked}, nothing, &out)
		if err != nil || !strings.HasPrefix(out.String(), "usage: serve") {
			t.Errorf("%s: %q, %v", asked, out.String(), err)
		}
	}
}
