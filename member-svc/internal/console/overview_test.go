package console_test

import (
	"context"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

const well = "All is well."

// document reads a file of the repository.
func document(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile("../../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// threshold returns the number that an alert compares its metric with.
func threshold(t *testing.T, expression string) string {
	t.Helper()
	found := regexp.MustCompile(regexp.QuoteMeta(expression) + ` > ([0-9 *]+)`).FindStringSubmatch(
		document(t, "deploy/prometheus/alerts.yaml"))
	if found == nil {
		t.Fatalf("no alert compares %s", expression)
	}
	return found[1]
}

func TestOverviewOfNothing(t *testing.T) {
	p := open(t).logIn(t, "viewer-token").get("/console/")
	p.wants(t, 200, well, "nothing is pending", "none since", "no change reported yet", "none has ended yet",
		`href="/console/sagas?state=provisioning"`)
	p.lacks(t, "Runbook", "notice bad", "about", "<rect")
}

// Each trouble appears exactly when its alert would fire, with a link to act and its section of the runbook.
func TestOverviewShowsTroubles(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "viewer-token")
	member := s.signUp(t, "mina")
	runbook := document(t, "docs/runbook.md")
	seconds := func(statement string) func(string, string) {
		return func(age, off string) {
			storetest.Exec(t, s.pool, strings.ReplaceAll(statement, "$age", "make_interval(secs => "+age+off+")"))
		}
	}
	always := func(statement string) func(string, string) {
		return func(_, off string) {
			if off == " + 5" {
				storetest.Exec(t, s.pool, statement)
			}
		}
	}
	for _, tc := range []struct {
		section, text, link string
		age                 string // in seconds
		happens             func(age, off string)
		mend                string
	}{
		{"OutboxLag", "Events of the nonessential lane have waited for", "",
			threshold(t, "max by (job, lane) (outbox_lag_seconds)"),
			seconds("UPDATE outbox_event_nonessential SET created_at = now() - $age"),
			"UPDATE outbox_event_nonessential SET created_at = now()"},
		{"SignupsPendingTooLong", "It should take seconds.", "/console/sagas?delayed=true&state=provisioning",
			threshold(t, "max(member_oldest_pending_seconds)"),
			seconds("UPDATE signup_saga SET created_at = now() - $age"), "UPDATE signup_saga SET created_at = now()"},
		{"ReconciliationStale", "The last reconciliation ended", "",
			threshold(t, "time() - max by (job) (reconciliation_finished_timestamp_seconds)"),
			seconds("UPDATE reconciliation SET finished_at = now() - $age"),
			"UPDATE reconciliation SET finished_at = now()"},
		{"ProviderAway", "The storage provider is away.", "/console/sagas?state=provisioning", "0",
			always("UPDATE provider_report SET state = 'open', changed_at = now(), reported_at = now()"),
			"UPDATE provider_report SET state = 'closed'"},
		{"Stranded", "3 members had lost a storage", "", "0", always("UPDATE reconciliation SET stranded = 3"),
			"UPDATE reconciliation SET stranded = 0"},
		{"Orphans", "1 storage without a member", "", "0", always("UPDATE reconciliation SET orphans = 1"),
			"UPDATE reconciliation SET orphans = 0"},
		{"DeadEvents", "1 event could not be published", "/console/dead", "0", func(_, off string) {
			if off == " + 5" {
				s.kill(t, contract.Essential, "too large")
			}
		}, "DELETE FROM outbox_dead_essential"},
		{"SagasNeedAttention", "1 signup failed for good", "/console/failures", "0", func(_, off string) {
			if off == " + 5" {
				s.apply(t, member.ID, reply("rejected", 1, "no room"))
			}
		}, "UPDATE signup_saga SET state = 'ready', error_class = '', error_message = '', error_fingerprint = ''"},
	} {
		if !strings.Contains(runbook, "\n## "+tc.section+"\n") {
			t.Errorf("the runbook has no section %s", tc.section)
		}
		tc.happens(tc.age, " - 5")
		b.get("/console/").wants(t, 200, well)
		tc.happens(tc.age, " + 5")
		p := b.get("/console/")
		p.wants(t, 200, tc.text, "Runbook: "+tc.section, `<a href="`+tc.link)
		p.lacks(t, well)
		storetest.Exec(t, s.pool, tc.mend)
		b.get("/console/").wants(t, 200, well)
	}
}

func TestOverviewCounts(t *testing.T) {
	s := open(t)
	s.sagas(t, 2, "ready", "", "")
	s.sagas(t, 3, "needs_attention", "full", "no room")
	storetest.Exec(t, s.pool,
		"UPDATE signup_saga SET created_at = date_trunc('minute', now()) - interval '9 min', updated_at = "+
			"date_trunc('minute', now()) WHERE state = 'needs_attention'")
	b := s.logIn(t, "viewer-token")
	p := b.get("/console/")
	p.wants(t, 200, `ready</span> <span class="figure good">2<`, `needs attention</span> <span class="figure bad">3<`,
		`withdrawn</span> <span class="figure">0<`,
		"<strong>Signups</strong> 5 since", "<strong>Failures</strong> 3 since", ": 3</title>")
	for _, bar := range []string{`class="bar " x="500" y="0" width="8" height="100"`,
		`class="bar bad" x="590" y="0" width="8" height="100"`} {
		p.wants(t, 200, bar)
	}
	s.sagas(t, 10_000, "provisioning", "", "")
	b.get("/console/").wants(t, 200, `">about `, `provisioning</span> <span class="figure wait">at least 10,000<`,
		`needs attention</span> <span class="figure bad">3<`)
}

// The overview shows a paused consumer and a missing one.
func TestOverviewShowsConsumers(t *testing.T) {
	s := open(t)
	nc, err := nats.Connect(testenv.NATS(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "COMMANDS", Subjects: []string{"commands"}})
	for range 3 {
		if err == nil {
			_, err = js.Publish(t.Context(), "commands", nil)
		}
	}
	until := time.Date(2126, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, paused := range map[string]*time.Time{"well": nil, "held": &until} {
		if err == nil {
			_, err = js.CreateConsumer(t.Context(), "COMMANDS", jetstream.ConsumerConfig{
				Durable: name, AckPolicy: jetstream.AckExplicitPolicy, PauseUntil: paused,
			})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	lag, err := service.NewLag(nc, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.metrics.Consumers = lag
	b := s.logIn(t, "viewer-token")
	b.get("/console/").lacks(t, "COMMANDS") // nothing is known yet
	for _, name := range []string{"well", "held", "lost"} {
		lag.Watch("COMMANDS", name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- lag.Run(ctx) }()
	testenv.Eventually(t, soon, "the broker's answers", func() bool { return len(lag.Consumers()) == 3 })
	cancel()
	if err := <-ended; err != nil && ctx.Err() == nil {
		t.Error(err)
	}
	p := b.get("/console/")
	p.wants(t, 200, "The consumer held of COMMANDS is paused until 2126-01-02 03:0", "holds back 3 messages",
		"Runbook: ConsumerPaused",
		"The consumer lost of COMMANDS does not exist", "<dt>Consumer well of COMMANDS</dt><dd>3 messages to read</dd>")
	p.lacks(t, well)
}
