package console

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/web"
)

//go:embed all:templates
var templates embed.FS

// Config configures a console.
type Config struct {
	API      http.Handler // the admin API, which the console is on top of
	Sessions *service.Sessions
	Pulse    *Pulse
	DemoURL  string // page that injects the faults of a demo; "" for none
	Log      *slog.Logger
}

// Console answers requests below /console/. It is safe for concurrent use.
type Console struct {
	cfg   Config
	api   *client.Admin
	pages *web.Pages
}

// New returns a handler that serves the console and passes every other request to the API.
func New(cfg Config) (http.Handler, error) {
	own, err := fs.Sub(templates, "templates")
	if err != nil {
		return nil, err
	}
	pages, err := web.NewPages(own, funcs)
	if err != nil {
		return nil, err
	}
	api := &http.Client{Transport: web.Transport{Handler: cfg.API}}
	c := &Console{cfg: cfg, pages: pages, api: client.NewAdmin("http://console", "", api)}
	r := service.NewRouter(cfg.Log)
	r.NotFound(cfg.API.ServeHTTP)
	r.Get("/console", func(w http.ResponseWriter, r *http.Request) { web.Redirect(w, r, home) })
	r.With(service.Compress).Get(home+"assets/*", web.Asset)
	r.Group(func(r chi.Router) {
		r.Use(web.Headers, http.NewCrossOriginProtection().Handler)
		r.Get(home+"login", c.showLogin)
		r.Post(home+"login", c.logIn)
		r.Post(home+"logout", c.logOut)
		r.Group(func(r chi.Router) {
			r.Use(c.signedIn)
			r.Get(home+"events", c.streamChanges)
			r.Get(home+"*", c.screen(func(*http.Request) (view, error) { return view{}, errNoPage }))
			c.routes(r.With(service.Compress))
		})
	})
	return r, nil
}

// home is the path of the first page; all other pages are below it.
const home = "/console/"

var errNoPage = &wire.Problem{Status: http.StatusNotFound, Title: "Not Found", Detail: "there is no such page"}

var errQuery = &wire.Problem{
	Status: http.StatusUnprocessableEntity, Title: "Unprocessable Entity",
	Detail: "the part of the address after the question mark cannot be read",
}

// routes adds the screens and their actions.
func (c *Console) routes(r chi.Router) {
	r.Get(home, c.screen(c.overview))
	r.Get(home+"failures", c.screen(c.failures))
	r.Get(home+"retries", c.screen(c.retries))
	r.Post(home+"retries", c.action(c.beginRetry))
	r.Get(home+"retries/new", c.screen(c.askRetry))
	r.Get(home+"retries/{id}", c.screen(c.retry))
	r.Post(home+"retries/{id}/cancel", c.action(c.cancelRetry))
	r.Get(home+"sagas", c.screen(c.sagas))
	r.Post(home+"sagas/retry", c.action(c.retryChosen))
	r.Get(home+"sagas/{saga_id}", c.screen(c.saga))
	r.Post(home+"sagas/{saga_id}/retry", c.action(c.retrySaga))
	r.Post(home+"sagas/{saga_id}/cancel", c.action(c.cancelSaga))
	r.Get(home+"dead", c.screen(c.dead))
	r.Post(home+"dead/{dead_id}/requeue", c.action(c.requeue))
	r.Get(home+"audit", c.screen(c.audit))
}

// navigation returns the links in the header of each page.
func (c *Console) navigation(path string) []web.Link {
	links := []web.Link{
		{Path: home, Text: "Overview"},
		{Path: home + "failures", Text: "Failures"},
		{Path: home + "sagas", Text: "Signups"},
		{Path: home + "retries", Text: "Operations"},
		{Path: home + "dead", Text: "Dead events"},
		{Path: home + "audit", Text: "Audit"},
	}
	for i, l := range links {
		links[i].Current = path == l.Path || l.Path != home && strings.HasPrefix(path, l.Path+"/")
	}
	if c.cfg.DemoURL != "" {
		links = append(links, web.Link{Path: c.cfg.DemoURL, Text: "Faults"})
	}
	return links
}

// view is the content of a screen.
type view struct {
	template, title string
	data            any
	still           bool // the page does not reload when something changes
	every           int  // milliseconds after which the page reloads even without an event
	status          int  // HTTP status; 0 for 200
}

// screen returns a handler of GETs, which shows the view that show returns.
func (c *Console) screen(show func(*http.Request) (view, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, err := service.Query(r); err != nil {
			c.refuse(w, r, errQuery)
			return
		}
		v, err := show(r)
		if err != nil {
			c.refuse(w, r, err)
			return
		}
		c.write(w, r, cmp.Or(v.status, http.StatusOK), v)
	}
}

// action returns a handler of POSTs. do returns the path of the page that shows the result.
func (c *Console) action(do func(*http.Request) (string, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			c.refuse(w, r, &wire.Problem{Status: http.StatusBadRequest, Title: "Bad Request",
				Detail: "the form cannot be read"})
			return
		}
		to, err := do(r)
		if err != nil {
			c.refuse(w, r, err)
			return
		}
		web.Redirect(w, r, to)
	}
}

// maxForm is the maximum size of a form in bytes: some hundred ticked boxes and a reason.
const maxForm = 64 << 10

// mistake is a refusal that is shown on the form that caused it.
type mistake struct {
	*wire.Problem
	form view
}

// refuse shows a problem from the API, or logs any other error.
func (c *Console) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var p *wire.Problem
	var m mistake
	switch {
	case errors.As(err, &m):
		c.write(w, r, m.Status, m.form)
		return
	case errors.As(err, &p) && p.Status == http.StatusUnauthorized: // the token is no longer valid
		web.Redirect(w, r, home+"login")
		return
	case errors.As(err, &p):
	case errors.Is(err, context.Canceled):
		return // the client has disconnected
	default:
		c.cfg.Log.ErrorContext(r.Context(), "console page failed", "error", err)
		p = &wire.Problem{Status: http.StatusInternalServerError, Title: "Internal Server Error",
			Detail: "something went wrong; it has been logged"}
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(p.RetryAfter.Seconds())))
	}
	c.write(w, r, p.Status, view{template: "problem", title: p.Title, data: p, still: true})
}

// write answers with a page for an operator or viewer who is logged in.
func (c *Console) write(w http.ResponseWriter, r *http.Request, status int, v view) {
	who, role := service.Actor(r.Context())
	page := web.Page{
		Title: v.title, Product: product, Home: home, Assets: home + "assets", Nav: c.navigation(r.URL.Path),
		Who: who, Role: role, Leave: home + "logout", Data: v.data, Every: v.every,
	}
	if !v.still {
		page.Events = home + "events"
	}
	c.show(w, r, status, v.template, page)
}

func (c *Console) show(w http.ResponseWriter, r *http.Request, status int, template string, page web.Page) {
	if err := c.pages.Write(w, r, status, template, page); err != nil {
		c.cfg.Log.Error("console page failed", "error", err)
		http.Error(w, "something went wrong; it has been logged", http.StatusInternalServerError)
	}
}

const product = "Signup Saga"

// SessionLifetime is how long a login lasts.
const SessionLifetime = 12 * time.Hour
