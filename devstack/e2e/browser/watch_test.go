package browser

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/inspector"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// watch collects the problems of a page.
type watch struct {
	mu       sync.Mutex
	problems []string
	expected []string
	loads    int
}

// event is called by the browser's reader, in the order of the events.
func (w *watch) event(event any) {
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeAssert {
			w.add("console.%s: %s", e.Type, arguments(e.Args))
		}
	case *runtime.EventExceptionThrown:
		w.add("exception: %v", &chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails})
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError {
			w.add("log: %s %s", e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		if c := e.Issue.Details.ContentSecurityPolicyIssueDetails; c != nil {
			w.add("csp: %s refuses %s %s", c.ViolatedDirective, c.ContentSecurityPolicyViolationType, c.BlockedURL)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || (u.Host != "" && u.Hostname() != "127.0.0.1") {
			w.add("foreign request: %s", e.Request.URL)
		}
	case *network.EventLoadingFailed:
		// Requests that were pending when the page was left do not count.
		if !e.Canceled {
			w.add("request failed: %s %s", e.ErrorText, e.BlockedReason)
		}
	case *inspector.EventTargetCrashed:
		w.add("the page's process crashed")
	case *page.EventFrameNavigated:
		w.mu.Lock()
		w.loads++
		w.mu.Unlock()
	}
}

func (w *watch) add(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// expect declares that a problem whose text contains part will occur.
func (w *watch) expect(part string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expected = append(w.expected, part)
}

// verdict returns the problems that were not expected, and the expected problems that did not occur.
func (w *watch) verdict() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var verdict []string
	for _, problem := range w.problems {
		if !slices.ContainsFunc(w.expected, func(part string) bool { return strings.Contains(problem, part) }) {
			verdict = append(verdict, problem)
		}
	}
	for _, part := range w.expected {
		if !slices.ContainsFunc(w.problems, func(problem string) bool { return strings.Contains(problem, part) }) {
			verdict = append(verdict, "expected in vain: "+part)
		}
	}
	return verdict
}

// loaded returns how many documents the page has loaded.
func (w *watch) loaded() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.loads
}

func arguments(args []*runtime.RemoteObject) string {
	var words []string
	for _, a := range args {
		words = append(words, string(a.Value)+a.Description)
	}
	return strings.Join(words, " ")
}
