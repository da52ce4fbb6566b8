package console

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
)

// funcs are the functions that templates may use.
var funcs = template.FuncMap{
	"operator": func(role string) bool { return role == service.RoleOperator },
	"utc":      func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"iso":      func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"span":     span,
	"tone":     tone,
	"stateText": func(state string) string {
		if text := stateTexts[state]; text != "" {
			return text
		}
		return state
	},
	"short":    short,
	"failing":  failing,
	"number":   number,
	"count":    plural,
	"selected": func(filter map[string]string) template.URL { return template.URL(selected(filter)) },
	"curl":     curl,
	"settled":  func(r wire.GroupRetry) int { return r.Succeeded + r.Failed + r.Skipped },
	"query":    func(pairs ...string) template.URL { return template.URL(query(pairs...)) }, // url.Values encodes it
}

var stateTexts = map[string]string{
	wire.Provisioning: "provisioning", wire.Ready: "ready", wire.NeedsAttention: "needs attention",
	wire.Withdrawing: "withdrawing", wire.WithdrawNeedsAttention: "withdrawal needs attention",
	wire.Withdrawn: "withdrawn",
}

// tone returns the CSS class of a badge or moment for a state.
func tone(state string) string {
	switch state {
	case wire.Ready, "finished":
		return "good"
	case wire.Provisioning, wire.Withdrawing, "running":
		return "wait"
	case wire.NeedsAttention, wire.WithdrawNeedsAttention, "stopped":
		return "bad"
	default:
		return ""
	}
}

// span formats a number of seconds for people.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.3g s", d.Seconds())
	case d < 100*time.Minute:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	default:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	}
}

// short returns the start of a text, in one line.
func short(text string) string {
	line, _, more := strings.Cut(strings.TrimSpace(text), "\n")
	if runes := []rune(line); len(runes) > 120 {
		line, more = string(runes[:120]), true
	}
	if more {
		line += " …"
	}
	return line
}

// number formats a number with thousands separators.
func number(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// plural formats a count of things.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return number(n) + " " + what + "s"
}

// selected encodes a filter as a query that selects the same sagas.
func selected(filter map[string]string) string {
	q := url.Values{}
	for name, value := range filter {
		q.Set(name, value)
	}
	return q.Encode()
}

// curl returns a shell command that calls the admin API, with a body unless it is nil.
func curl(path string, body any) (string, error) {
	call := `curl -s "$ADMIN_URL` + path + `" -H "Authorization: Bearer $ADMIN_TOKEN"`
	if body == nil {
		return call, nil
	}
	text, err := json.Marshal(body)
	return call + " --json " + quote(string(text)), err
}

// quote quotes a word for a shell.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// query encodes pairs of names and values; pairs with an empty value are left out.
func query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q.Encode()
}
