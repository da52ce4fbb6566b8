//go:build screenshots

package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
)

// pictures is where the documents look for them.
const pictures = "../../../docs/img"

// TestScreenshots writes pictures of the pages, in both themes, from a system in which something is going on.
func TestScreenshots(t *testing.T) {
	s := needSystem(t)
	for i := range 60 {
		s.signUp(t, resident(i))
	}
	s.setProvider(t, "reject")
	var last string
	for i := range 24 {
		last = resident(100 + i)
		s.awaitState(t, s.signUp(t, last), "needs_attention")
	}
	s.setProvider(t, "none")

	p := open(t)
	p.visit(s.env["MEMBER_URL"])
	p.fill("Username", "mina")
	p.picture("signup")
	s.provider(t, "outage")
	p.fillIn("mina", password)
	p.sees("It takes longer than usual")
	p.picture("progress")

	p.logIn(s, "ADMIN_TOKEN")
	p.sees("24 sagas", "away")
	p.picture("overview")
	p.visit(s.console("failures"))
	p.node("heading", "24 sagas rejected")
	p.picture("failures")
	p.visit(s.console("sagas/" + s.saga(t, last)))
	p.node("heading", last+" needs attention")
	p.picture("saga")

	s.setProvider(t, "none")
	p.visit(s.console("failures"))
	p.click("link", "Retry this group…")
	p.fill("Reason", "The provider has raised our quota")
	p.fill("Sagas per second, at most", "2")
	p.click("button", "Retry 24 signups")
	p.until("document.querySelector('progress')?.value > 5")
	p.picture("operation")

	p.visit(s.env["FAULTS_URL"])
	p.click("button", "Kill smtp")
	p.sees("The mail server is down")
	p.click("button", "Sign up 10 people")
	p.sees("10 of 10 signups")
	p.picture("faults")
	p.click("button", "Start smtp")
	p.sees("Everything runs")
}

// resident is a username that looks like one.
func resident(i int) string {
	first := []string{"mina", "jonas", "amara", "tomek", "ines", "farid", "lotte", "kenji", "sofia", "bram", "noor", "pavel"}
	return fmt.Sprintf("%s.%d", first[i%len(first)], 1960+i%50+i/50)
}

// picture writes what the tab shows, light and dark.
func (p *tab) picture(name string) {
	p.t.Helper()
	for theme, look := range map[string]setting{"light": light, "dark": dark} {
		p.do(look)
		png, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(pictures, name+"-"+theme+".png"), png, 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
	p.do(light)
}
