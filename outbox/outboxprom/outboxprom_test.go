package outboxprom_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/outbox/internal/relaytest"
	"github.com/signup-saga/signup-saga/outbox/internal/testenv"
	"github.com/signup-saga/signup-saga/outbox/outboxprom"
	"github.com/signup-saga/signup-saga/outbox/outboxtest"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// hung is a database that does not answer.
type hung struct{}

func (hung) QueryRow(ctx context.Context, _ string, _ ...any) pgx.Row { return hungRow{ctx} }

type hungRow struct{ ctx context.Context }

func (r hungRow) Scan(...any) error {
	<-r.ctx.Done()
	return r.ctx.Err()
}

func newMetrics(t *testing.T, reg prometheus.Registerer, q outbox.Querier) *outboxprom.Metrics {
	t.Helper()
	m, err := outboxprom.New("essential", q, reg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// values returns what a scrape yields, by name: the value, or a histogram's count.
func values(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		out[strings.TrimPrefix(f.GetName(), "outbox_")] = m.GetCounter().GetValue() + m.GetGauge().GetValue() +
			float64(m.GetHistogram().GetSampleCount())
	}
	return out
}

// waits returns how long the relay has waited, by reason.
func waits(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "outbox_waiting_seconds" {
				out[m.GetLabel()[1].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	return out
}

func wantValues(t *testing.T, g prometheus.Gatherer, want map[string]float64) {
	t.Helper()
	got := values(t, g)
	for name, v := range want {
		if x, ok := got[name]; !ok || x != v {
			t.Errorf("%s is %v (there: %v), want %v", name, x, ok, v)
		}
	}
}

// A relay on real servers: pending events, a lost acknowledgement, a dead event, an open transaction, a wiped
// broker, the end of leadership, the end of the database.
func TestMetricsShowWhatARelayDoes(t *testing.T) {
	ctx, pool, broker := relaytest.Servers(t)
	reg := prometheus.NewRegistry()
	m := newMetrics(t, reg, pool)

	bad := relaytest.Event(3)
	bad.Headers = map[string]string{"Nats-Msg-Id": "not allowed"}
	relaytest.Append(ctx, t, pool, relaytest.Event(1), relaytest.Event(2), bad)
	wantValues(t, reg, map[string]float64{"status_up": 1, "appended_events_total": 3, "lag_events": 3, "dead_events": 0,
		"leading": 0})
	if age := values(t, reg)["lag_seconds"]; age <= 0 || age > 60 {
		t.Errorf("the oldest event is %v s old", age)
	}

	lost := outboxtest.FailAfter(outboxtest.Publish, 1)
	stop := relaytest.Start(ctx, t, pool, relaytest.Connect(t, broker), m.Hooks(outbox.Hooks{Fault: lost.Hook}))
	settled := func() bool {
		s := values(t, reg)
		return s["lag_events"] == 0 && s["dead_events"] == 1 && s["leading"] == 1
	}
	testenv.Eventually(t, 20*time.Second, "two events published and one dead", settled)
	wantValues(t, reg, map[string]float64{"recovered_events_total": 2, "published_events_total": 0,
		"published_batches_total": 0, "publish_duration_seconds": 0, "lag_seconds": 0})

	open, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Rollback(context.Background()) }() // lets the pool close if the test ends early
	if err := outbox.Append(ctx, open, relaytest.Event(4)); err != nil {
		t.Fatal(err)
	}
	relaytest.Append(ctx, t, pool, relaytest.Event(5), relaytest.Event(6))
	testenv.Eventually(t, 20*time.Second, "the gap and what is behind it", func() bool {
		s := values(t, reg)
		return s["open_gaps"] == 1 && s["published_events_total"] == 2
	})
	wantValues(t, reg, map[string]float64{"published_batches_total": 1, "publish_duration_seconds": 1,
		"appended_events_total": 6, "dead_events": 1})
	if err := open.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, "no gap", func() bool { return values(t, reg)["open_gaps"] == 0 })

	broker.Kill()
	testenv.Eventually(t, 20*time.Second, "the reason of the wait", func() bool { return waits(t, reg)["nats"] > 0 })
	if others := waits(t, reg); others["database"]+others["lane"]+others["stream"] > 0 {
		t.Errorf("it waits for %v, want nats alone", others)
	}
	broker.Wipe()
	testenv.Eventually(t, 20*time.Second, "a lost broker and the replay", func() bool {
		s := values(t, reg)
		return s["broker_losses_total"] >= 1 && s["published_events_total"] == 6 && s["leading"] == 1
	})

	testenv.Eventually(t, 20*time.Second, "the end of the wait", func() bool { return waits(t, reg)["nats"] == 0 })

	stop()
	wantValues(t, reg, map[string]float64{"leading": 0})
	pool.Close()
	got := values(t, reg)
	if up, ok := got["status_up"]; !ok || up != 0 || got["published_events_total"] != 6 {
		t.Errorf("without a database: %v", got)
	}
	for _, name := range []string{"appended_events_total", "lag_events", "lag_seconds", "open_gaps", "dead_events"} {
		if v, ok := got[name]; ok {
			t.Errorf("without a database %s is %v", name, v)
		}
	}
}

func TestScrapeDoesNotWaitForTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		newMetrics(t, reg, hung{}).Hooks(outbox.Hooks{}).Refused()
		began := time.Now()
		wantValues(t, reg, map[string]float64{"status_up": 0, "refused_batches_total": 1})
		if took := time.Since(began); took != time.Second {
			t.Errorf("a scrape took %v", took)
		}
	})
}

func TestNamesAreWellFormedAndDocumented(t *testing.T) {
	_, pool, _ := relaytest.Servers(t)
	reg := prometheus.NewRegistry()
	newMetrics(t, reg, pool)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	source, err := os.ReadFile("outboxprom.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, _, _ := strings.Cut(string(source), "\npackage ")
	names := values(t, reg)
	if n := strings.Count(doc, "//\toutbox_"); n != len(names) {
		t.Errorf("%d metrics are documented, there are %d", n, len(names))
	}
	for name := range names {
		if !strings.Contains(doc, "//\toutbox_"+name+" ") {
			t.Errorf("outbox_%s is not documented", name)
		}
	}
}

func TestALaneIsRegisteredOnceOrNotAtAll(t *testing.T) {
	reg := prometheus.NewRegistry()
	taken := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "outbox_leading", Help: "1 while the relay of this process leads, else 0.",
		ConstLabels: prometheus.Labels{"lane": "essential"},
	})
	reg.MustRegister(taken)
	var already prometheus.AlreadyRegisteredError
	if _, err := outboxprom.New("essential", hung{}, reg); !errors.As(err, &already) {
		t.Errorf("a name is taken, and the error is %v", err)
	}
	reg.Unregister(taken)
	newMetrics(t, reg, hung{})
	if _, err := outboxprom.New("nonessential", hung{}, reg); err != nil {
		t.Errorf("another lane: %v", err)
	}
}

// Every hook that a caller sets is still called, once, including hooks that are added in future.
func TestHooksCountAndCallTheNext(t *testing.T) { synctest.Test(t, hooksCountAndCallTheNext) }

func hooksCountAndCallTheNext(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMetrics(t, reg, hung{})
	next, calls := outbox.Hooks{}, map[string]int{}
	for field, hook := range reflect.ValueOf(&next).Elem().Fields() {
		hook.Set(reflect.MakeFunc(hook.Type(), func([]reflect.Value) []reflect.Value {
			calls[field.Name]++
			out := make([]reflect.Value, hook.Type().NumOut())
			for i := range out {
				out[i] = reflect.Zero(hook.Type().Out(i))
			}
			return out
		}))
	}
	for _, hooks := range []outbox.Hooks{m.Hooks(next), m.Hooks(outbox.Hooks{})} {
		for field, hook := range reflect.ValueOf(hooks).Fields() {
			if hook.IsNil() {
				continue // not set in the empty Hooks
			}
			args := make([]reflect.Value, hook.Type().NumIn())
			for i := range args {
				args[i] = reflect.Zero(hook.Type().In(i))
				if args[i].Type() == reflect.TypeFor[error]() {
					args[i] = reflect.ValueOf(&outbox.ErrNATS).Elem()
				}
				switch args[i].Interface().(type) {
				case int:
					args[i] = reflect.ValueOf(3)
				case bool:
					args[i] = reflect.ValueOf(true)
				case time.Time:
					args[i] = reflect.ValueOf(time.Now())
				case []*nats.Msg:
					args[i] = reflect.ValueOf(make([]*nats.Msg, 4))
				}
			}
			hook.Call(args)
			if calls[field.Name] != 1 {
				t.Errorf("%s was called %d times", field.Name, calls[field.Name])
			}
		}
	}
	wantValues(t, reg, map[string]float64{
		"published_events_total": 8, "published_batches_total": 2, "publish_duration_seconds": 2,
		"recovered_events_total": 6,
		"refused_batches_total":  2, "broker_losses_total": 2, "foreign_messages_total": 2, "leading": 1,
	})
	m.Hooks(outbox.Hooks{}).Published(nil, time.Now()) // all of its events died
	wantValues(t, reg, map[string]float64{"published_batches_total": 2, "publish_duration_seconds": 2})
}

// The library itself depends only on Postgres, NATS and the standard library.
func TestTheLibraryDependsOnNoAdapter(t *testing.T) {
	list := func(args ...string) []string {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
		cmd.Dir, cmd.Env = "..", append(os.Environ(), "GOWORK=off")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list %v: %v", args, err)
		}
		return strings.Fields(string(out))
	}
	allowed := []string{"github.com/jackc/pgx/v5", "github.com/nats-io/nats.go", "github.com/synadia-io/orbit.go",
		"github.com/signup-saga/signup-saga/outbox"}
	seen := map[string]bool{}
	for _, imported := range list("-f", `{{join .Imports "\n"}}`, ".", "./outboxtest") {
		if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
			continue // standard library
		}
		ok := false
		for _, module := range allowed {
			if imported == module || strings.HasPrefix(imported, module+"/") {
				ok, seen[module] = true, true
			}
		}
		if !ok {
			t.Errorf("outbox imports %s", imported)
		}
	}
	if len(seen) < 3 {
		t.Errorf("of %v only %v were found: is this the right folder?", allowed, seen)
	}
	for _, dependency := range list("-deps", ".", "./outboxtest") {
		if strings.Contains(dependency, "prometheus") || strings.Contains(dependency, "opentelemetry") {
			t.Errorf("outbox depends on %s", dependency)
		}
	}
}
