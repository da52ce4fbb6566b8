package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// documented is a row of docs/metrics.md.
type documented struct {
	line   string
	labels []string
}

var metricRow = regexp.MustCompile("^\\| `(\\w+)` \\| \\w+ \\| ([^|]*) \\|")

// documentedMetrics returns the rows of docs/metrics.md by heading and name.
func documentedMetrics(t testing.TB) map[string]map[string]documented {
	t.Helper()
	sections, heading := map[string]map[string]documented{}, ""
	for line := range strings.Lines(mustRead(t, filepath.Join(repository, "docs", "metrics.md"))) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "## "); ok {
			heading = name
			sections[heading] = map[string]documented{}
		}
		if found := metricRow.FindStringSubmatch(line); found != nil {
			labels := strings.FieldsFunc(found[2], func(r rune) bool { return strings.ContainsRune("`, –", r) })
			sections[heading][found[1]] = documented{line: line, labels: labels}
		}
	}
	return sections
}

// TestMetricsAreDocumented compares docs/metrics.md with the metrics that both services serve after a signup.
func TestMetricsAreDocumented(t *testing.T) {
	s := startStack(t, []string{"STUCK_WEBHOOK_URL=http://127.0.0.1:9/",
		"STUCK_WEBHOOK_SECRET=whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"})
	s.allReady(s.crowd(newBook(t), 1, 1, s.env["MEMBER_URL"]))
	member, storage := s.metrics("ADMIN_URL"), s.metrics("STORAGE_URL")
	want := map[string]map[string]string{"Both services": {}, "member-svc": member, "storage-svc": storage}
	for name, row := range maps.Clone(member) {
		if storage[name] == row {
			want["Both services"][name] = row
			delete(member, name)
			delete(storage, name)
		}
	}
	shown := documentedMetrics(t)
	for heading, metrics := range want {
		if len(metrics) == 0 {
			t.Errorf("no metrics of %s", heading)
		}
		for name, row := range metrics {
			if got := shown[heading][name].line; got != row {
				t.Errorf("docs/metrics.md should have under %q\n%s\nbut has\n%s", heading, row, got)
			}
			delete(shown[heading], name)
		}
		for name := range shown[heading] {
			t.Errorf("docs/metrics.md lists %s under %q, which nobody serves there", name, heading)
		}
	}
}

// metrics scrapes a service and returns, by name, the row that each metric should have in the documentation. It
// leaves out what every Go program has.
func (s *stack) metrics(listener string) map[string]string {
	s.t.Helper()
	resp, err := http.Get(s.env[listener] + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s, %v", listener, resp.Status, err)
	}
	found := map[string]string{}
	for name, family := range families {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		names := map[string]bool{}
		for _, metric := range family.Metric {
			for _, label := range metric.Label {
				names["`"+label.GetName()+"`"] = true
			}
		}
		labels, unit := strings.Join(slices.Sorted(maps.Keys(names)), ", "), "–"
		if labels == "" {
			labels = "–"
		}
		if strings.HasSuffix(name, "_seconds") {
			unit = "seconds"
		}
		found[name] = fmt.Sprintf("| `%s` | %s | %s | %s | %s |", name, strings.ToLower(family.GetType().String()),
			labels, unit, family.GetHelp())
	}
	return found
}
