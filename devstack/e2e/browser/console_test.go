package browser

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// logIn logs in to the console and waits for its first page.
func (p *tab) logIn(s *system, token string) {
	p.t.Helper()
	p.visit(s.console(""))
	p.fill("Admin token", s.env[token])
	p.click("button", "Log in")
	p.node("heading", "Overview")
}

// console returns the address of a page of the console.
func (s *system) console(path string) string { return s.env["ADMIN_URL"] + "/console/" + path }

// rejected makes members whose storage was rejected, and returns their usernames. Afterwards the provider works
// again.
func (s *system) rejected(t testing.TB, number int) []string {
	t.Helper()
	s.setProvider(t, "reject")
	defer s.setProvider(t, "none")
	names, signups := make([]string, number), make([]string, number)
	for i := range names {
		names[i] = someone()
		signups[i] = s.signUp(t, names[i])
	}
	for _, signup := range signups {
		s.awaitState(t, signup, "needs_attention")
	}
	return names
}

// saga returns the id of a member's saga.
func (s *system) saga(t testing.TB, username string) string {
	t.Helper()
	saga, _ := s.look(t, username)
	return saga
}

// look returns the ids of a member's saga and signup.
func (s *system) look(t testing.TB, username string) (saga, signup string) {
	t.Helper()
	list := s.call(t, http.MethodGet, s.env["ADMIN_URL"]+"/admin/v1/sagas?username="+username, s.env["VIEWER_TOKEN"],
		"")
	items, _ := list["items"].([]any)
	if len(items) != 1 {
		t.Fatalf("sagas of %s: %v", username, items)
	}
	one, _ := items[0].(map[string]any)
	saga, _ = one["saga_id"].(string)
	signup, _ = one["signup_id"].(string)
	return saga, signup
}

// A group is retried after a dry run, and the page shows it to its end.
func TestGroupIsRetriedAndWatched(t *testing.T) {
	s := needSystem(t)
	s.rejected(t, 10)
	p := open(t)
	p.logIn(s, "ADMIN_TOKEN")
	p.click("link", "Failures")
	p.node("heading", "10 signups rejected")
	p.click("button", "Copy message")
	p.node("button", "Copied")
	p.click("link", "Retry this group…")

	p.sees("10 signups")
	p.fill("Signups per second, at most", "2")
	p.click("button", "Retry 10 signups")
	p.until("document.activeElement.id === 'reason'") // the browser requires a reason
	const reason = "the provider has raised the quota"
	p.fill("Reason", reason)
	p.click("button", "Retry 10 signups")

	p.node("heading", "Retry of 10 signups")
	p.until("document.querySelector('progress').value < 10")
	loaded := p.loaded()
	p.usable("an operation under way")
	p.until("document.querySelector('progress').value === 10")
	p.sees("finished", "released 10 of 10: 10 succeeded, 0 failed again")
	if p.loaded() != loaded {
		t.Error("the page was loaded again to show how far it is")
	}
	if p.has("button", "Cancel this retry") {
		t.Error("what has ended can be cancelled")
	}

	p.click("link", "Operations")
	p.sees("devstack-operator", reason, "10 succeeded")
	p.click("link", "Audit")
	p.node("table", "What operators did, newest first")
	p.sees("devstack-operator", reason)
	p.click("link", "Failures")
	p.sees("Nothing has failed for good")
}

// When an operator cancels a group retry, the sagas that are not released yet stay as they were.
func TestGroupRetryIsCancelled(t *testing.T) {
	s := needSystem(t)
	s.rejected(t, 30)
	p := open(t)
	p.logIn(s, "ADMIN_TOKEN")
	p.visit(s.console("retries/new?state=needs_attention"))
	p.fill("Reason", "let us see")
	p.fill("Signups per second, at most", "1")
	p.click("button", "Retry 30 signups")
	p.until("document.querySelector('progress')?.value > 0")
	p.fill("Reason to cancel", "it is not the quota")
	p.click("button", "Cancel this retry")
	p.sees("cancelled")
	p.click("link", "Audit")
	p.sees("it is not the quota")
	p.retryAll(s)
}

func TestViewerCanOnlyLook(t *testing.T) {
	s := needSystem(t)
	saga := s.saga(t, s.rejected(t, 1)[0])
	p := open(t)
	p.logIn(s, "VIEWER_TOKEN")
	for _, path := range []string{"", "failures", "sagas", "sagas/" + saga, "retries", "dead", "audit"} {
		p.visit(s.console(path))
		p.until("document.readyState === 'complete'")
		found := p.script(`[...document.querySelectorAll("main form[method=post], main input[type=checkbox], ` +
			`main a[href*='retries/new']")].map(e => e.outerHTML).join()`)
		if found != "" {
			t.Errorf("a viewer is offered at %s: %s", path, found)
		}
	}
	p.expect("403")
	for path, form := range map[string]string{
		"sagas/" + saga + "/retry":  "reason=because&version=3",
		"sagas/" + saga + "/cancel": "reason=because&version=3&sure=yes",
		"sagas/retry":               "reason=because&saga=" + saga + ":3",
		"retries?state=needs_attention": "id=019f0000-0000-7000-8000-000000000001&reason=because" +
			"&rate_per_second=1&stop_after_failures=1",
		"dead/019f0000-0000-7000-8000-000000000001/requeue": "reason=because",
	} {
		if status := p.post(s.console(path), form); status != http.StatusForbidden {
			t.Errorf("a viewer who sends a form to %s is answered %d", path, status)
		}
	}

	// The same form works when an operator sends it.
	o := open(t)
	o.logIn(s, "ADMIN_TOKEN")
	if status := o.post(s.console("sagas/"+saga+"/retry"), "reason=because&version=2"); status != http.StatusOK {
		t.Errorf("an operator who sends a form is answered %d", status)
	}
}

// post sends a form as the page could, with the cookies of the tab, and returns the status after redirects.
func (p *tab) post(address, form string) int {
	p.t.Helper()
	send := fmt.Sprintf(`fetch(%q, {method: "POST", body: new URLSearchParams(%q)}).then(answer => answer.status)`,
		address, form)
	status, err := chromedp.Run(p.ctx, chromedp.Evaluate[int](send, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatal(err)
	}
	return status
}

// A failure is repaired with the keyboard alone, and the focus is always visible.
func TestKeyboardIsEnough(t *testing.T) {
	s := needSystem(t)
	name := s.rejected(t, 1)[0]
	p := open(t)
	p.visit(s.console(""))
	p.until("document.activeElement.id === 'token'")
	p.press(s.env["ADMIN_TOKEN"] + kb.Enter)
	p.node("heading", "Overview")
	p.press(kb.Tab)
	p.focused("Skip to the content")
	p.tabTo("Failures")
	p.press(kb.Enter)
	p.node("heading", "1 signup rejected")
	p.tabTo("one of them")
	p.press(kb.Enter)
	p.node("heading", name+" needs attention")
	p.tabTo("Reason")
	p.press("told the provider")
	p.tabTo("Retry")
	p.press(kb.Enter)
	p.node("heading", name+" ready")
	p.sees("told the provider")
}

// focusName is an expression for the name of the focused element.
const focusName = `document.activeElement.computedName`

func (p *tab) focused(name string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%s === %q", focusName, name))
	p.focusIsVisible()
}

// tabTo presses Tab until the element with this name is focused.
func (p *tab) tabTo(name string) {
	p.t.Helper()
	const most = 60
	for range most {
		p.press(kb.Tab)
		p.focusIsVisible()
		if p.script(focusName) == name {
			return
		}
	}
	p.t.Fatalf("%q is not within %d presses of Tab", name, most)
}

// focusIsVisible fails the test unless the focused element is marked and not covered.
func (p *tab) focusIsVisible() {
	p.t.Helper()
	hidden := p.script(`(e => {
		const style = getComputedStyle(e), box = e.getBoundingClientRect();
		const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
		const marked = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
		return marked && top && (e.contains(top) || top.contains(e)) ? "" : e.outerHTML;
	})(document.activeElement)`)
	if hidden != "" {
		p.t.Errorf("it cannot be seen that the focus is on %s", hidden)
	}
}

func TestConsoleWithoutJavaScript(t *testing.T) {
	s := needSystem(t)
	names := s.rejected(t, 2)
	p := open(t, withoutScript)
	p.logIn(s, "ADMIN_TOKEN")

	p.visit(s.console("sagas/" + s.saga(t, names[0])))
	p.fill("Reason", "told the provider")
	p.click("button", "Retry")
	p.sees("told the provider")
	p.reloadUntil(names[0] + " ready")

	p.click("link", "Failures")
	p.click("link", "Retry this group…")
	p.fill("Reason", "told the provider again")
	p.click("button", "Retry 1 signup")
	p.node("heading", "Retry of 1 signup")
	p.reloadUntil("1 succeeded")
}

// reloadUntil reloads the page until it shows text, as a person without scripts does.
func (p *tab) reloadUntil(text string) {
	p.t.Helper()
	eventually(p.t, text, func() bool {
		p.do(chromedp.Reload())
		return p.script(fmt.Sprintf("String(document.body.innerText.includes(%q))", text)) == "true"
	})
}

// New rows are announced and shown on request. A paused list does not change.
func TestListIsLive(t *testing.T) {
	s := needSystem(t)
	s.signUp(t, someone())
	p, paused := open(t), open(t)
	for _, one := range []*tab{p, paused} {
		one.logIn(s, "ADMIN_TOKEN")
		one.click("link", "Signups")
		one.node("table", "Signups, newest first")
		one.until("document.querySelectorAll('#sagas tr').length > 0")
	}
	paused.click("button", "Pause live updates")
	paused.node("button", "Resume live updates")

	name := someone()
	s.signUp(t, name)
	p.node("button", "1 new – show")
	if p.has("link", name) {
		t.Error("a row was added while somebody looked")
	}
	p.click("button", "1 new – show")
	p.node("link", name)
	if p.has("button", "1 new – show") {
		t.Error("the rows shown are still announced as new")
	}

	if paused.has("button", "1 new – show") {
		t.Error("news were announced although updates are paused")
	}
	paused.click("button", "Resume live updates")
	paused.node("button", "1 new – show")
}

func TestFiltersAreInTheAddress(t *testing.T) {
	s := needSystem(t)
	mine, other := someone(), someone()
	s.signUp(t, mine)
	s.signUp(t, other)
	p := open(t)
	p.logIn(s, "ADMIN_TOKEN")
	p.click("link", "Signups")
	p.node("link", other)
	p.fill("Username", mine)
	p.click("button", "Filter")
	p.until(fmt.Sprintf("new URLSearchParams(location.search).get('username') === %q", mine))
	p.node("link", mine)

	// Another person who opens the address sees the same list after logging in.
	friend := open(t)
	friend.visit(p.script("location.href"))
	friend.fill("Admin token", s.env["VIEWER_TOKEN"])
	friend.click("button", "Log in")
	friend.node("link", mine)
	if friend.has("link", other) {
		t.Errorf("the filter is lost: %s", friend.text())
	}
}

// retryAll retries all signups that need attention and waits until they are ready.
func (p *tab) retryAll(s *system) {
	p.t.Helper()
	p.visit(s.console("sagas?state=needs_attention"))
	p.click("link", "Retry all that match…")
	p.fill("Reason", "all of them")
	p.press(kb.Tab)
	p.click("button", p.script("document.querySelector('main form button').innerText"))
	p.sees("finished", "0 failed again, 0 open")
}

// All matching sagas are chosen, not only those on the page.
func TestAllThatMatchAreRetried(t *testing.T) {
	s := needSystem(t)
	names := s.rejected(t, 3)
	p := open(t)
	p.logIn(s, "ADMIN_TOKEN")
	p.visit(s.console("sagas?state=needs_attention"))
	p.click("link", "Retry all that match…")
	p.sees("3 signups")
	p.fill("Reason", "all of them")
	p.click("button", "Retry 3 signups")
	p.sees("released 3 of 3: 3 succeeded")
	p.visit(s.console("sagas/" + s.saga(t, names[0])))
	p.sees("Retried by devstack-operator", "all of them")
}

// Only the ticked sagas are retried.
func TestTickedSagasAreRetried(t *testing.T) {
	s := needSystem(t)
	names := s.rejected(t, 2)
	p := open(t)
	p.logIn(s, "ADMIN_TOKEN")
	p.visit(s.console("sagas?state=needs_attention"))
	p.click("checkbox", "Select "+names[0])
	p.fill("Reason", "this one first")
	p.click("button", "Retry selected")
	p.sees("1 accepted")
	p.visit(s.console("sagas?state=needs_attention"))
	p.click("checkbox", "Select all on this page that need attention")
	p.fill("Reason", "the rest")
	p.click("button", "Retry selected")
	p.sees("1 accepted", "No signup matches")
}
