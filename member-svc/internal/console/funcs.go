package console

import (
	"fmt"
	"html/template"
	"net/url"
	"time"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/service"
)

// funcs are what templates can use.
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
	"query": func(pairs ...string) template.URL { return template.URL(query(pairs...)) }, //nolint:gosec // url.Values encodes it
}

var stateTexts = map[string]string{
	client.Provisioning: "provisioning", client.Ready: "ready", client.NeedsAttention: "needs attention",
	client.Withdrawing: "withdrawing", client.WithdrawNeedsAttention: "withdrawal needs attention", client.Withdrawn: "withdrawn",
}

// tone is the class of a badge or a moment by its state.
func tone(state string) string {
	switch state {
	case client.Ready, "finished":
		return "good"
	case client.Provisioning, client.Withdrawing, "running":
		return "wait"
	case client.NeedsAttention, client.WithdrawNeedsAttention, "stopped":
		return "bad"
	default:
		return ""
	}
}

// span writes a number of seconds as people say it.
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

// query encodes names and values in turn; those without a value are left out.
func query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q.Encode()
}
