package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	frameEvery = 100 * time.Millisecond
	markWidth  = 4  // columns before the title of a step
	titleWidth = 58 // columns of the title, before the result
	lineWidth  = 110
)

var frames = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

// Screen prints the story: on a terminal with one live line for the current step, elsewhere with one line per
// step. Its methods are safe for concurrent use.
type Screen struct {
	out    io.Writer
	live   bool
	colour bool
	// columns returns the width of a line in columns.
	columns func() int

	mu      sync.Mutex
	title   string // "" between steps
	detail  string
	frame   int
	started time.Time
	stop    chan struct{}
	stopped chan struct{}
}

// NewScreen returns a screen on out. It is live and coloured only on a terminal; NO_COLOR turns colours off.
func NewScreen(out io.Writer, getenv func(string) string) *Screen {
	live := IsTerminal(out) && getenv("TERM") != "dumb"
	colour := live && getenv("NO_COLOR") == ""
	return &Screen{out: out, live: live, colour: colour, columns: func() int { return columns(out) }}
}

// IsTerminal reports whether out is a terminal.
func IsTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Print prints lines between steps.
func (s *Screen) Print(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// Begin starts a step.
func (s *Screen) Begin(title string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.title, s.detail, s.started = title, "", time.Now()
	if !s.live {
		return
	}
	s.stop, s.stopped = make(chan struct{}), make(chan struct{})
	s.draw()
	go s.animate(s.stop, s.stopped)
}

// Update shows the progress of the step. It is shown only while the step lasts, and only on a terminal.
func (s *Screen) Update(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detail = fmt.Sprintf(format, args...)
}

// Note shows a part of a step that may take long: in the live line, or on its own line if there is no live line.
func (s *Screen) Note(line string) {
	if s.live {
		s.Update("%s", line)
		return
	}
	s.Print("    %s", line)
}

// Done ends the step with its result.
func (s *Screen) Done(format string, args ...any) {
	s.end(s.green("✓"), fmt.Sprintf(format, args...))
}

// Fail marks the current step, if any, as failed.
func (s *Screen) Fail() { s.end(s.red("✗"), "") }

// Cancel ends the current step, if any, without marking it as failed: the user has ended the demo.
func (s *Screen) Cancel() { s.end(s.dim("–"), "interrupted") }

// Elapsed returns the time since the step began.
func (s *Screen) Elapsed() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.started)
}

func (s *Screen) end(mark, result string) {
	s.mu.Lock()
	title, stop, stopped := s.title, s.stop, s.stopped
	s.title, s.stop = "", nil
	s.mu.Unlock()
	if title == "" {
		return
	}
	if stop != nil {
		close(stop)
		<-stopped
	}
	fmt.Fprintf(s.out, "  %s %s\n", mark, s.layout(title, result))
}

// layout puts the result of a step beside its title, or below it if the terminal is too narrow for both.
func (s *Screen) layout(title, result string) string {
	line := pad(title, titleWidth)
	switch {
	case result == "":
		return title
	case s.live && markWidth+utf8.RuneCountInString(line+result) > s.columns():
		return title + "\n" + strings.Repeat(" ", markWidth+2) + s.dim(result)
	}
	return line + s.dim(result)
}

// columns returns the width of the terminal in columns, or lineWidth.
func columns(out io.Writer) int {
	if file, ok := out.(*os.File); ok {
		if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return lineWidth
}

func (s *Screen) animate(stop <-chan struct{}, stopped chan<- struct{}) {
	defer close(stopped)
	tick := time.NewTicker(frameEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			fmt.Fprint(s.out, "\r\x1b[K")
			return
		case <-tick.C:
			s.mu.Lock()
			s.frame++
			s.draw()
			s.mu.Unlock()
		}
	}
}

// draw shows the current step on one line that never wraps. The caller holds the lock.
func (s *Screen) draw() {
	if s.title == "" {
		return
	}
	line := []rune(fmt.Sprintf("  %c %s%s", frames[s.frame%len(frames)], pad(s.title, titleWidth), s.detail))
	fmt.Fprintf(s.out, "\r\x1b[K%s", string(line[:min(len(line), s.columns()-1)]))
}

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(1, width-utf8.RuneCountInString(text)))
}

func (s *Screen) bold(text string) string  { return s.style("1", text) }
func (s *Screen) dim(text string) string   { return s.style("2", text) }
func (s *Screen) green(text string) string { return s.style("32", text) }
func (s *Screen) red(text string) string   { return s.style("31", text) }

func (s *Screen) style(code, text string) string {
	if !s.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
