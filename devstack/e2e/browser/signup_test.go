package browser

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

const password = "a long enough password"

// someone returns a username that is not taken.
func someone() string { return "mina-" + strings.ToLower(rand.Text()[:12]) }

// fillIn fills in and sends the sign-up form.
func (p *tab) fillIn(username, password string) {
	p.t.Helper()
	p.fill("Username", username)
	p.fill("Password", password)
	p.fill("Email (optional)", username+"@example.org")
	p.click("button", "Sign up")
}

func TestSignUpIsWatchedUntilReady(t *testing.T) {
	s := needSystem(t)
	s.provider(t, "slow")
	p := open(t)
	p.visit(s.env["MEMBER_URL"])
	username := someone()
	p.fillIn(username, password)
	p.sees("You are in, "+username, "Your account is open", "Your storage is being prepared")
	loaded := p.loaded()
	p.sees("Your storage is ready")
	if p.loaded() != loaded {
		t.Error("the page was loaded again to show that the storage is ready")
	}
}

// A provider outage delays the storage, never the signup.
func TestSignUpWhileTheProviderIsAway(t *testing.T) {
	s := needSystem(t)
	s.provider(t, "outage")
	p := open(t)
	p.visit(s.env["MEMBER_URL"])
	p.fillIn(someone(), password)
	p.sees("You are in", "Your account is open", "Your storage is being prepared")
	loaded := p.loaded()
	p.sees("It takes longer than usual. Your account is open")
	s.setProvider(t, "none")
	p.sees("Your storage is ready")
	if p.loaded() != loaded {
		t.Error("the page was loaded again to show that the storage is ready")
	}
}

func TestErrorsAreShownAtTheirFields(t *testing.T) {
	s := needSystem(t)
	taken := someone()
	s.signUp(t, taken)
	p := open(t)
	p.expect("status of 4")
	p.visit(s.env["MEMBER_URL"])

	p.click("radio", "plus 100 GiB of storage")
	p.fillIn(taken, password)
	p.described("Username", "taken")
	p.holds("Username", taken)
	p.holds("Email (optional)", taken+"@example.org")
	p.holds("Password", "")
	p.until("document.querySelector('input[name=plan]:checked').value === 'plus'")

	free := someone()
	p.script("(document.getElementById('password').removeAttribute('minlength'), '')")
	p.fillIn(free, "short")
	p.described("Password", "characters")
	p.holds("Username", free)
	p.holds("Email (optional)", free+"@example.org")
	p.holds("Password", "")
	p.usable("a form with errors")

	p.fillIn(free, password)
	p.sees("You are in, " + free)
}

func TestSignUpWithoutJavaScript(t *testing.T) {
	s := needSystem(t)
	p := open(t, withoutScript)
	p.visit(s.env["MEMBER_URL"])
	p.fillIn(someone(), password)
	p.sees("You are in", "Your storage is ready")
}

// The page's script solves a challenge, and the form sends the solution. The service did not issue this
// challenge, so it accepts the signup as one without a challenge.
func TestSignUpSolvesTheChallenge(t *testing.T) {
	s := needSystem(t)
	p := open(t)
	p.visit(s.env["MEMBER_URL"])
	const salt, number = "a1b2c3d4e5f6a1b2c3d4e5f6?expires=1790000000&", 12345
	sum := sha256.Sum256(fmt.Append(nil, salt, number))
	p.script(fmt.Sprintf(`(() => {
		const task = { algorithm: "SHA-256", challenge: "%x", maxnumber: 20000, salt: "%s", signature: "00" };
		window.fetch = async () => ({ status: 200, json: async () => task });
		const submit = HTMLFormElement.prototype.submit;
		HTMLFormElement.prototype.submit = function () {
			sessionStorage.setItem("solution", this.elements.solution.value);
			submit.call(this);
		};
		return "";
	})()`, sum, salt))
	before := s.refusedSolutions(t)
	p.fillIn(someone(), password)
	p.sees("You are in")
	p.until(fmt.Sprintf(`JSON.parse(atob(sessionStorage.getItem("solution"))).number === %d`, number))
	if after := s.refusedSolutions(t); after != before+1 {
		t.Errorf("the service got %d solutions", after-before)
	}
}

// refusedSolutions returns how many solutions the service has refused.
func (s *system) refusedSolutions(t *testing.T) (n int) {
	t.Helper()
	resp, err := http.Get(s.env["ADMIN_URL"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, value, _ := strings.Cut(string(text), `member_challenges_total{result="refused"} `)
	if _, err := fmt.Sscan(value, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
