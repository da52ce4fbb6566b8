package replies_test

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/member-svc/internal/replies"
	"github.com/signup-saga/signup-saga/member-svc/internal/saga"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
	"github.com/signup-saga/signup-saga/member-svc/internal/storetest"
	"github.com/signup-saga/signup-saga/service"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	goldenMember = "01999e5c-0000-7000-8000-00000000000a"
	goldenSaga   = "01999e5c-0000-7000-8000-00000000000b"
)

func message(typ contract.Type, id, data string) service.Message {
	route, known := contract.RouteOf(typ)
	if !known {
		route = contract.Route{Type: typ, Lane: contract.Essential}
	}
	return service.Message{
		Subject: route.Subject(),
		Headers: map[string][]string{"ce-specversion": {"1.0"}, "ce-id": {id}, "ce-source": {"/storage-svc"},
			"ce-type": {string(typ)}},
		Body: []byte(data),
	}
}

func structured(typ contract.Type, raw []byte) service.Message {
	route, _ := contract.RouteOf(typ)
	headers := map[string][]string{"content-type": {contract.StructuredContentType}}
	return service.Message{Subject: route.Subject(), Headers: headers, Body: raw}
}

func reply(typ contract.Type, sagaID, rest string) service.Message {
	data := fmt.Sprintf(`{"member_id":%q,"saga_id":%q,"generation":1%s}`, goldenMember, sagaID, rest)
	return message(typ, "id-"+strconv.Itoa(len(rest)), data)
}

func open(t *testing.T) (*store.Store, func(...service.Message) map[string]int) {
	t.Helper()
	return openOn(t, storetest.Open(t))
}

func openOn(t *testing.T, pool *pgxpool.Pool) (*store.Store, func(...service.Message) map[string]int) {
	t.Helper()
	st := store.New(pool, storetest.Steps, storetest.Secret, func() {})
	m := store.Member{ID: goldenMember, Username: "mina", UsernameKey: "mina", Plan: "free", PasswordHash: "x"}
	r, effects := storetest.Begin(goldenSaga, m)
	if err := st.SignUp(t.Context(), m, r, effects, nil); err != nil {
		t.Fatal(err)
	}
	return st, func(batch ...service.Message) map[string]int {
		t.Helper()
		outcomes := map[string]int{}
		if err := replies.Handler(st, slog.New(slog.DiscardHandler), func(o string) { outcomes[o]++ })(t.Context(),
			batch); err != nil {
			t.Fatal(err)
		}
		return outcomes
	}
}

// Reports about the provider are stored alongside replies; a meaningless one is skipped.
func TestProviderChangeIsRecorded(t *testing.T) {
	raw, err := os.ReadFile("../../../contract/testdata/v1/storage.provider-changed.json")
	if err != nil {
		t.Fatal(err)
	}
	st, handle := open(t)
	outcomes := handle(
		structured(contract.StorageProviderChanged, raw),
		message(contract.StorageProviderChanged, "odd", `{"state":"ajar","version":9}`),
		reply(contract.StorageRejected, goldenSaga, ""))
	if outcomes["noted"] != 1 || outcomes["malformed"] != 1 || outcomes[string(saga.Advanced)] != 1 {
		t.Errorf("%v", outcomes)
	}
	if o, err := st.Overview(t.Context()); err != nil || o.Provider.State != "open" ||
		!o.Provider.Since.Equal(time.Date(2026, 11, 22, 10, 20, 0, 0, time.UTC)) {
		t.Errorf("%+v %v", o.Provider, err)
	}
	if r, _, err := st.Get(t.Context(), goldenSaga); err != nil || r.ErrorFingerprint != "rejected" {
		t.Errorf("a refusal without a reason is of the kind %q, %v", r.ErrorFingerprint, err)
	}
}

// A reason is foreign text: it is cut to a readable length, or the message is malformed.
func TestReasonOfAnOutageIsRecorded(t *testing.T) {
	st, handle := open(t)
	change := func(version int, reason string) service.Message {
		return message(contract.StorageProviderChanged, "odd", fmt.Sprintf(`{
			"state":"open","version":%d,"changed_at":"2026-11-22T10:20:00Z",
			"error":{"class":"outage","message":"%s","fingerprint":"outage:no"}}`, version, reason))
	}
	outcomes := handle(change(3, "no identity "+strings.Repeat("é", 600)), change(4, `no \u0000`))
	p, err := st.Provider(t.Context())
	if outcomes["noted"] != 1 || outcomes["malformed"] != 1 || err != nil || p.Error == nil ||
		!strings.HasPrefix(p.Error.Message, "no identity") || len(p.Error.Message) > 500 {
		t.Errorf("%v, %+v, %v", outcomes, p.Error, err)
	}
}

// The golden messages of the contract keep their meaning for ever.
func TestGoldenMessages(t *testing.T) {
	for typ, want := range map[contract.Type]struct {
		state   saga.State
		outcome saga.Outcome
	}{
		contract.StorageProvisioned:   {saga.Ready, saga.Advanced},
		contract.StorageRejected:      {saga.NeedsAttention, saga.Advanced},
		contract.StorageAttemptFailed: {saga.Provisioning, saga.Recorded},
		contract.StorageDeprovisioned: {saga.Provisioning, saga.Recorded}, // of a generation that was never sent
	} {
		raw, err := os.ReadFile("../../../contract/testdata/v1/" + string(typ) + ".json")
		if err != nil {
			t.Fatal(err)
		}
		st, handle := open(t)
		m := structured(typ, raw)
		if outcomes := handle(m); outcomes[string(want.outcome)] != 1 {
			t.Errorf("%s: %v, want %s", typ, outcomes, want.outcome)
		}
		got, timeline, err := st.Get(t.Context(), goldenSaga)
		if err != nil || got.State != want.state || len(timeline) != 2 {
			t.Errorf("%s: %s, %d lines, %v; want %s", typ, got.State, len(timeline), err, want.state)
		}
		handle(m, m)
		if _, again, _ := st.Get(t.Context(), goldenSaga); len(again) != 2 {
			t.Errorf("%s: duplicates left %d lines", typ, len(again))
		}
	}
}

// No message that Storage could send blocks the replies in the same batch.
func TestStrangeRepliesDoNotHoldUpOthers(t *testing.T) {
	st, handle := open(t)
	outcomes := handle(
		service.Message{Body: []byte("\xff")},
		message(contract.StorageProvisioned, "1", `{"member_id":""}`),
		reply(contract.StorageProvisioned, "01999e5c-0000-7000-8000-0000000000ff", ""),
		reply(contract.StorageProvisioned, "not a uuid", ""),
		reply(contract.StorageAttemptFailed, goldenSaga,
			`,"attempt":-5,"error":{"class":"x\u0000","message":"\u0000zero","fingerprint":""}`),
		reply(contract.StorageAttemptFailed, goldenSaga, `,"attempt":9000000000`),
		reply(contract.StorageProvisioned, goldenSaga, ""),
	)
	if outcomes["malformed"] != 5 || outcomes["unknown_saga"] != 1 || outcomes[string(saga.Advanced)] != 1 {
		t.Errorf("%v", outcomes)
	}
	if got, _, err := st.Get(t.Context(), goldenSaga); err != nil || got.State != saga.Ready {
		t.Errorf("%s, %v", got.State, err)
	}
}

// A reply that the database rejects, for whatever reason, is set aside alone.
func TestRefusedReplyIsPutAside(t *testing.T) {
	pool := storetest.Open(t)
	st, handle := openOn(t, pool)
	storetest.Exec(t, pool, "ALTER TABLE saga_event ADD CHECK (detail <> 'poison')")
	outcomes := handle(
		reply(contract.StorageAttemptFailed, goldenSaga, `,"error":{"class":"x","message":"poison","fingerprint":""}`),
		reply(contract.StorageProvisioned, goldenSaga, ""),
	)
	if outcomes["malformed"] != 1 || outcomes[string(saga.Advanced)] != 1 {
		t.Errorf("%v", outcomes)
	}
	if got, _, err := st.Get(t.Context(), goldenSaga); err != nil || got.State != saga.Ready {
		t.Errorf("%s, %v", got.State, err)
	}
}

// A rejection without a class would violate a constraint, so it gets one.
func TestRejectionWithoutReason(t *testing.T) {
	st, handle := open(t)
	if outcomes := handle(reply(contract.StorageRejected, goldenSaga,
		`,"error":{"class":"","message":"","fingerprint":""}`)); outcomes[string(saga.Advanced)] != 1 {
		t.Errorf("%v", outcomes)
	}
	if got, _, err := st.Get(t.Context(), goldenSaga); err != nil || got.State != saga.NeedsAttention ||
		got.ErrorClass != "rejected" {
		t.Errorf("%+v %v", got.Saga, err)
	}
}

// Operators read what a participant says; it must not deceive them.
func TestReasonsHoldNothingInvisible(t *testing.T) {
	st, handle := open(t)
	handle(reply(contract.StorageRejected, goldenSaga,
		`,"error":{"class":"rejected","message":"a\u001b[2J\tb\u202ec\u200b\u0085d é","fingerprint":"x\u2066y"}`))
	got, _, err := st.Get(t.Context(), goldenSaga)
	if err != nil || got.ErrorMessage != "a[2J bc d é" || got.ErrorFingerprint != "xy" {
		t.Errorf("%q %q %v", got.ErrorMessage, got.ErrorFingerprint, err)
	}
}
