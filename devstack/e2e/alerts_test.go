package e2e

import (
	"encoding/json"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
)

var promQL = parser.NewParser(parser.Options{})

// loadAlerts parses the alert rules as Prometheus does.
func loadAlerts(t testing.TB) map[string]rulefmt.Rule {
	t.Helper()
	file := filepath.Join(repository, "deploy", "prometheus", "alerts.yaml")
	groups, errs := rulefmt.ParseFile(file, false, model.LegacyValidation, promQL, slog.Default())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	alerts := map[string]rulefmt.Rule{}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			alerts[rule.Alert] = rule
		}
	}
	return alerts
}

// watched is the length of the series in the alerts' tests, with one sample a minute. In sick, the trouble
// starts after an hour.
const watched = 6 * time.Hour

// takesCommands labels the consumer of storage-svc.
const takesCommands = `{job="storage-svc", instance="a", stream="MEMBER_ESSENTIAL", consumer="storage-svc"} `

// healthy is what a system with two replicas of each service reports on a good day, series by series, including
// short problems that end without an operator. No alert may fire.
var healthy = []string{
	`up{job="member-svc", instance="a"} 1x360`, `up{job="member-svc", instance="b"} 1x360`,
	`up{job="storage-svc", instance="a"} 1x100 0x3 1x256`, `up{job="storage-svc", instance="b"} 1x360`,
	`outbox_status_up{job="member-svc", instance="a", lane="essential"} 1x360`,
	`outbox_status_up{job="member-svc", instance="b", lane="essential"} 1x100 0x9 1x250`, // of one replica
	`outbox_status_up{job="storage-svc", instance="a", lane="essential"} 1x100 0x1 1x258`,
	`outbox_lag_seconds{job="member-svc", instance="a", lane="essential"} 0x100 90x3 0x256`,
	`outbox_lag_seconds{job="member-svc", instance="a", lane="nonessential"} 0x360`,
	`outbox_dead_events{job="member-svc", instance="a", lane="essential"} 0x100 1x3 0x256`,
	`outbox_foreign_messages_total{job="member-svc", instance="a", lane="essential"} 3x360`,
	"consumer_paused" + takesCommands + `0x100 1x3 0x256`,
	"consumer_missing" + takesCommands + `0x110 1x3 0x246`,
	"consumer_stalled_seconds" + takesCommands + `0x100 0+60x6 0x253`,
	`member_signups_total{job="member-svc", instance="a", outcome="created"} 0+600x360`,
	`member_signups_total{job="member-svc", instance="a", outcome="username_taken"} 0+300x360`, // not our fault
	`member_signups_total{job="member-svc", instance="a", outcome="unavailable"} 0+6x100 1000x260`,
	`member_signups_total{job="member-svc", instance="a", outcome="busy"} 0x360`,
	`member_oldest_pending_seconds{job="member-svc", instance="a"} 2x100 1000x3 2x256`,
	`member_unsettled_sagas{job="member-svc", instance="a", state="provisioning"} 40x360`,
	`member_unsettled_sagas{job="member-svc", instance="a", state="needs_attention"} 0x100 1x3 0x256`,
	`member_unsettled_sagas{job="member-svc", instance="a", state="withdraw_needs_attention"} 0x360`,
	`storage_dead_letters{job="storage-svc", instance="a"} 0x100 1x3 0x256`,
	`storage_provider_gate{job="storage-svc", instance="a", state="closed"} 1x100 0x3 1x256`,
	`storage_provider_gate{job="storage-svc", instance="a", state="open"} 0x100 1x3 0x256`,
	`stranded_members{job="member-svc", instance="a"} 0x360`,
	`stranded_storages{job="storage-svc", instance="a"} 0x360`,
	`orphan_storages{job="member-svc", instance="a"} 0x360`, `double_storages{job="member-svc", instance="a"} 0x360`,
	`orphan_resources{job="storage-svc", instance="a"} 0x360`,
	`reconciliation_finished_timestamp_seconds{job="member-svc", instance="a"} ` +
		`0x60 3600x60 7200x60 10800x60 14400x60 18000x55`,
	`reconciliation_finished_timestamp_seconds{job="storage-svc", instance="a"} 0+60x120 7200x199 19200+60x40`,
	`member_mails_total{job="member-svc", instance="a", result="sent"} 0+600x100 60000x44 60000+600x215`,
	`member_mails_total{job="member-svc", instance="a", result="delayed"} 0+6x360`,
	`member_webhooks_total{job="member-svc", instance="a", result="sent"} 0x110 1x249`,
	`member_webhooks_total{job="member-svc", instance="a", result="delayed"} 0x100 1x259`,
	`admin_tokens_refused_total{job="member-svc", instance="a", reason="unknown"} 0+1x360`,
	`storage_tokens_refused_total{job="storage-svc", instance="a", reason="unknown"} 0+1x360`,
	`admin_token_expiry_timestamp_seconds{job="member-svc", instance="a"} 0x360`,
	`member_password_checks_total{job="member-svc", instance="a", use="sign_in", outcome="accepted"} 0+30x360`,
	`member_password_checks_total{job="member-svc", use="leave", outcome="rate_limited"} 0+5x360`,
	`admin_token_expiry_timestamp_seconds{job="member-svc", instance="b"} 2592000x360`,
}

// sick is, for each alert, series that make this alert fire and no other. Each replaces the healthy series of
// the same labels.
var sick = map[string][][]string{
	"TargetDown":   {{`up{job="storage-svc", instance="b"} 1x60 0x299`}},
	"DatabaseAway": {{`outbox_status_up{job="storage-svc", instance="a", lane="essential"} 1x60 0x299`}},
	"SignupsFail": {
		{`member_signups_total{job="member-svc", instance="a", outcome="unavailable"} 0x60 0+90x299`},
		{`member_signups_total{job="member-svc", instance="a", outcome="busy"} 0x60 0+90x299`},
	},
	"SignupsPendingTooLong": {{`member_oldest_pending_seconds{job="member-svc", instance="a"} 2x60 60+60x299`}},
	"SagasNeedAttention": {
		{`member_unsettled_sagas{job="member-svc", instance="a", state="needs_attention"} 0x60 1x299`},
		{`member_unsettled_sagas{job="member-svc", instance="a", state="withdraw_needs_attention"} 0x60 1x299`},
	},
	"DeadLetters": {{`storage_dead_letters{job="storage-svc", instance="a"} 0x60 1x299`}},
	"DeadEvents":  {{`outbox_dead_events{job="member-svc", instance="a", lane="essential"} 0x60 1x299`}},
	"ProviderAway": {{ // open and, for an occasional probe, half-open
		`storage_provider_gate{job="storage-svc", instance="a", state="closed"} 1x60 0x20 1x278`,
		`storage_provider_gate{job="storage-svc", instance="a", state="open"} 0x60 1x3 0 1x3 0 1x3 0 1x3 0 0x278`,
	}},
	"Stranded": {
		{`stranded_members{job="member-svc", instance="a"} 0x60 1x60 0x239`},
		{`stranded_storages{job="storage-svc", instance="a"} 0x60 1x60 0x239`},
	},
	"Orphans": {
		{`orphan_storages{job="member-svc", instance="a"} 0x60 1x299`},
		{`double_storages{job="member-svc", instance="a"} 0x60 1x299`},
		{`orphan_resources{job="storage-svc", instance="a"} 0x60 1x299`},
	},
	"ReconciliationStale": {{`reconciliation_finished_timestamp_seconds{job="storage-svc", instance="a"} 3600x360`}},
	"OutboxLag": {
		{`outbox_lag_seconds{job="member-svc", instance="a", lane="essential"} 0x60 60+60x299`},
		{`outbox_lag_seconds{job="member-svc", instance="a", lane="nonessential"} 0x60 60+60x299`},
	},
	"ConsumerPaused": {
		{"consumer_paused" + takesCommands + `0x60 1x299`},
		{"consumer_missing" + takesCommands + `0x60 1x299`},
	},
	"ConsumerStalled": {{"consumer_stalled_seconds" + takesCommands + `0x60 0+60x299`}},
	"ForeignMessages": {{`outbox_foreign_messages_total{job="member-svc", instance="a", lane="essential"} 3x60 4x299`}},
	"MailStuck": {{
		`member_mails_total{job="member-svc", instance="a", result="sent"} 0+600x60 36600x299`,
		`member_mails_total{job="member-svc", instance="a", result="delayed"} 0x60 0+12x299`,
	}},
	"AdminTokensGuessed": {{
		`admin_tokens_refused_total{job="member-svc", instance="a", reason="unknown"} 0x60 0+4x299`,
	}},
	"StorageTokensGuessed": {{
		`storage_tokens_refused_total{job="storage-svc", instance="a", reason="unknown"} 0x60 0+4x299`,
	}},
	"PasswordsGuessed": {{
		`member_password_checks_total{job="member-svc", use="leave", outcome="rate_limited"} 0x60 0+120x299`,
	}},
	"AdminTokenExpires": {{`admin_token_expiry_timestamp_seconds{job="member-svc", instance="b"} 1219600x360`}},
	"WebhookStuck":      {{`member_webhooks_total{job="member-svc", instance="a", result="delayed"} 0x60 0+1x299`}},
}

func TestAlertsFire(t *testing.T) {
	alerts := loadAlerts(t)
	if fired := firing(t, alerts, healthy); len(fired) > 0 {
		t.Errorf("on a good day: %v", fired)
	}
	for name := range alerts {
		if len(sick[name]) == 0 {
			t.Errorf("nothing shows that %s fires", name)
		}
	}
	for name, cases := range sick {
		for _, series := range cases {
			if fired := firing(t, alerts, instead(t, healthy, series)); !slices.Equal(fired, []string{name}) {
				t.Errorf("%s fire, expected only %s, with\n%s", fired, name, strings.Join(series, "\n"))
			}
		}
	}
}

// instead returns series, with each of others in place of the series of the same labels.
func instead(t testing.TB, series, others []string) []string {
	t.Helper()
	series = slices.Clone(series)
	for _, other := range others {
		name := other[:strings.Index(other, "}")]
		at := slices.IndexFunc(series, func(s string) bool { return strings.HasPrefix(s, name) })
		if at < 0 {
			t.Fatalf("no healthy series %s", name)
		}
		series[at] = other
	}
	return series
}

// firing evaluates the rules once a minute and returns the alerts that fire at any time: an alert fires when its
// expression has selected the same labels for as long as the rule requires.
func firing(t testing.TB, alerts map[string]rulefmt.Rule, descriptions []string) []string {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, Parser: promQL})
	defer func() { _ = engine.Close() }()
	series := store(t, descriptions)
	fired := map[string]bool{}
	for name, rule := range alerts {
		query, err := engine.NewRangeQuery(t.Context(), series, nil, rule.Expr, time.Unix(0, 0),
			time.Unix(0, 0).Add(watched), time.Minute)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		matrix, err := query.Exec(t.Context()).Matrix()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, selected := range matrix {
			since, last := int64(0), int64(-1)
			for _, point := range selected.Floats {
				if last < 0 || point.T-last > time.Minute.Milliseconds() {
					since = point.T
				}
				last = point.T
				fired[name] = fired[name] || point.T-since >= time.Duration(rule.For).Milliseconds()
			}
		}
		query.Close()
	}
	maps.DeleteFunc(fired, func(_ string, yes bool) bool { return !yes })
	return slices.Sorted(maps.Keys(fired))
}

// store holds series in memory, with one sample a minute.
func store(t testing.TB, descriptions []string) storage.Queryable {
	t.Helper()
	var all []storage.Series
	for _, description := range descriptions {
		lbls, values, err := promQL.ParseSeriesDesc(description)
		if err != nil {
			t.Fatalf("%s: %v", description, err)
		}
		one := promql.Series{Metric: lbls}
		for i, v := range values {
			one.Floats = append(one.Floats, promql.FPoint{T: int64(i) * time.Minute.Milliseconds(), F: v.Value})
		}
		all = append(all, promql.NewStorageSeries(one))
	}
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			set := &seriesSet{SeriesSet: storage.EmptySeriesSet()}
			for _, s := range all {
				if !slices.ContainsFunc(matchers,
					func(m *labels.Matcher) bool { return !m.Matches(s.Labels().Get(m.Name)) }) {
					set.rest = append(set.rest, s)
				}
			}
			return set
		},
	}}
}

// seriesSet is the result of a query.
type seriesSet struct {
	storage.SeriesSet
	at   storage.Series
	rest []storage.Series
}

func (s *seriesSet) Next() bool {
	if len(s.rest) == 0 {
		return false
	}
	s.at, s.rest = s.rest[0], s.rest[1:]
	return true
}

func (s *seriesSet) At() storage.Series { return s.at }

// TestAlertsLeadToTheRunbook checks that each alert has a runbook section, each section an alert, and each alert
// the required annotations.
func TestAlertsLeadToTheRunbook(t *testing.T) {
	const runbook = "https://github.com/signup-saga/signup-saga/blob/main/docs/runbook.md"
	sections := map[string]bool{}
	for _, found := range regexp.MustCompile(`(?m)^## (\w+)$`).FindAllStringSubmatch(
		mustRead(t, filepath.Join(repository, "docs", "runbook.md")), -1) {
		sections[found[1]] = true
	}
	for name, rule := range loadAlerts(t) {
		if want := runbook + "#" + strings.ToLower(name); !sections[name] || rule.Annotations["runbook_url"] != want {
			t.Errorf("%s: a section of the runbook: %v; link %s, expected %s", name, sections[name],
				rule.Annotations["runbook_url"], want)
		}
		if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" ||
			!slices.Contains([]string{"critical", "warning"}, rule.Labels["severity"]) {
			t.Errorf("%s has no summary, description or severity: %+v", name, rule)
		}
		delete(sections, name)
	}
	for name := range sections {
		t.Errorf("the runbook has a section %s, which is no alert", name)
	}
}

// TestQueriesNameDocumentedMetrics checks the queries of the alerts and the dashboard.
func TestQueriesNameDocumentedMetrics(t *testing.T) {
	queries := panels(t)
	for name, rule := range loadAlerts(t) {
		queries[name] = append(queries[name], rule.Expr)
	}
	known := map[string]documented{"up": {}}
	for _, section := range documentedMetrics(t) {
		maps.Copy(known, section)
	}
	for where, expressions := range queries {
		for _, expression := range expressions {
			for _, wrong := range misnamed(t, expression, known) {
				t.Errorf("%s: %s is not in docs/metrics.md: %s", where, wrong, expression)
			}
		}
	}
}

// misnamed returns the unknown metrics and labels of a query.
func misnamed(t testing.TB, query string, known map[string]documented) (wrong []string) {
	t.Helper()
	expr, err := promQL.ParseExpr(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	parts := regexp.MustCompile(`_(bucket|count|sum)$`)
	given := []string{"job", "instance", "le"} // added by Prometheus
	var grouped []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.AggregateExpr:
			grouped = append(grouped, node.Grouping...)
		case *parser.VectorSelector:
			metric, ok := known[node.Name]
			if base := parts.ReplaceAllString(node.Name, ""); !ok &&
				strings.Contains(known[base].line, "| histogram |") {
				metric, ok = known[base], true
			}
			if !ok {
				wrong = append(wrong, "metric "+node.Name)
			}
			given = append(given, metric.labels...)
			for _, matcher := range node.LabelMatchers {
				if matcher.Name != model.MetricNameLabel && matcher.Name != "job" &&
					!slices.Contains(metric.labels, matcher.Name) {
					wrong = append(wrong, "label "+matcher.Name+" of "+node.Name)
				}
			}
		}
		return nil
	})
	for _, label := range grouped {
		if !slices.Contains(given, label) {
			wrong = append(wrong, "label "+label)
		}
	}
	return wrong
}

// panels returns the dashboard's queries by panel title, as Grafana sends them.
func panels(t testing.TB) map[string][]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(mustRead(t, filepath.Join(repository, "deploy", "grafana", "signup-saga.json"))),
		&dashboard); err != nil {
		t.Fatal(err)
	}
	queries, ids := map[string][]string{}, map[int]bool{}
	for _, panel := range dashboard.Panels {
		if panel.Title == "" || len(panel.Targets) == 0 || ids[panel.ID] || queries[panel.Title] != nil {
			t.Errorf("panel %d, %q: no title, no query, or a second one of its name or id", panel.ID, panel.Title)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			queries[panel.Title] = append(queries[panel.Title],
				strings.ReplaceAll(target.Expr, "$__rate_interval", "1m"))
		}
	}
	if len(queries) == 0 {
		t.Fatal("the dashboard has no panels")
	}
	return queries
}
