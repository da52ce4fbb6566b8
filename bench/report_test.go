package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		l    line
		want bool
	}{
		{line{limit: series{100}, value: series{86}, goal: atLeast(0.85)}, true},
		{line{limit: series{100}, value: series{84}, goal: atLeast(0.85)}, false},
		{line{limit: series{1}, value: series{1.6}, goal: atMost(1.5)}, false},
		{line{value: series{0}, goal: atMost(0)}, true},
		{line{value: series{1}, goal: atMost(0)}, false},
		{line{limit: series{2}, value: series{11}, goal: atMost(10).ofValue()}, false},
		{line{limit: series{200}, value: series{101}, goal: atLeast(100).ofValue()}, true},
	} {
		if c.l.met() != c.want {
			t.Errorf("%+v: met = %v", c.l, c.l.met())
		}
	}
}

func TestChosenRowsReplaceOnlyTheirOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "RESULTS.md")
	measured := func(machine string, rows map[string]string) error {
		b := new(bench)
		for name, what := range rows {
			b.sections = append(b.sections, &section{row: name, title: "title", at: time.Now(), method: "as it is",
				lines: []line{{what: what, value: series{1}}}})
		}
		earlier, err := b.earlier(machine, path, len(rows))
		if err != nil {
			return err
		}
		return b.save(b.document(machine, earlier), path)
	}
	if err := measured("- here\n", map[string]string{"L": "old latency", "R": "old drain"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second run must not add anything
		if err := measured("- here\n", map[string]string{"R": "new drain", "P": "mails"}); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	order := -1
	for _, want := range []string{"# Measured", "- here", "## R: title", "new drain", "## L: title", "old latency",
		"## P: title", "mails"} {
		at := strings.Index(text, want)
		if at <= order {
			t.Errorf("%q is not where it belongs", want)
		}
		order = at
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is there %d times", want, strings.Count(text, want))
		}
	}
	if strings.Contains(text, "old drain") || strings.Contains(text, "\n\n\n") {
		t.Errorf("the document:\n%s", text)
	}
	if err := measured("- elsewhere\n", map[string]string{"R": "foreign"}); !errors.Is(err, errOtherMachine) {
		t.Errorf("figures of two machines are mixed: %v", err)
	}
}

func TestFullRunRewritesTheResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "RESULTS.md")
	if err := os.WriteFile(path, []byte("anything\n## R: old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if earlier, err := new(bench).earlier("- here\n", path, len(rows)); err != nil || earlier != "" {
		t.Errorf("earlier %q, %v", earlier, err)
	}
}

func TestRowsAreChosenByName(t *testing.T) {
	if _, err := parse([]string{"-rows", "R,X"}, os.Stderr); err == nil {
		t.Error("an unknown row is taken")
	}
	o, err := parse([]string{"-quick", "-rows", "R,L", "-reps", "2"}, os.Stderr)
	if err != nil || o.rows != "R,L" || o.reps != 2 || o.backlog != 50_000 {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestDefaultsTakeTheirTime(t *testing.T) {
	for _, c := range []struct {
		args       []string
		from, upTo time.Duration
	}{
		{nil, 30 * time.Minute, 40 * time.Minute},
		{[]string{"-peers"}, 45 * time.Minute, 60 * time.Minute},
		{[]string{"-quick", "-peers"}, 3 * time.Minute, 7 * time.Minute},
		{[]string{"-pin", "30m"}, 80 * time.Minute, 100 * time.Minute},
	} {
		o, err := parse(c.args, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		var takes time.Duration
		for _, r := range rows {
			takes += r.takes(o.config)
		}
		if takes < c.from || takes > c.upTo {
			t.Errorf("%v takes %s", c.args, takes)
		}
	}
}
