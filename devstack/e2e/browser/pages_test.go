package browser

import (
	"fmt"
	"testing"
)

// logIn logs in to the console and waits for its first page.
func (p *tab) logIn(s *system, token string) {
	p.t.Helper()
	p.visit(s.env["ADMIN_URL"] + "/console/")
	p.fill("Admin token", s.env[token])
	p.click("button", "Log in")
	p.until("location.pathname === '/console/'")
	p.node("heading", "Overview")
}

// Every page can be used by everybody, in both themes, and fits on a phone.
func TestEveryPageIsAccessible(t *testing.T) {
	s := needSystem(t)
	p := open(t)
	for _, path := range []string{"/"} {
		p.suits(s.env["MEMBER_URL"] + path)
	}
	p.suits(s.env["ADMIN_URL"] + "/console/login")
	p.logIn(s, "ADMIN_TOKEN")
	for _, path := range []string{""} {
		p.suits(s.env["ADMIN_URL"] + "/console/" + path)
	}
}

// suits visits a page and looks whether everybody can use it.
func (p *tab) suits(address string) {
	p.t.Helper()
	p.visit(address)
	p.usable(address)
}

// usable fails the test if somebody is kept from using what is shown, for one by its colours or its width.
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
