package console

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
)

// deadView is a page of the list of dead events.
type deadView struct {
	pager
	Items    []wire.DeadEvent
	Requeued string // id of the event that was just requeued
}

func (c *Console) dead(r *http.Request) (view, error) {
	q := r.URL.Query()
	if err := (fields{}).read(q, "cursor", "requeued"); err != nil {
		return view{}, err
	}
	page, err := c.api.DeadEvents(r.Context(), client.PageOf{Cursor: wire.Cursor(q.Get("cursor"))})
	if err != nil {
		return view{}, err
	}
	v := deadView{newPager(r, page.NextCursor), page.Items, q.Get("requeued")}
	return view{template: "dead", title: "Dead events", data: v, every: 5000}, nil
}

func (c *Console) requeue(r *http.Request) (string, error) {
	e, err := c.api.RequeueEvent(r.Context(), chi.URLParam(r, "dead_id"), r.PostForm.Get("reason"))
	return home + "dead?" + query("requeued", e.ID), err
}
