package console_test

import (
	"fmt"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gofrs/uuid/v5"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
)

// hostile is a text that must not reach a browser unescaped.
const hostile = "<script>alert(1)</script>\nand \"onmouseover='x'"

// harmless checks that hostile text is shown, and shown only as text.
func (p page) harmless(t *testing.T) {
	t.Helper()
	if !strings.Contains(p.text, hostile) {
		t.Errorf("%s does not show %q: %s", p.path, hostile, p.text)
	}
	if strings.Contains(p.raw, "<script>alert") || strings.Contains(p.raw, `"onmouseover`) {
		t.Errorf("%s runs what was typed: %s", p.path, p.raw)
	}
}

// signUp adds a signup as the service does.
func (s *site) signUp(t *testing.T, name string) store.Record {
	t.Helper()
	return storetest.SignUp(t, s.store, name, "free")
}

func (s *site) apply(t *testing.T, id string, e saga.Event) {
	t.Helper()
	results, err := s.store.Apply(t.Context(), store.Change{SagaID: id, Event: e})
	if err != nil || results[0].Outcome == "" {
		t.Fatalf("%s: %+v %v", e.Kind, results, err)
	}
}

// reply returns a reply of the Storage service, with an error if a message is given.
func reply(kind saga.Kind, generation int64, message string) saga.Event {
	e := saga.Event{Kind: kind, Step: "storage", Generation: generation, MessageID: uuid.Must(uuid.NewV7()).String()}
	if message != "" {
		e.Error = contract.StorageError{Class: "rejected", Message: message, Fingerprint: "rejected:" + message}
	}
	return e
}

// fail adds a signup that the Storage service rejects.
func (s *site) fail(t *testing.T, name, message string) store.Record {
	t.Helper()
	r := s.signUp(t, name)
	s.apply(t, r.ID, reply(saga.Rejected, 1, message))
	return r
}

// is returns the state of a saga and its number of audit rows.
func (s *site) is(t *testing.T, id string) (state string, audits int) {
	t.Helper()
	if err := s.pool.QueryRow(t.Context(),
		"-- name: testState\nSELECT state, (SELECT count(*) FROM admin_audit WHERE saga_id = s.id) FROM signup_saga "+
			"s WHERE id = $1", id).Scan(&state, &audits); err != nil {
		t.Fatal(err)
	}
	return state, audits
}

func (s *site) wantState(t *testing.T, id, state string, audits int) {
	t.Helper()
	if got, n := s.is(t, id); got != state || n != audits {
		t.Errorf("%s is %s after %d acts, want %s after %d", id, got, n, state, audits)
	}
}

var nextPage = regexp.MustCompile(`href="([^"]+)">Next page<`)

// pages returns all matches of a pattern on a page and on the pages that follow it.
func (b *browser) pages(path string, pattern *regexp.Regexp) (found [][]string) {
	b.t.Helper()
	base, err := url.Parse(path)
	if err != nil {
		b.t.Fatal(err)
	}
	for len(found) < 10 {
		p := b.get(base.String())
		p.wants(b.t, 200)
		var here []string
		for _, m := range pattern.FindAllStringSubmatch(p.raw, -1) {
			here = append(here, m[1])
		}
		found = append(found, here)
		next := nextPage.FindStringSubmatch(p.raw)
		if next == nil {
			break
		}
		if base, err = base.Parse(html.UnescapeString(next[1])); err != nil {
			b.t.Fatal(err)
		}
	}
	return found
}

var sagaRow = regexp.MustCompile(`<tr id="s-([0-9a-f-]{36})">`)

func TestSagasInPages(t *testing.T) {
	s := open(t)
	ids := s.sagas(t, 120, "needs_attention", "rejected:full", "full")
	s.sagas(t, 3, "ready", "", "")
	// to the second page
	storetest.Exec(t, s.pool,
		"UPDATE signup_saga SET created_at = created_at - interval '1 minute' WHERE state = 'ready'")
	found := s.logIn(t, "viewer-token").pages("/console/sagas?state=needs_attention&plan=", sagaRow)
	if len(found) != 3 || len(found[0]) != 50 || len(found[2]) != 20 {
		t.Fatalf("pages of %v", found)
	}
	all := slices.Concat(found...)
	slices.Reverse(all)
	if !slices.Equal(all, ids) {
		t.Errorf("pages show %d sagas, not each of %d once, newest first", len(all), len(ids))
	}
	s.logIn(t, "viewer-token").get("/console/sagas?cursor=wrong").wants(t, 422, "/cursor", "cannot be read")
	viewer := s.logIn(t, "viewer-token")
	viewer.get("/console/sagas").lacks(t, "Newest</a>")
}

// A page that read many sagas without a match still links to the next page.
func TestPageWithoutSagas(t *testing.T) {
	s := open(t)
	b := s.logIn(t, "viewer-token")
	b.get("/console/sagas").wants(t, 200, "No signup matches", "nobody has signed up yet")
	s.sagas(t, 5001, "ready", "", "")
	storetest.Exec(t, s.pool, "UPDATE member SET plan = 'pro' WHERE username = 'member1'")
	p := b.get("/console/sagas?plan=pro")
	p.wants(t, 200, "Nothing found so far", "search further")
	found := b.pages("/console/sagas?plan=pro", sagaRow)
	if len(found) != 2 || len(found[0]) != 0 || len(found[1]) != 1 {
		t.Errorf("found %v", found)
	}
}

func TestSagasByFilter(t *testing.T) {
	s := open(t)
	failed := s.fail(t, "failed", "full")
	s.signUp(t, "waits")
	late, left := s.signUp(t, "late"), s.signUp(t, "left")
	id := func(r store.Record) string { return "?member_id=" + r.MemberID }
	storetest.Exec(t, s.pool,
		"UPDATE signup_saga SET opened_at = opened_at - interval '1 day', created_at = '2026-01-02 03:04:05Z' "+
			"WHERE id = $1", late.ID)
	s.apply(t, left.ID, saga.Event{Kind: saga.Withdraw})
	storetest.Exec(t, s.pool, "UPDATE member SET plan = 'plus' WHERE username = 'waits'")
	names := []string{"failed", "waits", "late", "has left"}
	b := s.logIn(t, "viewer-token")
	for query, want := range map[string][]string{
		"":                       names,
		"?state=needs_attention": {"failed"},
		"?state=provisioning":    {"waits", "late"},
		"?state=provisioning&delayed=false&created_after=": {"waits"},
		"?delayed=true":                        {"late"},
		"?plan=plus":                           {"waits"},
		"?username=+FAILED+":                   {"failed"},
		id(left):                               {"has left"},
		id(failed) + "&error=rejected:full":    {"failed"},
		id(failed) + "&error=other":            nil,
		"?error=rejected:full":                 {"failed"},
		"?created_before=2026-01-02T03:04:06Z": {"late"},
		"?created_before=2026-01-02+03:05":     {"late"},
		"?created_after=2026-01-02&created_before=2026-01-02+03:04":    nil,
		"?created_after=2026-01-02&created_before=2026-01-02T04:04:06": {"late"},
		"?created_after=2026-01-02T03:04:06%2B00:00":                   {"failed", "waits", "has left"},
	} {
		p := b.get("/console/sagas" + query)
		p.wants(t, 200)
		for _, name := range names {
			if listed := strings.Contains(p.raw, ">"+name+"</a>"); listed != slices.Contains(want, name) {
				t.Errorf("%s: %s is listed: %v", query, name, listed)
			}
		}
	}
	b.get("/console/sagas?delayed=true").wants(t, 200, `<option value="true" selected>yes`, ">delayed<",
		"data-countdown")
	p := s.logIn(t, "operator-token").get("/console/sagas?error=rejected:full&created_after=2026-01-02")
	p.wants(t, 200, `value="2026-01-02"`, `value="`+failed.ID+`:2"`)
	want := `href="/console/retries/new?created_after=2026-01-02T00%3A00%3A00Z&amp;error=rejected%3Afull"`
	if !strings.Contains(p.raw, want) {
		t.Errorf("no %s in %s", want, p.raw)
	}
	s.logIn(t, "operator-token").get("/console/sagas?username=failed").lacks(t, "/console/retries/new")
	s.logIn(t, "operator-token").get("/console/sagas"+id(failed)).lacks(t, "/console/retries/new")
	p = s.logIn(t, "operator-token").get("/console/sagas?state=ready")
	p.lacks(t, "Retry selected", "checkbox")
}

func TestWrongFiltersAreShown(t *testing.T) {
	s := open(t)
	s.signUp(t, "mina")
	b := s.logIn(t, "viewer-token")
	for query, want := range map[string][]string{
		"?state=broken":            {`<option value="broken" selected>`, "is not a state"},
		"?plan=gold&username=mina": {`<option value="gold" selected>`, "is not a plan", `value="mina"`},
		"?delayed=perhaps":         {`<option value="perhaps" selected>`, "must be true or false"},
		"?created_after=yesterday&state=odd": {`value="yesterday"`, "must be a time like",
			`<option value="odd" selected>`, "Correct the filters"},
		"?created_before=2026-13-01":          {`value="2026-13-01"`, "must be a time like"},
		"?username=" + url.QueryEscape("a b"): {`value="a b"`, "cannot be read"},
		"?member_id=mina":                     {`value="mina"`, "cannot be read"},
		"?stat=ready":                         {"/stat", "is not a filter"},
		"?state=withdrawn;x":                  {"cannot be read"},
		"?state=%zz":                          {"cannot be read"},
		"?state=ready&state=withdrawn":        {"/state", "more than once"},
	} {
		p := b.get("/console/sagas" + query)
		p.wants(t, 422, want...)
		p.lacks(t, ">mina</a>")
	}
	b.get("/console/sagas?username=" + url.QueryEscape(hostile)).harmless(t)
}

func TestChosenSagasAreRetried(t *testing.T) {
	s := open(t)
	one, two, moved, healed := s.fail(t, "one", "full"), s.fail(t, "two", "full"), s.fail(t, "moved", "full"),
		s.fail(t, "healed", "full")
	s.apply(t, healed.ID, reply(saga.Provisioned, 1, ""))
	s.apply(t, moved.ID, saga.Event{Kind: saga.Withdraw})
	b := s.logIn(t, "operator-token")
	b.get("/console/sagas?state=needs_attention").wants(t, 200, "Retry selected", `name="saga" value="`+one.ID+`:2"`)
	ticked := []string{"back", "state=needs_attention&cursor=", "reason", "room made"}
	for id, version := range map[string]string{one.ID: "2", two.ID: "2", moved.ID: "2", healed.ID: "3",
		uuid.Must(uuid.NewV4()).String(): "1"} {
		ticked = append(ticked, "saga", id+":"+version)
	}

	viewer := s.logIn(t, "viewer-token")
	viewer.get("/console/sagas").lacks(t, "Retry", "checkbox", `method="post" action="/console/sagas`)
	s.logIn(t, "viewer-token").post("/console/sagas/retry", ticked...).wants(t, 403, "logged in as a viewer")
	b.post("/console/sagas/retry", "reason", "room made").wants(t, 422, "tick at least one")
	b.post("/console/sagas/retry", "reason", " ", "saga", one.ID+":2").wants(t, 422, "must say why")
	b.post("/console/sagas/retry", "reason", "unseen", "saga", one.ID).wants(t, 422, "the version that the page showed")
	b.post("/console/sagas/retry", slices.Concat([]string{"reason", "x"},
		slices.Repeat([]string{"saga", one.ID + ":2"}, 51))...).wants(t, 422, "at most 50")
	s.wantState(t, one.ID, "needs_attention", 0)

	p := b.post("/console/sagas/retry", ticked...)
	p.wants(t, 200, "2 accepted, 3 not", `<option value="needs_attention" selected>`)
	for _, why := range []string{moved.ID + "</a> it changed after the page was loaded", healed.ID +
		"</a> it does not need attention any more", "there is no such signup"} {
		p.wants(t, 200, why)
	}
	s.wantState(t, one.ID, "provisioning", 1)
	s.wantState(t, two.ID, "provisioning", 1)
	s.wantState(t, moved.ID, "withdrawing", 0)
	s.wantState(t, healed.ID, "ready", 0)
	if n := storetest.Count(t, s.pool,
		"SELECT count(*) FROM admin_audit WHERE actor = 'ann' AND action = 'retried' AND reason = "+
			"'room made'"); n != 2 {
		t.Errorf("%d rows in the audit", n)
	}
	b.post("/console/sagas/retry", ticked...).wants(t, 200, "0 accepted, 5 not") // sent twice
	s.wantState(t, one.ID, "provisioning", 1)
}

// If the outcome of a retry is unknown, the retries after it are not tried.
func TestRetriesEndWhenThereIsNoAnswer(t *testing.T) {
	s := open(t)
	one, two, three := s.fail(t, "one", "full"), s.fail(t, "two", "full"), s.fail(t, "three", "full")
	storetest.Exec(t, s.pool,
		fmt.Sprintf("ALTER TABLE admin_audit ADD CONSTRAINT broken CHECK (saga_id <> '%s')", two.ID))
	b := s.logIn(t, "operator-token")
	b.post("/console/sagas/retry", "reason", "x", "saga", one.ID+":2", "saga", two.ID+":2", "saga", three.ID+":2").
		wants(t, 200, "1 accepted, 2 not", two.ID+"</a> there was no answer", three.ID+"</a> it was not tried")
	s.wantState(t, one.ID, "provisioning", 1)
	s.wantState(t, three.ID, "needs_attention", 0)
	b.post("/console/sagas/retry", "reason", "x", "saga", two.ID+":2", "saga", three.ID+":2").wants(t, 500)
	s.wantState(t, three.ID, "needs_attention", 0)
}
