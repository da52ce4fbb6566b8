package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/devstack/testenv/pgproxy"
	"github.com/signup-saga/signup-saga/devstack/testenv/webtest"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// page is what a browser receives.
type page struct {
	status int
	header http.Header
	text   string
}

// browse gets a page, or posts a form if there is one. It follows no redirect.
func browse(t *testing.T, url string, form url.Values, headers ...string) page {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	browser := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return page{answer.StatusCode, answer.Header, webtest.Resolve(answer, string(text))}
}

// expect checks a page's status and parts. Parts that begin with "!" must be absent.
func (p page) expect(t *testing.T, name string, status int, parts ...string) {
	t.Helper()
	if p.status != status {
		t.Errorf("%s: %d, want %d", name, p.status, status)
	}
	for _, part := range append(parts, "!"+phrase) {
		if what, absent := strings.CutPrefix(part, "!"); strings.Contains(p.text, what) == absent {
			t.Errorf("%s: not %q in\n%s", name, part, p.text)
		}
	}
}

var formKey = regexp.MustCompile(`name="key" value="([^"]+)"`)

// key returns the idempotency key in the page's form.
func (p page) key(t *testing.T) string {
	t.Helper()
	found := formKey.FindStringSubmatch(p.text)
	if found == nil {
		t.Fatalf("%d, no key in\n%s", p.status, p.text)
	}
	return found[1]
}

func entries(username, key string) url.Values {
	return url.Values{"username": {username}, "password": {phrase}, "email": {"m@example.org"}, "key": {key}}
}

var progressPath = regexp.MustCompile(`^/signup/sgn_[0-9a-f]{40}$`)

// signUpByForm signs up with the form and returns the address of the next page.
func signUpByForm(t *testing.T, s *svc, username string) string {
	t.Helper()
	sent := browse(t, s.public+"/", entries(username, browse(t, s.public+"/", nil).key(t)))
	if sent.status != http.StatusSeeOther || !progressPath.MatchString(sent.header.Get("Location")) {
		t.Fatalf("%d %v\n%s", sent.status, sent.header, sent.text)
	}
	return s.public + sent.header.Get("Location")
}

// becomes waits until a page contains a text.
func becomes(t *testing.T, address, what string) (shown page) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, what, func() bool {
		shown = browse(t, address, nil)
		return strings.Contains(shown.text, what)
	})
	return shown
}

func TestSignUpForm(t *testing.T) {
	s := start(t, environment(t, storetest.URL(t), "nats://127.0.0.1:1"))
	form := browse(t, s.public+"/", nil)
	form.expect(t, "form", 200, `<form class="card" method="post" action="/" data-challenges="v1/challenges">`,
		`minlength="15"`, "5 GiB of storage", "!style=", "!<style", "!type=\"radio\"", "!autofocus")
	if policy := form.header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") ||
		form.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", form.header)
	}
	if n := strings.Count(form.text, "<h1"); n != 1 {
		t.Errorf("%d headings of the first level", n)
	}
	for _, input := range regexp.MustCompile(`<input id="(\w+)"`).FindAllStringSubmatch(form.text, -1) {
		form.expect(t, input[1], 200, `<label for="`+input[1]+`"`, `aria-describedby="`+input[1]+`-hint"`, `id="`+
			input[1]+`-hint"`)
	}
	if browse(t, s.public+"/", nil).key(t) == form.key(t) {
		t.Error("two forms have one key")
	}
	for _, asset := range regexp.MustCompile(`(?:src|href)="(/assets/[^"]+)"`).FindAllStringSubmatch(form.text, -1) {
		if got := browse(t, s.public+asset[1], nil); got.status != 200 ||
			!strings.Contains(got.header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", asset[1], got.status, got.header)
		}
	}
	for _, other := range []struct{ method, path string }{
		{"GET", "/signup"}, {"GET", "/signup/x/y"}, {"GET", "//v1/members"}, {"GET", "/v1/../livez"}, {"GET", "/other"},
	} {
		status, header, body, _ := call(t, other.method, s.public+other.path, "")
		if status != 404 || body["code"] != "not_found" || header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%v: %d %v, not the API's answer", other, status, body)
		}
	}

	several := also(t, environment(t, storetest.URL(t), "nats://127.0.0.1:1"), "PLANS_ALLOWED", "free,plus")
	browse(t, several.public+"/", nil).expect(t, "plans", 200, `value="free" id="plan" checked`,
		`value="plus" id="plan-plus">`, "100 GiB")
	chosen := entries("mina", "k")
	chosen.Set("plan", "plus")
	sent := browse(t, several.public+"/", chosen)
	browse(t, several.public+sent.header.Get("Location"), nil).expect(t, "plus", 200, "plus, 100 GiB")
}

// A signup is shown from the form to its end, with and without scripts.
func TestSignUpByThePage(t *testing.T) {
	broker := testenv.NATS(t)
	answer := make(chan contract.Type, 2)
	fakeStorage(t, broker.URL, func(contract.StorageCommand) (contract.Type, *contract.StorageError) {
		typ := <-answer
		if typ == contract.StorageRejected {
			return typ, &contract.StorageError{Class: "rejected", Message: "no room", Fingerprint: "rejected:no-room"}
		}
		return typ, nil
	})
	s := start(t, environment(t, storetest.URL(t), broker.URL))
	mina, nora := signUpByForm(t, s, "mina"), signUpByForm(t, s, "nora")
	events := strings.Replace(strings.TrimPrefix(mina, s.public), "/signup/", "/v1/signups/", 1) + "/events"
	browse(t, mina, nil).expect(t, "provisioning", 200, "You are in, mina", "Your storage is being prepared",
		`data-events="`+events+`"`, `http-equiv="refresh"`, "!longer")
	answer <- contract.StorageProvisioned
	answer <- contract.StorageRejected
	becomes(t, mina, "Your storage is ready").expect(t, "ready", 200, "You are in, mina", "5 GiB are yours",
		"!data-events", "!refresh")
	becomes(t, nora, "needs a hand").expect(t, "needs attention", 200, "You are in, nora", "do not have to do anything",
		"!data-events", "!refresh", "!fail", "!Error")
	if status, _, _, _ := call(t, "DELETE", s.public+"/v1/members/me", leave, signIn(t, s, "mina")...); status != 202 {
		t.Fatalf("leave: %d", status)
	}
	becomes(t, mina, "Your storage is removed").expect(t, "withdrawn", 200, "You have left", "!You are in", "!mina",
		"!data-events", "!refresh")
	if log := s.log.String(); strings.Contains(log, "sgn_") || strings.Contains(log, "mina") ||
		strings.Contains(log, "nora") {
		t.Errorf("the log contains a capability or a name:\n%s", log)
	}
}

func TestLateOrUnknownSignupsOnThePage(t *testing.T) {
	proxy := pgproxy.New(t, storetest.URL(t))
	env := environment(t, proxy.URL, "nats://127.0.0.1:1")
	env["PROVISION_PROMISE"] = "1ms"
	s := start(t, env)
	address := signUpByForm(t, s, "mina")
	becomes(t, address, "It takes longer than usual").expect(t, "delayed", 200, "You are in, mina",
		"do not have to do anything", "data-events")
	browse(t, s.public+"/signup/sgn_"+strings.Repeat("0", 40), nil).expect(t, "unknown", 404, "<h1>No such signup</h1>",
		`href="/"`)
	browse(t, s.public+"/signup/%3Cb%3E", nil).expect(t, "no id", 404, "<h1>No such signup</h1>", "!<b>")
	proxy.Refuse.Store(true)
	proxy.BreakAll()
	away := browse(t, address, nil)
	away.expect(t, "database away", 503, "It is safe")
	if away.header.Get("Refresh") == "" || away.header.Get("Retry-After") == "" {
		t.Errorf("the page does not reload: %v", away.header)
	}
}

// The form shows the API's refusals next to the fields, and keeps everything that was typed except the
// password.
func TestSignUpFormNamesTheMistakes(t *testing.T) {
	s := start(t, environment(t, storetest.URL(t), "nats://127.0.0.1:1"))
	signUpByForm(t, s, "mina")
	invalid := func(field, what string) []string {
		return []string{`role="alert"`, `<a href="#` + field + `">`, `aria-invalid="true" aria-describedby="` + field +
			`-hint ` + field + `-wrong"`, `id="` + field + `-wrong">`, what}
	}
	const evil = `"><script>alert(1)</script>`
	for _, c := range []struct {
		name   string
		change map[string]string
		status int
		parts  []string
	}{
		{"username", map[string]string{"username": "x"}, 422, append(invalid("username", "must be 3 to 30"),
			`value="x"`, `value="m@example.org"`, "<title>Error: Sign up", "!password-wrong")},
		{"password", map[string]string{"password": "short"}, 422,
			append(invalid("password", "must be 15 to 256"), `value="nora"`, "!short")},
		{"email", map[string]string{"email": "nowhere"}, 422,
			append(invalid("email", "must be an email address"), `value="nowhere"`)},
		{"taken", map[string]string{"username": "Mina"}, 409, append(invalid("username", "is taken"), `value="Mina"`)},
		{"evil", map[string]string{"username": evil, "email": evil, "key": evil}, 422,
			[]string{`value="&#34;&gt;&lt;script&gt;`, "!<script>alert"}},
		{"plan", map[string]string{"plan": "pro"}, 422, []string{"Plan must be one of free"}},
		{"too much", map[string]string{"email": strings.Repeat("x", 9000)}, 413, []string{"must not exceed"}},
		{"far too much", map[string]string{"email": strings.Repeat("x", 40000)}, 400, []string{"too large"}},
	} {
		form := entries("nora", "a-key")
		for name, value := range c.change {
			form.Set(name, value)
		}
		shown := browse(t, s.public+"/", form)
		shown.expect(t, c.name, c.status, c.parts...)
		if kept := shown.key(t) == "a-key"; kept != (c.status == 422 || c.status == 409) && c.name != "evil" {
			t.Errorf("%s: key kept %v", c.name, kept)
		}
	}
}

// However often a form is sent, there is one member.
func TestOneFormMakesOneMember(t *testing.T) {
	database := storetest.URL(t)
	proxy := pgproxy.New(t, database)
	s := start(t, environment(t, proxy.URL, "nats://127.0.0.1:1"))
	form := entries("mina", browse(t, s.public+"/", nil).key(t))
	proxy.Refuse.Store(true)
	proxy.BreakAll()
	shown := browse(t, s.public+"/", form)
	shown.expect(t, "database away", 503, "try again in 2 s", "There will be one account", `value="mina"`)
	if shown.key(t) != form.Get("key") || shown.header.Get("Retry-After") != "2" {
		t.Errorf("another key, or no Retry-After: %v", shown.header)
	}
	proxy.Refuse.Store(false)

	var twice [2]page
	var clicks sync.WaitGroup
	for i := range twice {
		clicks.Go(func() { twice[i] = browse(t, s.public+"/", form) })
	}
	clicks.Wait()
	for _, sent := range twice {
		if sent.status != 303 || sent.header.Get("Location") != twice[0].header.Get("Location") {
			t.Errorf("%d %s", sent.status, sent.header.Get("Location"))
		}
	}
	other := entries("nora", form.Get("key"))
	shown = browse(t, s.public+"/", other)
	shown.expect(t, "other entries", 422, "sent before with other entries", `value="nora"`)
	if shown.key(t) == form.Get("key") {
		t.Error("a used key is used again")
	}
	if n := storetest.Count(t, storetest.Connect(t, database), "SELECT count(*) FROM member"); n != 1 {
		t.Errorf("%d members", n)
	}
	other.Set("key", shown.key(t))
	if sent := browse(t, s.public+"/", other); sent.status != 303 {
		t.Errorf("with a new key: %d\n%s", sent.status, sent.text)
	}
}

// The form and the API share one limit for each address.
func TestSignUpFormIsLimitedByTheBrowsersAddress(t *testing.T) {
	s := behindProxy(t, "SIGNUP_RATE_PER_MINUTE", "2")
	form := entries("no", "a-key")
	for i, c := range []struct {
		address string
		want    int
	}{{"192.0.2.1", 422}, {"192.0.2.1", 422}, {"192.0.2.1", 429}, {"192.0.2.2", 422}} {
		shown := browse(t, s.public+"/", form, "X-Forwarded-For", c.address)
		shown.expect(t, c.address, c.want)
		if retry := shown.header.Get("Retry-After"); c.want == 429 &&
			(retry == "" || !strings.Contains(shown.text, "try again in "+retry+" s") || shown.key(t) != "a-key") {
			t.Errorf("%d: Retry-After %q, in\n%s", i, retry, shown.text)
		}
	}
	if status, _, _, _ := call(t, "POST", s.public+"/v1/members", newMember("nora"), "X-Forwarded-For",
		"192.0.2.1"); status != 429 {
		t.Errorf("the API has a budget of its own: %d", status)
	}
}

// Other sites cannot send the form on behalf of their visitors; programs may call the API from anywhere.
func TestSignUpFormOfAnotherSite(t *testing.T) {
	s := start(t, environment(t, storetest.URL(t), "nats://127.0.0.1:1"))
	for _, from := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://example.org"},
		{"Origin", "null"}} {
		browse(t, s.public+"/", entries("mina", "a-key"), from...).expect(t, from[1], 403,
			"Another site sent this form", "!mina")
		if status, _, _, raw := call(t, "POST", s.public+"/v1/members", newMember("api-"+from[1][:4]),
			from...); status != 201 {
			t.Errorf("the API refuses %v: %d %s", from, status, raw)
		}
	}
	if sent := browse(t, s.public+"/", entries("mina", "a-key"), "Origin", s.public, "Sec-Fetch-Site",
		"same-origin"); sent.status != 303 {
		t.Errorf("its own form: %d", sent.status)
	}
}
