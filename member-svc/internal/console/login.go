package console

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/service/web"
)

// cookie holds a session. Browsers send a cookie of such a name only if it was set by
// this very host, over TLS or on the machine itself.
const cookie = "__Host-console"

// signedIn lets requests pass that come with a session; others are asked to log in.
func (c *Console) signedIn(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx, ok := c.resume(r); ok {
			next.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		to := home + "login"
		if r.Method != http.MethodPost && r.URL.Path != home && r.URL.Path != home+"events" {
			to += "?" + query("next", r.URL.RequestURI())
		}
		web.Redirect(w, r, to)
	})
}

// loginView is the login page's.
type loginView struct {
	Next  string
	Wrong string
}

// showLogin asks for a token. Whoever has a session goes on: logIn sends browsers here,
// to see whether they have kept it.
func (c *Console) showLogin(w http.ResponseWriter, r *http.Request) {
	v := loginView{Next: destination(r.FormValue("next"))}
	_, ok := c.resume(r)
	switch {
	case ok:
		web.Redirect(w, r, v.Next)
		return
	case r.FormValue("began") != "":
		v.Wrong = "The browser did not keep the session. It does so over HTTPS, and on the machine itself."
	}
	c.writeLogin(w, r, http.StatusOK, v)
}

func (c *Console) logIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	v := loginView{Next: destination(r.PostFormValue("next"))}
	session, ends, ok := c.cfg.Sessions.Begin(strings.TrimSpace(r.PostFormValue("token")))
	if !ok {
		v.Wrong = "This is not an admin token."
		c.writeLogin(w, r, http.StatusUnauthorized, v)
		return
	}
	setCookie(w, session, int(time.Until(ends).Seconds()))
	web.Redirect(w, r, home+"login?"+query("began", "yes", "next", v.Next))
}

func (c *Console) logOut(w http.ResponseWriter, r *http.Request) {
	setCookie(w, "", -1)
	web.Redirect(w, r, home+"login")
}

func (c *Console) writeLogin(w http.ResponseWriter, r *http.Request, status int, v loginView) {
	page := web.Page{Title: "Log in", Product: product, Home: home, Assets: home + "assets", Data: v}
	c.show(w, r, status, "login", page)
}

func setCookie(w http.ResponseWriter, value string, seconds int) {
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: value, Path: "/", MaxAge: seconds, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// destination is where a login leads: a page of the console, whatever was asked for.
func destination(next string) string {
	if !strings.HasPrefix(next, home) || strings.HasPrefix(next, home+"log") {
		return home
	}
	return next
}

// resume returns the context of the one whose session comes with a request.
func (c *Console) resume(r *http.Request) (context.Context, bool) {
	kept, err := r.Cookie(cookie)
	if err != nil {
		return r.Context(), false
	}
	return c.cfg.Sessions.Resume(r.Context(), kept.Value)
}
