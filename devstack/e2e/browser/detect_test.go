package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// serve serves a page with a strict Content Security Policy, and a script.
func serve(t *testing.T, body, script string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy",
			"default-src 'none'; script-src 'self'; img-src 'self' http://192.0.2.1; connect-src 'self'")
		fmt.Fprintf(w, `<!doctype html><html lang="en"><head><title>A page</title></head><body>
			<main><h1>Heading</h1>%s</main><script src="/script"></script></body></html>`, body)
	})
	mux.HandleFunc("GET /script", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, script)
	})
	mux.HandleFunc("GET /favicon.ico",
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// The watch detects what is wrong with a page. The tests of the real pages rely on it.
func TestTheWatchSeesDefects(t *testing.T) {
	for name, c := range map[string]struct{ body, script, want string }{
		"console error":    {"", `console.error("lost")`, `console.error: "lost"`},
		"exception":        {"", `throw new Error("broken")`, "exception:"},
		"promise":          {"", `Promise.reject(new Error("broken"))`, "exception:"},
		"missing resource": {`<img src="/none.png" alt="">`, "", "404"},
		"inline script":    {`<script>document.title = "injected"</script>`, "", "csp: script-src"},
		"inline style":     {`<p style="color: red">red</p>`, "", "csp: style-src"},
		"handler": {`<img src="/none.png" alt="" onerror="document.title = 'injected'">`, "",
			"csp: script-src"},
		"foreign request": {`<img src="http://192.0.2.1/x.png" alt="">`, "", "foreign request:"},
		"refused call":    {"", `fetch("http://127.0.0.1:1/").catch(() => {})`, "csp: connect-src"},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t)
			p.visit(serve(t, c.body, c.script))
			p.until("document.readyState === 'complete'")
			eventually(t, c.want, func() bool {
				all := strings.Join(p.verdict(), "\n")
				return strings.Contains(all, c.want)
			})
			if title := p.script("document.title"); title != "A page" {
				t.Errorf("the policy let the page run what was injected: %s", title)
			}
			p.expect("") // matches every problem
		})
	}
}

func TestTheWatchIsQuietOnAGoodPage(t *testing.T) {
	p := open(t)
	p.visit(serve(t, "<p>All is well.</p>", `document.querySelector("h1").textContent = "Ready"`))
	p.sees("Ready", "All is well.")
	if found := p.violations(); len(found) != 0 {
		t.Errorf("axe on a good page: %v", found)
	}
	if p.loaded() != 1 {
		t.Errorf("%d documents loaded", p.loaded())
	}
}

func TestAxeSeesDefects(t *testing.T) {
	p := open(t)
	p.visit(serve(t, `<input type="text"><img src="data:,">`, ""))
	p.expect("") // the policy blocks the image
	var rules []string
	for _, v := range p.violations() {
		rules = append(rules, v.ID+" "+v.Impact)
	}
	for _, want := range []string{"label critical", "image-alt critical"} {
		if !strings.Contains(strings.Join(rules, "\n"), want) {
			t.Errorf("axe sees %q, not %s", rules, want)
		}
	}
}
