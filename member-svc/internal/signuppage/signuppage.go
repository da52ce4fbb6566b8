// Package signuppage serves the sign-up page: a form, and a page that shows the progress of the signup. It is a
// layer on top of the public API. It calls that API in the same process, with the browser's address: only the
// API decides what is checked, limited, counted and repeated.
package signuppage

import (
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/service"
	"github.com/signup-saga/signup-saga/service/web"
)

const (
	// maxForm is the maximum size of a form in bytes: the longest entries that the API accepts, with every byte
	// escaped.
	maxForm = 32 << 10
	// lookAgain is when a browser that receives no events reloads the page.
	lookAgain = 2 * time.Second
)

//go:embed templates
var files embed.FS

// Config configures the page.
type Config struct {
	Plans       []string // open to everyone; the first is the default
	PasswordMin int      // characters; the page only shows it
	Log         *slog.Logger
}

// Site is the sign-up page. It is safe for concurrent use.
type Site struct {
	cfg     Config
	members *client.Public
	pages   *web.Pages
}

// New returns the page. It answers no requests before [Site.Mount].
func New(cfg Config) (*Site, error) {
	templates, err := fs.Sub(files, "templates")
	if err != nil {
		return nil, err
	}
	pages, err := web.NewPages(templates,
		template.FuncMap{"size": size, "quota": func(plan string) string { return size(store.QuotaBytes[plan]) }})
	if err != nil {
		return nil, err
	}
	return &Site{cfg: cfg, pages: pages}, nil
}

// Mount adds the routes of the page to a router. The page calls api, the public API, in this process.
func (s *Site) Mount(r chi.Router, api http.Handler) {
	s.members = client.NewPublic("http://api", &http.Client{Transport: web.Transport{Handler: api}})
	handle := func(h service.Handler) http.HandlerFunc { return service.Adapt(s.cfg.Log, nil, h) }
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(handle(s.foreign))
	page := r.With(web.Headers, service.Compress)
	page.Get("/", handle(s.empty))
	page.With(sameOrigin.Handler).Post("/", handle(s.signUp))
	page.Get("/signup/{signup_id}", handle(s.progress))
	page.Get("/assets/{name}", web.Asset)
}

func (s *Site) write(w http.ResponseWriter, r *http.Request, status int, name string, page web.Page) error {
	page.Product, page.Home, page.Assets = "Signup Saga", "/", "/assets"
	return s.pages.Write(w, r, status, name, page)
}

// form is the form as it is shown, with everything that was typed except the password.
type form struct {
	wire.NewMember
	Key         string            // idempotency key, the same however often the form is sent
	Wrong       map[string]string // by field: why the API refused it
	Failure     string            // any other problem
	Plans       []string
	PasswordMin int
}

func (s *Site) show(w http.ResponseWriter, r *http.Request, status int, f form) error {
	title := "Sign up"
	if status != http.StatusOK {
		title = "Error: " + title
	}
	if f.Key == "" {
		f.Key = rand.Text()
	}
	f.Plans, f.PasswordMin = s.cfg.Plans, s.cfg.PasswordMin
	return s.write(w, r, status, "form", web.Page{Title: title, Data: f})
}

func (s *Site) empty(w http.ResponseWriter, r *http.Request) error {
	return s.show(w, r, http.StatusOK, form{})
}

func (s *Site) foreign(w http.ResponseWriter, r *http.Request) error {
	return s.show(w, r, http.StatusForbidden, form{
		Failure: "Another site sent this form, so nothing was done. To sign up, fill it in here.",
	})
}

func (s *Site) signUp(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return s.show(w, r, http.StatusBadRequest,
			form{Failure: "The form is too large, or did not arrive completely. Please send it again."})
	}
	value := r.PostForm.Get
	m := wire.NewMember{Username: value("username"), Password: value("password"), Plan: value("plan"),
		Email: value("email")}
	ctx := client.WithSolution(web.ForClient(r), value("solution"))
	signup, err := s.members.SignUp(ctx, m, value("key"))
	var refusal *wire.Problem
	switch {
	case err == nil:
		web.Redirect(w, r, "/signup/"+signup.SignupID)
		return nil
	case !errors.As(err, &refusal):
		return err
	}
	m.Password = ""
	f := form{NewMember: m, Key: value("key"), Wrong: map[string]string{}}
	f.refuse(refusal)
	if refusal.RetryAfter > 0 {
		w.Header().Set("Retry-After", seconds(refusal.RetryAfter))
	}
	return s.show(w, r, refusal.Status, f)
}

// refuse puts the API's refusal into the form. The key stays the same, because a signup that seems to have
// failed may have been carried out; it is dropped if it is of no more use.
func (f *form) refuse(p *wire.Problem) {
	again := "Type your password and try again in " + seconds(max(p.RetryAfter, time.Second)) + " s."
	switch {
	case p.Code == "validation_failed":
		for _, e := range p.Errors {
			f.Wrong[strings.TrimPrefix(e.Pointer, "/")] = e.Detail
		}
	case p.Code == "username_taken":
		f.Wrong["username"] = "is taken: choose another one"
	case p.Code == "idempotency_key_reused":
		f.Key = ""
		f.Failure = "This form was sent before with other entries, and they were accepted: you are in. Send it " +
			"again only if you want a second account."
	case p.Code == "rate_limited":
		f.Failure = "There were too many attempts from your address or for this username. " + again
	case p.Temporary():
		f.Failure = "We cannot sign you up at the moment. " + again +
			" There will be one account, however often you try."
	default:
		f.Key = ""
		f.Failure = "This was not accepted: " + p.Detail + "."
	}
}

func (s *Site) progress(w http.ResponseWriter, r *http.Request) error {
	signup, err := s.members.Signup(web.ForClient(r), chi.URLParam(r, "signup_id"))
	var refusal *wire.Problem
	switch {
	case err == nil:
		page := web.Page{Title: "Your signup", Data: signup}
		if !signup.Settled() {
			page.Reload = int(lookAgain.Seconds())
		}
		return s.write(w, r, http.StatusOK, "progress", page)
	case !errors.As(err, &refusal):
		return err
	case refusal.Status == http.StatusNotFound:
		return s.write(w, r, http.StatusNotFound, "unknown", web.Page{Title: "No such signup"})
	}
	wait := seconds(max(lookAgain, refusal.RetryAfter))
	w.Header().Set("Retry-After", wait)
	w.Header().Set("Refresh", wait)
	return s.write(w, r, refusal.Status, "away", web.Page{Title: "One moment"})
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// size returns a number of bytes for people to read.
func size(bytes int64) string {
	if bytes >= 1<<40 {
		return fmt.Sprintf("%.4g TiB", float64(bytes)/(1<<40))
	}
	return fmt.Sprintf("%.4g GiB", float64(bytes)/(1<<30))
}
