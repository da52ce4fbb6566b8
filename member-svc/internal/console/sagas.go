package console

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
)

// sagasView is a page of the list of sagas.
type sagasView struct {
	pager
	Fields    fields
	Items     []wire.Saga
	Retryable bool   // a saga on the page can be retried
	All       string // query for a retry of all matching sagas, see group; "" for none
	Back      string // query of the list, to return to after an action
	Did       bool   // the last action was a retry of chosen sagas
	Accepted  string
	Refused   []refusal
}

// refusal is a saga that was not retried.
type refusal struct{ ID, Why string }

func sagaFields() fields {
	f := fields{
		{Name: "state", Label: "State"},
		{Name: "delayed", Label: "Delayed", Options: []option{{"true", "yes"}, {"false", "no"}}},
		{Name: "plan", Label: "Plan", Options: []option{{"free", "free"}, {"plus", "plus"}, {"pro", "pro"}}},
		{Name: "error", Label: "Error", Hint: "its fingerprint"},
		{Name: "username", Label: "Username"},
		{Name: "member_id", Label: "Member", Hint: "the id in logs"},
		{Name: "created_after", Label: "After (UTC)", Hint: "2026-11-22"},
		{Name: "created_before", Label: "Before (UTC)", Hint: "2026-11-23"},
	}
	for _, state := range states {
		f[0].Options = append(f[0].Options, option{state, stateTexts[state]})
	}
	return f
}

// filter returns the filter that the form describes, and marks fields that cannot be parsed.
func (fs fields) filter() client.SagaFilter {
	f := client.SagaFilter{
		State: fs.value("state"), Plan: fs.value("plan"), Error: fs.value("error"), Username: fs.value("username"),
		MemberID:     fs.value("member_id"),
		CreatedAfter: fs.instant("created_after"), CreatedBefore: fs.instant("created_before"),
	}
	if text := fs.value("delayed"); text != "" {
		delayed, err := strconv.ParseBool(text)
		if f.Delayed = &delayed; err != nil {
			fs.field("delayed").Wrong = "must be true or false"
		}
	}
	return f
}

func (c *Console) sagas(r *http.Request) (view, error) {
	q := r.URL.Query()
	v := sagasView{Fields: sagaFields(), Back: filtersOf(r).Encode(), Did: q.Has("accepted"),
		Accepted: q.Get("accepted")}
	if err := v.Fields.read(q, "cursor", "accepted", "refused"); err != nil {
		return view{}, err
	}
	f := v.Fields.filter()
	if !v.Fields.Wrong() {
		page, err := c.api.Sagas(r.Context(), f, client.PageOf{Cursor: wire.Cursor(q.Get("cursor"))})
		if err != nil && !v.Fields.blame(err) {
			return view{}, err
		}
		v.Items, v.pager, v.All = page.Items, newPager(r, page.NextCursor), group(f)
	}
	for _, s := range v.Items {
		v.Retryable = v.Retryable || failing(s.State)
	}
	for _, text := range q["refused"] {
		id, code, _ := strings.Cut(text, ":")
		v.Refused = append(v.Refused, refusal{id, refusals[code]})
	}
	return v.Fields.answer(view{template: "sagas", title: "Signups", data: v})
}

// failing reports whether a saga in this state can be retried.
func failing(state string) bool {
	return state == wire.NeedsAttention || state == wire.WithdrawNeedsAttention
}

func waiting(state string) bool { return state == wire.Provisioning || state == wire.Withdrawing }

// group returns the query for a group retry of the sagas that f selects. It returns "" if f selects none that
// can be retried, or uses a filter that group retries do not have.
func group(f client.SagaFilter) string {
	if f.Username+f.MemberID != "" || f.Delayed != nil || f.State != "" && !failing(f.State) {
		return ""
	}
	instant := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	return "?" + query("state", f.State, "error", f.Error, "plan", f.Plan, "created_after", instant(f.CreatedAfter),
		"created_before", instant(f.CreatedBefore))
}

// refusals maps the API's codes to reasons why a saga was not retried.
var refusals = map[string]string{
	"not_found":        "there is no such signup",
	"not_retryable":    "it does not need attention any more",
	"version_mismatch": "it changed after the page was loaded",
	"unknown":          "there was no answer: check whether it was retried",
	"not_tried":        "it was not tried, because the previous one got no answer",
}

// maxChosen is the maximum number of sagas that are retried one by one: a page of them.
const maxChosen = 50

// retryChosen retries the ticked sagas, each at the version that the operator has seen.
func (c *Console) retryChosen(r *http.Request) (string, error) {
	chosen := r.PostForm["saga"]
	if len(chosen) == 0 || len(chosen) > maxChosen {
		return "", invalid("saga", "tick at least one, at most "+strconv.Itoa(maxChosen))
	}
	back, err := url.ParseQuery(r.PostForm.Get("back"))
	if err != nil {
		return "", invalid("back", "cannot be read")
	}
	accepted, lost, refused := 0, false, []string(nil)
	for i, one := range chosen {
		id, version, _ := strings.Cut(one, ":")
		if lost {
			refused = append(refused, id+":not_tried")
			continue
		}
		act, err := actOf(r, version)
		if err == nil {
			_, err = c.api.Retry(r.Context(), id, act)
		}
		var p *wire.Problem
		switch known := errors.As(err, &p) && refusals[p.Code] != ""; {
		case err == nil:
			accepted++
		case known:
			refused = append(refused, id+":"+p.Code)
		case i == 0:
			return "", err // no other saga was tried
		default:
			lost = true
			refused = append(refused, id+":unknown")
		}
	}
	back["accepted"], back["refused"] = []string{strconv.Itoa(accepted)}, refused
	return home + "sagas?" + back.Encode(), nil
}

// actOf returns an action on the version that the operator has seen, so that no unseen version is changed.
func actOf(r *http.Request, version string) (client.Act, error) {
	seen, err := strconv.ParseInt(version, 10, 64)
	if err != nil || seen < 1 {
		return client.Act{}, invalid("version", "must be the version that the page showed")
	}
	return client.Act{Reason: r.PostForm.Get("reason"), Version: seen}, nil
}
