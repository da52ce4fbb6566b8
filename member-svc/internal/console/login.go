package console

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service/web"
)

// cookie is the name of the session cookie. Browsers send a cookie with this prefix only if this very host set
// it, over TLS or on the same machine.
const cookie = "__Host-console"

// signedIn passes requests with a valid session to next, and redirects others to the login page.
func (c *Console) signedIn(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, ok, err := c.resume(r)
		switch {
		case err != nil:
			c.away(w, r, err, "your session cannot be checked at the moment: try again")
			return
		case ok:
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

// loginView is the content of the login page.
type loginView struct {
	Next  string
	Wrong string
}

// showLogin asks for a token. If there is a session, it redirects instead: logIn sends browsers here to check
// that they have kept the cookie.
func (c *Console) showLogin(w http.ResponseWriter, r *http.Request) {
	v := loginView{Next: destination(r.FormValue("next"))}
	_, ok, err := c.resume(r)
	switch {
	case err != nil:
		c.away(w, r, err, "your session cannot be checked at the moment: try again")
		return
	case ok:
		web.Redirect(w, r, v.Next)
		return
	case r.FormValue("began") != "":
		v.Wrong = "The browser did not keep the session. Use HTTPS, or a browser on the machine itself."
	}
	c.writeLogin(w, r, http.StatusOK, v)
}

func (c *Console) logIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	v := loginView{Next: destination(r.PostFormValue("next"))}
	session, name, ends, refusal := c.cfg.Sessions.Begin(r, strings.TrimSpace(r.PostFormValue("token")))
	if refusal != nil {
		v.Wrong = "This is not an admin token, or it has expired."
		if refusal.RetryAfter > 0 {
			seconds := int(refusal.RetryAfter.Seconds()) + 1
			w.Header().Set("Retry-After", strconv.Itoa(seconds))
			v.Wrong = fmt.Sprintf("There were too many wrong tokens. Try again in %d seconds.", seconds)
		}
		c.writeLogin(w, r, refusal.Status, v)
		return
	}
	c.cfg.Log.InfoContext(r.Context(), "operator logged in", "name", name)
	setCookie(w, session, int(time.Until(ends).Seconds()))
	web.Redirect(w, r, home+"login?"+query("began", "yes", "next", v.Next))
}

// logOut ends the session in every replica. If that fails, the cookie stays.
func (c *Console) logOut(w http.ResponseWriter, r *http.Request) {
	if kept, err := r.Cookie(cookie); err == nil {
		name, err := c.cfg.Sessions.End(r.Context(), kept.Value)
		if err != nil {
			c.away(w, r, err, "the session could not be ended: log out again")
			return
		}
		if name != "" {
			c.cfg.Log.InfoContext(r.Context(), "operator logged out", "name", name)
		}
	}
	setCookie(w, "", -1)
	web.Redirect(w, r, home+"login")
}

// away answers that sessions cannot be checked because the database does not respond.
func (c *Console) away(w http.ResponseWriter, r *http.Request, err error, detail string) {
	c.cfg.Log.WarnContext(r.Context(), "sessions of the console cannot be checked", "error", err)
	w.Header().Set("Retry-After", "2")
	c.show(w, r, http.StatusServiceUnavailable, "problem", web.Page{
		Title: "Service Unavailable", Product: product, Home: home, Assets: home + "assets",
		Data: &wire.Problem{Status: http.StatusServiceUnavailable, Title: "Service Unavailable", Detail: detail},
	})
}

func (c *Console) writeLogin(w http.ResponseWriter, r *http.Request, status int, v loginView) {
	page := web.Page{Title: "Log in", Product: product, Home: home, Assets: home + "assets", Data: v}
	c.show(w, r, status, "login", page)
}

func setCookie(w http.ResponseWriter, value string, seconds int) {
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: value, Path: "/", MaxAge: seconds, Secure: true, HttpOnly: true,
		SameSite: http.SameSiteStrictMode})
}

// destination returns where a login leads: next if it is a page of the console, else home.
func destination(next string) string {
	if !strings.HasPrefix(next, home) || strings.HasPrefix(next, home+"log") {
		return home
	}
	return next
}

// resume returns the context of the person whose session the request has, and whether it has one.
func (c *Console) resume(r *http.Request) (context.Context, bool, error) {
	kept, err := r.Cookie(cookie)
	if err != nil {
		return r.Context(), false, nil
	}
	return c.cfg.Sessions.Resume(r.Context(), kept.Value)
}
