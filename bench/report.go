package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// section is the result of one row.
type section struct {
	row, title string
	at         time.Time
	method     string // how and for how long it was measured
	lines      []line
	notes      []string // paragraphs below the table
	failure    error
	charts     []curve // drawn into picture
}

const (
	preamble = "# Measured\n\nWritten by `make bench`, with peers by `make bench-peers`; `FLAGS=-rows=R,L` measures " +
		"only those rows and keeps the others.\n\n"
	reading = "\nFigures are medians with (smallest–largest). A ratio is taken within a repetition, between runs " +
		"next to each other. A limit is\n" +
		"what the machine can do at most; where it says so, it is a peer. Every run ended with an audit: nothing " +
		"lost, nothing twice.\n"
	picture = "pinned-snapshot.svg"
)

// machine describes the machine, and the settings that matter.
func (b *bench) machine(ctx context.Context) (string, error) {
	var version, settings string
	err := b.admin.QueryRow(ctx, `-- name: settings
SELECT current_setting('server_version'), string_agg(name || ' ' || current_setting(name), ', ' ORDER BY name)
FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size',
    'wal_level', 'autovacuum')`).
		Scan(&version, &settings)
	if err != nil {
		return "", err
	}
	nc, _, err := connect(b.servers.nats.url)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	kernel, _ := exec.CommandContext(ctx, "uname", "-sr").Output() // missing on some systems: then it is left out
	return fmt.Sprintf("- Machine: %d cores, %s, %s, %s, %s.\n- Postgres %s: %s.\n"+
		"- NATS server %s: file storage, sync_interval always (a message is on disk before it is acknowledged), one "+
		"replica.\n"+
		"- Servers, writers, relay and consumers share these cores.\n",
		runtime.NumCPU(), procValue("/proc/cpuinfo", "model name"), procValue("/proc/meminfo", "MemTotal"),
		strings.TrimSpace(string(kernel)), runtime.Version(),
		version, settings, nc.ConnectedServerVersion()), nil
}

// procValue returns the first value of a key in one of Linux's lists, such as /proc/cpuinfo.
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

func (s *section) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "## %s: %s\n\n%s, %s.\n", s.row, s.title, s.at.UTC().Format("2006-01-02 15:04 UTC"), s.method)
	if len(s.lines) > 0 {
		out.WriteString("\n| what | unit | limit | measured | ratio | goal | |\n|---|---|--:|--:|--:|--:|---|\n")
	}
	for _, l := range s.lines {
		out.WriteString(l.markdown() + "\n")
	}
	for _, n := range s.notes {
		out.WriteString("\n" + n + "\n")
	}
	if s.failure != nil {
		fmt.Fprintf(&out, "\n**Failed:** %s\n", strings.ReplaceAll(s.failure.Error(), "\n", "; "))
	}
	if len(s.charts) > 0 {
		out.WriteString("\n![Latency over time beside a pinned snapshot](" + picture + ")\n")
	}
	return out.String()
}

// errOtherMachine prevents mixing results that cannot be compared.
var errOtherMachine = errors.New("the results in the file are of another machine or other settings: measure all rows")

// earlier returns the document at path, whose other rows are kept if not all rows are measured. It returns "" if
// there is none, or none is needed.
func (b *bench) earlier(machine, path string, measured int) (string, error) {
	if path == "" || measured == len(rows) {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil && !strings.HasPrefix(string(text), preamble+machine+reading) {
		err = fmt.Errorf("%s: %w", path, errOtherMachine)
	}
	return string(text), err
}

// document renders the result. Rows that were not measured in this run are taken from the earlier document.
func (b *bench) document(machine, earlier string) string {
	texts := map[string]string{}
	for i, part := range strings.Split(earlier, "\n## ") {
		if name, _, ok := strings.Cut(part, ":"); ok && i > 0 {
			texts[name] = "## " + strings.TrimRight(part, "\n") + "\n"
		}
	}
	for _, s := range b.sections {
		texts[s.row] = s.markdown()
	}
	out := preamble + machine + reading
	for _, r := range rows {
		if text := texts[r.name]; text != "" {
			out += "\n" + text
		}
	}
	return out
}

// save writes the document to the file at path, and the picture beside it.
func (b *bench) save(document, path string) error {
	for _, s := range b.sections {
		if len(s.charts) == 0 {
			continue
		}
		if err := drawSVG(filepath.Join(filepath.Dir(path), picture), s.charts); err != nil {
			return err
		}
	}
	return os.WriteFile(path, []byte(document), 0o644)
}
