package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// machine describes what was measured on, and the settings that matter.
func (b *bench) machine(ctx context.Context) ([]string, error) {
	var version, settings string
	err := b.admin.QueryRow(ctx, `-- name: settings
SELECT current_setting('server_version'), string_agg(name || ' ' || current_setting(name), ', ' ORDER BY name)
FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size', 'wal_level', 'autovacuum')`).
		Scan(&version, &settings)
	if err != nil {
		return nil, err
	}
	nc, _, err := connect(b.servers.nats.url)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	kernel, _ := exec.CommandContext(ctx, "uname", "-sr").Output() // missing on some systems: then it is not named
	return []string{
		fmt.Sprintf("Machine: %d cores, %s, %s, %s, %s", runtime.NumCPU(), procValue("/proc/cpuinfo", "model name"),
			procValue("/proc/meminfo", "MemTotal"), strings.TrimSpace(string(kernel)), runtime.Version()),
		"Postgres " + version + ": " + settings,
		"NATS server " + nc.ConnectedServerVersion() + ": file storage, sync_interval always (a message is on disk before it is acknowledged), one replica",
		"Servers, writers, relay and consumers share these cores",
		fmt.Sprintf("Durations: %d repetitions (W and N: %d); W, N %s each; L %s; B %s each; backlogs R %s, Q %s, peers %s",
			b.reps, b.reps+2, b.slice, b.flow, b.pin, number(float64(b.backlog)), number(float64(b.bigBacklog)), number(float64(b.peerBacklog))),
	}, nil
}

// procValue returns the first value of a key in one of Linux's lists.
func procValue(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown " + key
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown " + key
}

// markdown renders the result.
func (b *bench) markdown(machine []string, plot string) string {
	var out strings.Builder
	out.WriteString("# Measured\n\nWritten by `make bench`, with peers by `make bench-peers`, on " + time.Now().UTC().Format("2006-01-02 15:04 UTC") + ".\n\n")
	for _, m := range machine {
		out.WriteString("- " + m + ".\n")
	}
	out.WriteString("\nFigures are medians with (smallest–largest). A ratio is taken within a repetition, between runs next to each other. Every run\n" +
		"ended with an audit: each event is in the stream exactly once.\n\n" +
		"| row | what | unit | limit | measured | ratio | goal | |\n|---|---|---|--:|--:|--:|--:|---|\n")
	for _, l := range b.lines {
		out.WriteString(l.markdown() + "\n")
	}
	for _, err := range b.failures {
		fmt.Fprintf(&out, "\n**Failed:** %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if len(b.charts) > 0 {
		out.WriteString("\n![Latency over time beside a pinned snapshot](" + plot + ")\n")
	}
	return out.String()
}

func (l line) markdown() string {
	ratio, wanted, verdict := "", "", ""
	if l.limit != nil {
		ratio = l.judged().text()
	}
	if l.goal.set {
		sign := "≥"
		if l.goal.most {
			sign = "≤"
		}
		wanted = sign + " " + strings.TrimSuffix(number(l.goal.bound), ".00")
		verdict = "met"
		if !l.met() {
			verdict = "**missed**"
		}
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | %s |", l.row, l.what, l.unit, l.limit.text(), l.value.text(), ratio, wanted, verdict)
}
