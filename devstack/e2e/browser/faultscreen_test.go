package browser

import "testing"

// The fault screen breaks components and shows, without a reload, who can still sign up.
func TestFaultScreenIsPlayed(t *testing.T) {
	s := needSystem(t)
	p := open(t)
	p.suits(s.env["FAULTS_URL"])
	p.click("button", "Kill smtp")
	p.sees("The mail server is down")
	p.click("button", "Sign up 10 people")
	p.sees("The mail server is down: 10 of 10 signups since then were answered 201")
	p.usable("the fault screen when something is down")
	p.click("button", "Start a stream: 2 per second")
	p.sees("ends at")
	loaded := p.loaded()
	p.until(`Number(document.querySelector("#figures .figure").textContent) > 12`)
	if p.loaded() != loaded {
		t.Error("the page was reloaded to show the signup")
	}
	p.click("button", "Stop the stream")
	p.sees("Start a stream")
	p.click("button", "Start smtp")
	p.sees("Everything runs", "smtp runs")
}
