package console

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// sagaView is a saga with its timeline.
type sagaView struct {
	wire.Saga
	Moments             []moment
	Raw                 string // the timeline as the API returns it
	CanRetry, CanCancel bool
	Example             map[string]string // example body of the API's calls
}

// moment is a row of the timeline, in words.
type moment struct {
	wire.Moment
	Text, Tone string
	After      string // time since the previous moment; "" for the first
}

// kinds maps the kinds of moments to words and tones.
var kinds = map[string]struct{ text, tone string }{
	"signed_up":       {"Signed up: committed in one transaction with its events", ""},
	"provisioned":     {"Answer: provisioned", "good"},
	"deprovisioned":   {"Answer: removed", "good"},
	"rejected":        {"Answer: refused for good", "bad"},
	"attempt_failed":  {"An attempt failed; the next one follows automatically", "wait"},
	"redriven":        {"No answer in time: command sent again", "wait"},
	"gave_up":         {"No answer for too long: needs attention", "bad"},
	"stuck":           {"A notice was sent", ""},
	"commanded_again": {"Reconciliation found a difference: command sent again", "wait"},
	"retried":         {"Retried", ""},
	"withdraw":        {"Withdrawn", ""},
	"timer_due":       {"Resumed by a version that knows the step", ""},
	"erased":          {"The database refused the withdrawal: only the member was erased", "bad"},
}

// newMoments translates a timeline into words.
func newMoments(timeline []wire.Moment) []moment {
	all := make([]moment, len(timeline))
	for i, m := range timeline {
		kind, ignored := strings.CutSuffix(m.Kind, "_ignored")
		known := kinds[kind]
		all[i] = moment{Moment: m, Text: known.text, Tone: known.tone}
		switch {
		case known.text == "":
			all[i].Text = m.Kind
		case ignored:
			all[i].Text, all[i].Tone = known.text+" – not expected, ignored", ""
		case kind == "withdraw" && m.Actor == "":
			all[i].Text = "The member left"
		case m.Actor != "":
			all[i].Text += " by " + m.Actor
		}
		if i > 0 {
			all[i].After = span(max(0, m.At.Sub(timeline[i-1].At).Seconds()))
		}
	}
	return all
}

func (c *Console) saga(r *http.Request) (view, error) {
	s, err := c.api.Saga(r.Context(), chi.URLParam(r, "saga_id"))
	if err != nil {
		return view{}, err
	}
	raw, err := json.MarshalIndent(s.Timeline, "", "  ")
	if err != nil {
		return view{}, err
	}
	v := sagaView{
		Saga: s, Moments: newMoments(s.Timeline), Raw: string(raw),
		CanRetry:  failing(s.State) || s.Step == "" && waiting(s.State),
		CanCancel: s.State == wire.Provisioning || s.State == wire.Ready || s.State == wire.NeedsAttention,
		Example:   map[string]string{"reason": "…"},
	}
	title := "A member who has left"
	if s.Username != nil {
		title = *s.Username
	}
	return view{template: "saga", title: title, data: v}, nil
}

func (c *Console) retrySaga(r *http.Request) (string, error) {
	act, err := actOf(r, r.PostForm.Get("version"))
	if err != nil {
		return "", err
	}
	s, err := c.api.Retry(r.Context(), chi.URLParam(r, "saga_id"), act)
	return home + "sagas/" + url.PathEscape(s.SagaID), err
}

func (c *Console) cancelSaga(r *http.Request) (string, error) {
	act, err := actOf(r, r.PostForm.Get("version"))
	if err != nil {
		return "", err
	}
	if r.PostForm.Get("sure") == "" {
		return "", invalid("sure", "tick the box that says that it cannot be undone")
	}
	s, err := c.api.Cancel(r.Context(), chi.URLParam(r, "saga_id"), act)
	return home + "sagas/" + url.PathEscape(s.SagaID), err
}
