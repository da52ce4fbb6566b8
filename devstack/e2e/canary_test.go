package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/e2e/oracle"
)

// TestPersonalDataStayInTheMemberDatabase leads people whose every name, address and password is a canary
// through success, failure, repair and withdrawal, among hostile requests, with the services' most verbose logs.
// No place outside the Member database, exported spans included, ever holds a canary. After the withdrawals, the
// Member database holds none either.
func TestPersonalDataStayInTheMemberDatabase(t *testing.T) {
	spans := startCollector(t)
	s := startStack(t, append(spans.variables(), "LOG_LEVEL=debug", "PROVISION_PROMISE=2s", "STUCK_AFTER=1s",
		"PROVIDER_TIMEOUT=1s", "OUTAGE_BACKOFF_CAP=1s"))
	b := newBook(t)
	people := newClient(b, new(tries), s.env["MEMBER_URL"])
	var all []person
	join := func(mode, state string) {
		t.Helper()
		s.provider(mode)
		p, err := people.signUp(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
		eventually(t, time.Minute, "the signup to be "+state, func() bool { return s.signupState(p) == state })
	}
	join("none", "ready")
	join("reject", "needs_attention")
	s.provider("outage")
	waits, err := people.signUp(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, waits)
	eventually(t, time.Minute, "the notice of a stuck signup", func() bool {
		return s.count("MEMBER_DATABASE_URL",
			"SELECT count(*) FROM outbox_event_nonessential WHERE type = 'signup.stuck'") > 0
	})
	s.poison()
	s.hostileCanaries()
	s.lookedAtByOperators()
	s.provider("none")
	eventually(t, time.Minute, "the stuck signup to be ready", func() bool { return s.signupState(waits) == "ready" })
	eventually(t, time.Minute, "the dead letters", func() bool {
		return s.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM dead_letter") > 0
	})

	s.noCanaries("while they are members")
	// The search does find canaries in the Member database, in the two expected tables. The outbox is not one of
	// them.
	found, _, err := oracle.SearchDatabase(t.Context(), s.env["MEMBER_DATABASE_URL"])
	if slices.Sort(found); err != nil || !slices.Equal(found, []string{"idempotency_key", "member"}) {
		t.Errorf("the Member database holds them in %v: %v", found, err)
	}
	for _, p := range all {
		if err := people.leave(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "the withdrawal", func() bool { return s.signupState(p) == "withdrawn" })
	}
	s.noCanaries("after they have left")
	spans.holdsNoCanaries()
	s.exec("MEMBER_DATABASE_URL", "VACUUM")
	found, searched, err := oracle.SearchDatabase(t.Context(), s.env["MEMBER_DATABASE_URL"])
	if err != nil || len(found) > 0 || searched == 0 {
		t.Errorf("the Member database still knows them, in %v of %d characters: %v", found, searched, err)
	}
}

func (s *stack) signupState(p person) any {
	s.t.Helper()
	return s.call(http.MethodGet, s.env["MEMBER_URL"]+"/v1/signups/"+p.SignupID, "", "").Body["state"]
}

// poison sends the storage service a message that it cannot decode.
func (s *stack) poison() {
	s.t.Helper()
	nc, err := nats.Connect(s.env["NATS_URL"])
	if err != nil {
		s.t.Fatal(err)
	}
	defer nc.Close()
	err = nc.Publish(contract.SubjectPrefix(contract.Essential)+string(contract.StorageProvision),
		[]byte(`{"member_id":"nobody"}`))
	if err := errors.Join(err, nc.Flush()); err != nil {
		s.t.Fatal(err)
	}
}

// hostileCanaries puts a canary wherever a request has room for one. Refused input must not appear elsewhere either.
func (s *stack) hostileCanaries() {
	s.t.Helper()
	const c = oracle.Canary
	member, admin, storage := s.env["MEMBER_URL"], s.env["ADMIN_URL"], s.env["STORAGE_URL"]
	for _, r := range []struct{ method, address, body string }{
		{"POST", member + "/v1/members", `{"username":"` + c + `","password":"` + c + `"}`},
		{"POST", member + "/v1/members", `{"username":"` + strings.Repeat(c, 20) + `","password":"` + c +
			` a long enough one","email":"` + c + `"}`},
		{"POST", member + "/v1/members", `{"username":"a","colour":"` + c + `"}`},
		{"POST", member + "/v1/members", `{"username":"` + c + `","username":"` + c + `"}`},
		{"POST", member + "/v1/members", `{"username":"` + c + "\xff\"}"},
		{"POST", member + "/v1/members", `{"username":"` + c + `","plan":"` + c + `","password":"a long enough one"}`},
		{"POST", member + "/v1/members", `{"username":` + c},
		{"POST", member + "/v1/sessions", `{"username":"` + c + `","password":"` + c + `"}`},
		{"POST", member + "/v1/sessions", `["` + c + `"]`},
		{"DELETE", member + "/v1/members/me", `{"password":"` + c + `"}`},
		{"GET", member + "/v1/signups/" + c, ""},
		{"GET", member + "/v1/signups/" + c + "/events", ""},
		{"GET", member + "/" + c + "?" + c, ""},
		{"GET", admin + "/admin/v1/sagas?username=" + c + "&cursor=" + c, ""},
		{"GET", admin + "/admin/v1/sagas/" + c, ""},
		{"GET", storage + "/v1/storages/" + c, ""},
		{"PUT", storage + "/v1/faults", `{"mode":"` + c + `"}`},
	} {
		for _, token := range []string{c, s.env["ADMIN_TOKEN"], s.env["STORAGE_TOKEN"]} {
			req, err := http.NewRequestWithContext(s.t.Context(), r.method, r.address, strings.NewReader(r.body))
			if err != nil {
				s.t.Fatal(err)
			}
			req.Header = http.Header{
				"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}, "Idempotency-Key": {c},
				"User-Agent": {c}, "Referer": {"https://" + c},
				"X-Forwarded-For": {c}, "X-Request-Id": {c}, "Traceparent": {c}, "Cookie": {c + "=" + c},
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				s.t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil {
				s.t.Fatal(err)
			}
			if resp.StatusCode < 400 && r.method != http.MethodGet || strings.Contains(string(text), c) {
				s.t.Errorf("%s %s %s is answered %s %s", r.method, r.address, r.body, resp.Status, text)
			}
		}
	}
}

// lookedAtByOperators makes an operator find a member by name, and repair the failed signup.
func (s *stack) lookedAtByOperators() {
	s.t.Helper()
	list := s.call(http.MethodGet, s.env["ADMIN_URL"]+"/admin/v1/sagas?state=needs_attention", s.env["ADMIN_TOKEN"], "")
	items, _ := list.Body["items"].([]any)
	if len(items) != 1 {
		s.t.Fatalf("the operator sees %+v", list)
	}
	saga, _ := items[0].(map[string]any)
	address := fmt.Sprintf("%s/admin/v1/sagas/%s", s.env["ADMIN_URL"], url.PathEscape(fmt.Sprint(saga["saga_id"])))
	if a := s.call(http.MethodPost, address+"/retry", s.env["ADMIN_TOKEN"],
		`{"reason":"the cause is fixed"}`); a.Status != http.StatusAccepted {
		s.t.Fatalf("retry: %+v", a)
	}
}

// noCanaries searches every place but the Member database, and the services' public pages.
func (s *stack) noCanaries(when string) {
	s.t.Helper()
	found, searched, err := oracle.Search(oracle.Canary, s.sources(newBook(s.t)).Searched...)
	if err != nil {
		s.t.Fatal(err)
	}
	tables, read, err := oracle.SearchDatabase(s.t.Context(), s.env["STORAGE_DATABASE_URL"])
	if err != nil {
		s.t.Fatal(err)
	}
	for _, table := range tables {
		found = append(found, "storage database, table "+table)
	}
	for _, address := range []string{s.env["ADMIN_URL"] + "/metrics", s.env["STORAGE_URL"] + "/metrics",
		s.env["ADMIN_URL"] + "/readyz?verbose"} {
		resp, err := http.Get(address) // the address is a constant of this test
		if err != nil {
			s.t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
			s.t.Fatalf("%s: %s %v", address, resp.Status, err)
		}
		if searched += int64(len(text)); strings.Contains(string(text), oracle.Canary) {
			found = append(found, address)
		}
	}
	s.t.Logf("%s: %d bytes searched", when, searched+read)
	if len(found) > 0 {
		s.t.Errorf("%s: canaries in %s", when, strings.Join(found, ", "))
	}
}
