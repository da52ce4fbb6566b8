package browser

import (
	"fmt"
	"testing"
)

// Every page is accessible in both themes, and fits on a phone.
func TestEveryPageIsUsable(t *testing.T) {
	s := needSystem(t)
	p := open(t)
	p.suits(s.env["MEMBER_URL"])
	p.fillIn(someone(), password)
	p.sees("Your storage is ready")
	p.usable("the end of a signup")
	p.suits(s.console("login"))
	p.logIn(s, "ADMIN_TOKEN")
	p.usable("an overview when all is well")
	for _, path := range []string{"failures", "retries", "dead"} {
		p.suits(s.console(path)) // empty
	}
	p.expect("status of 422") // an invalid filter
	saga, signup := s.look(t, s.rejected(t, 1)[0])
	p.suits(s.env["MEMBER_URL"] + "/signup/" + signup)
	for _, path := range []string{
		"", "failures", "retries/new?state=needs_attention", "sagas", "sagas?state=needs_attention",
		"sagas?created_after=never", "sagas/" + saga, "audit",
	} {
		p.suits(s.console(path))
	}
	p.expect("status of 404")
	p.suits(s.console("nothing"))
	p.suits(s.env["MEMBER_URL"] + "/signup/nobody")
	p.retryAll(s)
	p.suits(s.console("retries"))
	p.suits(s.console("audit"))
}

// The policy of each listener blocks a script that is injected into a page.
func TestInjectedScriptsAreRefused(t *testing.T) {
	s := needSystem(t)
	for _, address := range []string{s.env["MEMBER_URL"], s.console("login")} {
		p := open(t)
		p.visit(address)
		p.script(
			`(s => { s.textContent = "document.title = 'injected'"; document.body.append(s); ` +
				`return "" })(document.createElement("script"))`)
		p.expect("csp: script-src")
		p.expect("Executing inline script violates")
		if title := p.script("document.title"); title == "injected" {
			t.Errorf("%s runs a script that was injected", address)
		}
	}
}

// suits visits a page and checks that it is usable.
func (p *tab) suits(address string) {
	p.t.Helper()
	p.visit(address)
	p.usable(address)
}

// usable fails the test if the page is inaccessible to some people, for example because of its colours or its width.
func (p *tab) usable(what string) {
	p.t.Helper()
	for name, theme := range map[string]setting{"light": light, "dark": dark} {
		p.do(theme)
		for _, v := range p.violations() {
			if v.Impact == "serious" || v.Impact == "critical" {
				p.t.Errorf("%s, %s: %s", what, name, v)
			} else {
				p.t.Logf("%s, %s: %s", what, name, v)
			}
		}
	}
	p.do(phone)
	p.until(fmt.Sprintf("innerWidth === %d", phoneWidth))
	if width := p.script("String(document.scrollingElement.scrollWidth)"); width != fmt.Sprint(phoneWidth) {
		p.t.Errorf("%s is %s pixels wide on a phone of %d", what, width, phoneWidth)
	}
	p.do(desktop)
}
