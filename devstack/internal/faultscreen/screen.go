// Package faultscreen is a page on which a person breaks a stack, signs people up, and watches. It has no login:
// anyone who reaches it can kill what the stack runs. Use it for demonstrations, on the loopback interface only.
package faultscreen

import (
	"context"
	"embed"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/devstack/internal/stack"
	"github.com/signup-saga/signup-saga/service/web"
)

// readLimit is how long a page waits for services that may be broken.
const readLimit = 2 * time.Second

//go:embed faults.html
var templates embed.FS

// screen is the page and its state.
type screen struct {
	stack   *stack.Stack
	crowd   *crowd
	members *client.Public
	admin   *client.Admin
	storage *client.Storage
	pages   *web.Pages

	mu      sync.Mutex // guards the fields below
	notice  notice
	changed time.Time // when the provider's behaviour was last set
}

// notice is the result of the latest action.
type notice struct{ Tone, Text string }

// Serve serves the page on the listener, under the listener's address only, until stop is called. It returns at once.
func Serve(l net.Listener, s *stack.Stack) (stop func(), err error) {
	pages, err := web.NewPages(templates, template.FuncMap{"kind": kindOf})
	if err != nil {
		return nil, err
	}
	to, h := s.Variables(), &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: shown}}
	c := &screen{
		stack: s, pages: pages,
		members: client.NewPublic(to.Get("MEMBER_URL"), h),
		admin:   client.NewAdmin(to.Get("ADMIN_URL"), to.Get("VIEWER_TOKEN"), h),
		storage: client.NewStorage(to.Get("STORAGE_URL"), to.Get("STORAGE_TOKEN"), h),
	}
	c.crowd = &crowd{signUp: c.members.SignUp}
	server := &http.Server{Handler: c.routes(l.Addr().String()), ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes: 1 << 16}
	go func() { _ = server.Serve(l) }() // ends with stop
	return func() {
		_ = server.Close()
		c.crowd.stream(false)
		c.crowd.running.Wait()
	}, nil
}

// routes serves the page only under the host name host. Under another site's name that resolves to this address,
// that site's pages could use it.
func (s *screen) routes(host string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.show)
	mux.HandleFunc("GET /assets/", web.Asset)
	for path, do := range map[string]func(*http.Request) (string, error){
		"component": s.operate, "provider": s.setProvider, "people": s.signUpTen, "stream": s.setStream,
	} {
		mux.HandleFunc("POST /"+path, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 4096)
			text, err := do(r)
			said := notice{"", text}
			if err != nil {
				said = notice{"bad", err.Error()}
			}
			s.mu.Lock()
			s.notice = said
			s.mu.Unlock()
			http.Redirect(w, r, "/", http.StatusSeeOther)
		})
	}
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return web.Headers(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != host {
			http.Error(w, "this page is at http://"+host+"/", http.StatusMisdirectedRequest)
			return
		}
		guarded.ServeHTTP(w, r)
	}))
}

func (s *screen) operate(r *http.Request) (string, error) {
	// It continues if the browser disconnects: half a wipe would be useless.
	return s.stack.Do(context.WithoutCancel(r.Context()), r.PostFormValue("verb"), r.PostFormValue("name"), "")
}

func (s *screen) setProvider(r *http.Request) (string, error) {
	f := wire.Fault{Mode: r.PostFormValue("mode")}
	_, err := fmt.Sscan(r.PostFormValue("probability")+" "+r.PostFormValue("latency"), &f.Probability, &f.LatencyMS)
	if err != nil {
		return "", fmt.Errorf("probability and latency are numbers: %w", err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerLimit)
	defer cancel()
	if err := s.storage.SetFault(ctx, f); err != nil {
		return "", fmt.Errorf("set the fault of the provider: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = time.Now()
	return "the provider uses the setting", nil
}

func (s *screen) signUpTen(r *http.Request) (string, error) {
	began := time.Now()
	for n := range shown {
		if time.Since(began) > answerLimit {
			return "", fmt.Errorf("it took too long: only %d of %d people have tried", n, shown)
		}
		s.crowd.one(r.Context())
	}
	return "", nil
}

func (s *screen) setStream(r *http.Request) (string, error) {
	s.crowd.stream(r.PostFormValue("on") == "yes")
	return "", nil
}

// view is what the page shows.
type view struct {
	report
	Verdict verdict
	Notice  notice
	Stack   stack.Status
	Modes   []mode
	Fault   *wire.Fault    // nil if unknown
	Members map[string]int // by state; nil if unknown
}

func (s *screen) read(ctx context.Context) view {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	v := view{Stack: s.stack.Status(), Modes: modes}
	s.mu.Lock()
	since := s.changed
	v.Notice = s.notice
	s.mu.Unlock()
	for _, c := range v.Stack.Components {
		if c.Since.After(since) {
			since = c.Since
		}
	}
	v.report = s.crowd.report(since)
	var all sync.WaitGroup
	all.Go(func() {
		if o, err := s.admin.Overview(ctx); err == nil {
			v.Members = o.Counts
		}
	})
	all.Go(func() {
		if f, err := s.storage.Fault(ctx); err == nil {
			v.Fault = &f
		}
	})
	for i, p := range v.Latest {
		if p.Failure == "" {
			all.Go(func() {
				signup, _ := s.members.Signup(ctx, p.SignupID) // after an error, the state is unknown
				v.Latest[i].State = signup.State
			})
		}
	}
	all.Wait()
	v.Verdict = judge(v.Stack, v.Fault, v.Since, v.Members)
	return v
}

func (s *screen) show(w http.ResponseWriter, r *http.Request) {
	to := s.stack.Variables()
	err := s.pages.Write(w, r, http.StatusOK, "faults", web.Page{
		Title: "Fault screen", Product: "Signup Saga", Home: "/", Assets: "/assets", Every: 1000, Reload: 5,
		Data: s.read(r.Context()),
		Nav: []web.Link{
			{Path: "/", Text: "Fault screen", Current: true}, {Path: to.Get("MEMBER_URL") + "/", Text: "Sign-up page"},
			{Path: to.Get("ADMIN_URL") + "/console/", Text: "Console"},
			{Path: to.Get("MAIL_URL") + "/", Text: "Mailbox"},
		},
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
