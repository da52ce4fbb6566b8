package console

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
)

// auditView is a page of the audit.
type auditView struct {
	pager
	Fields fields
	Items  []auditRow
}

// auditRow is one operator's action.
type auditRow struct {
	wire.AuditRow
	Did           string
	Retry         string // id of the group retry that it started, cancelled or belongs to; "" for none
	Before, After string
	From, To      string // the saga's state before and after
}

// actions maps the actions of the audit to words.
var actions = []option{
	{"retried", "retried"}, {"withdraw", "withdrew"}, {"retry_group", "retried a group"},
	{"cancel_retry", "cancelled a group retry"}, {"requeue", "requeued"},
}

func (c *Console) audit(r *http.Request) (view, error) {
	q := r.URL.Query()
	v := auditView{Fields: fields{{Name: "actor", Label: "Who"}, {Name: "action", Label: "What", Options: actions},
		{Name: "saga_id", Label: "Saga", Hint: "its id"}}}
	if err := v.Fields.read(q, "cursor"); err != nil {
		return view{}, err
	}
	f := client.AuditFilter{Actor: v.Fields.value("actor"), Action: v.Fields.value("action"),
		SagaID: v.Fields.value("saga_id")}
	page, err := c.api.Audit(r.Context(), f, client.PageOf{Cursor: wire.Cursor(q.Get("cursor"))})
	if err != nil && !v.Fields.blame(err) {
		return view{}, err
	}
	v.pager = newPager(r, page.NextCursor)
	for _, row := range page.Items {
		v.Items = append(v.Items, newAuditRow(row))
	}
	return v.Fields.answer(view{template: "audit", title: "Audit", data: v})
}

func newAuditRow(row wire.AuditRow) auditRow {
	v := auditRow{AuditRow: row, Did: row.Action, Before: string(row.Before), After: string(row.After)}
	for _, a := range actions {
		if a.Value == row.Action {
			v.Did = a.Text
		}
	}
	if id, ok := strings.CutPrefix(row.Subject, "retry "); ok {
		v.Retry = id
	}
	if row.SagaID != nil {
		v.From, v.To = stateIn(row.Before), stateIn(row.After)
	}
	return v
}

func stateIn(facts json.RawMessage) string {
	var f struct{ State string }
	_ = json.Unmarshal(facts, &f) // a row without a state shows none
	return f.State
}
