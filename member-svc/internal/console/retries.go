package console

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
)

// selection returns the filter of a list of sagas or of a group retry: the URL's query, by the names of the
// API. The API refuses unknown names.
func selection(r *http.Request) map[string]string {
	filter := map[string]string{}
	for name := range r.URL.Query() {
		if value := r.URL.Query().Get(name); value != "" {
			filter[name] = value
		}
	}
	return filter
}

// newRetry is the form of a group retry. Its ID is chosen when the form is shown, so that sending the form
// twice starts one retry.
type newRetry struct {
	Filter  map[string]string
	ID      string
	Fields  fields        // by the names of the API
	Matched int           // number of sagas that the filter selects now
	Refused *wire.Problem // why it cannot start, unless a field says so
}

func retryFields() fields {
	return fields{
		{Name: "reason", Label: "Reason",
			Hint: "Kept with your name in the retry, in each of its signups and in the audit."},
		{Name: "rate_per_second", Label: "Signups per second, at most", Value: "10",
			Hint: "1 to 200. The retry starts with one per second and doubles up to this rate: " +
				"if the cause is still there, few are retried in vain."},
		{Name: "stop_after_failures", Label: "Stop after this many failed again", Value: "10",
			Hint: "1 to 100,000. Signups not released by then stay as they are. The retry also stops when " +
				"ten seconds' worth of releases wait for an answer."},
	}
}

// refusedForm returns the API's refusal if the person can correct the form, else nil.
func refusedForm(err error) *wire.Problem {
	var p *wire.Problem
	if errors.As(err, &p) && (p.Status == http.StatusUnprocessableEntity || p.Status == http.StatusConflict) {
		return p
	}
	return nil
}

// askRetry shows the form and how many sagas the retry would cover.
func (c *Console) askRetry(r *http.Request) (view, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return view{}, err
	}
	return c.retryForm(r, newRetry{ID: id.String(), Fields: retryFields()})
}

func (c *Console) retryForm(r *http.Request, v newRetry) (_ view, err error) {
	v.Filter = selection(r)
	if v.Matched, err = c.api.CountGroup(r.Context(), wire.NewGroupRetry{Filter: v.Filter}); err != nil {
		if v.Refused = refusedForm(err); v.Refused == nil {
			return view{}, err
		}
	}
	return view{template: "retry_new", title: "Retry a group", data: v, still: true}, nil
}

// beginRetry starts the retry, or shows the form again with what is wrong.
func (c *Console) beginRetry(r *http.Request) (string, error) {
	v := newRetry{ID: r.PostForm.Get("id"), Fields: retryFields()}
	for i, f := range v.Fields {
		v.Fields[i].Value = r.PostForm.Get(f.Name)
	}
	begun, err := c.api.RetryGroup(r.Context(), wire.NewGroupRetry{
		ID: v.ID, Filter: selection(r), Reason: v.Fields.value("reason"),
		Rate:      parseField(v.Fields.value("rate_per_second")),
		StopAfter: parseField(v.Fields.value("stop_after_failures")),
	})
	if err == nil {
		return home + "retries/" + begun.ID, nil
	}
	refused := refusedForm(err)
	if refused == nil {
		return "", err
	}
	if !v.Fields.blame(err) {
		v.Refused = refused
	}
	form, err := c.retryForm(r, v)
	if err != nil {
		return "", err
	}
	return "", mistake{refused, form}
}

// parseField parses a number. Invalid input becomes -1, which the API refuses. So does 0, which the client would
// replace by the default.
func parseField(text string) int {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n == 0 {
		return -1
	}
	return n
}

// retries lists the group retries, newest first.
func (c *Console) retries(r *http.Request) (view, error) {
	page, err := c.api.GroupRetries(r.Context(), client.PageOf{Cursor: wire.Cursor(r.FormValue("cursor"))})
	return view{template: "retries", title: "Operations", data: struct {
		pager
		Items []wire.GroupRetry
	}{newPager(r, page.NextCursor), page.Items}}, err
}

// retry shows the progress of a group retry.
func (c *Console) retry(r *http.Request) (view, error) {
	one, err := c.api.GroupRetry(r.Context(), chi.URLParam(r, "id"))
	return view{template: "retry", title: "Retry of " + plural(one.Matched, "signup"), data: struct {
		wire.GroupRetry
		Begin wire.NewGroupRetry // the call that started it
	}{one, wire.NewGroupRetry{Filter: one.Filter, Reason: one.Reason, Rate: one.Rate, StopAfter: one.StopAfter}}}, err
}

// cancelRetry stops a group retry from releasing more sagas.
func (c *Console) cancelRetry(r *http.Request) (string, error) {
	one, err := c.api.CancelGroupRetry(r.Context(), chi.URLParam(r, "id"), strings.TrimSpace(r.PostForm.Get("reason")))
	return home + "retries/" + one.ID, err
}
