package demo

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

// The longest step of the demo.
const (
	longTitle  = "NATS, the storage provider and the mail server go down"
	longResult = "40 of 40 ready after 12.5 s, without anyone's help"
)

func TestFinishedLinesDoNotWrap(t *testing.T) {
	for columns, lines := range map[int]int{80: 2, 110: 2, 112: 1, 200: 1} {
		var out bytes.Buffer
		s := &Screen{out: &out, live: true, columns: func() int { return columns }}
		s.title = longTitle
		s.Done(longResult)
		printed := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(printed) != lines {
			t.Errorf("%d columns: %d lines, want %d: %q", columns, len(printed), lines, printed)
		}
		for _, line := range printed {
			if utf8.RuneCountInString(line) > columns {
				t.Errorf("%d columns: the line wraps: %q", columns, line)
			}
		}
	}
}

// A program that reads the output gets one line for each step, whatever its length.
func TestStepsAreLinesElsewhere(t *testing.T) {
	var out bytes.Buffer
	s := NewScreen(&out, func(string) string { return "" })
	s.Begin(longTitle)
	s.Done(longResult)
	if got := strings.Count(out.String(), "\n"); got != 1 {
		t.Errorf("%d lines: %q", got, out.String())
	}
}

func TestCancelledStepDoesNotLookFailed(t *testing.T) {
	var out bytes.Buffer
	s := NewScreen(&out, func(string) string { return "" })
	s.Begin(longTitle)
	s.Cancel()
	s.Fail()
	if text := out.String(); strings.Contains(text, "✗") || !strings.Contains(text, "interrupted") {
		t.Errorf("printed %q", text)
	}
}
