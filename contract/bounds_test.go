package contract_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract"
)

// Each field of each message has bounds: its golden message is within them, and is refused with any of these
// values.
func TestEveryFieldHasBounds(t *testing.T) {
	numbers := []any{-1, math.MaxInt64, uint64(math.MaxUint64), 1.5, "1"}
	ids := []any{"", "x", "01999E5C-0000-7000-8000-00000000000A", "01999e5c-0000-7000-8000-00000000000a\x00", 7}
	texts := []any{"nul \x00", strings.Repeat("x", contract.MaxText+1), 7}
	words := []any{"nul \x00", strings.Repeat("x", contract.MaxText+1), "upper Case", 7}
	soon := time.Now().Add(1e4 * time.Hour).Format(time.RFC3339)
	times := []any{"1970-01-01T00:00:00Z", "9999-01-01T00:00:00Z", soon, "x"}
	quotas := append(numbers, contract.MaxQuotaBytes+1)
	attempts := append(numbers, contract.MaxAttempt+1)
	generations := append(numbers, 0, contract.MaxGeneration+1)
	about := map[string][]any{"member_id": ids, "saga_id": ids, "generation": generations}
	for typ, more := range map[contract.Type]map[string][]any{
		contract.StorageProvision:   {"quota_bytes": quotas},
		contract.StorageDeprovision: {},
		contract.StorageProvisioned: {"quota_bytes": quotas, "attempt": attempts},
		contract.StorageRejected:    {"error.class": words, "error.message": texts, "error.fingerprint": texts},
		contract.StorageAttemptFailed: {
			"attempt": attempts, "error.class": words, "next_attempt_at": times,
		},
		contract.StorageDeprovisioned: {},
		contract.MemberSignedUp:       {"generation": nil}, // it has none
		contract.StorageProviderChanged: {
			"version": append(numbers, 0, contract.MaxVersion+1), "changed_at": times, "state": words,
			"generation": nil, "member_id": nil, "saga_id": nil,
		},
		contract.SignupStuck: {"state": words, "reason": append(texts, ""), "since": times},
	} {
		cases := map[string][]any{}
		for _, fields := range []map[string][]any{about, more} {
			for field, values := range fields {
				cases[field] = values
			}
		}
		if err := decode(t, typ, "", nil); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
		for field, values := range cases {
			for _, v := range values {
				if err := decode(t, typ, field, v); !errors.Is(err, contract.ErrMalformed) {
					t.Errorf("%s takes %s = %.40q: %v", typ, field, fmt.Sprint(v), err)
				}
			}
		}
	}
}

// decode decodes the golden message of a type with another value in a field of its data.
func decode(t *testing.T, typ contract.Type, field string, value any) error {
	t.Helper()
	var message map[string]any
	if err := json.Unmarshal(golden(t, typ), &message); err != nil {
		t.Fatal(err)
	}
	object := message["data"].(map[string]any)
	if inner, ok := strings.CutPrefix(field, "error."); ok {
		object, field = object["error"].(map[string]any), inner
	}
	if field != "" {
		object[field] = value
	}
	raw, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	e, err := contract.Parse(map[string][]string{"content-type": {contract.StructuredContentType}}, raw)
	if err != nil {
		return err
	}
	route, _ := contract.RouteOf(typ)
	data := dataOf(route)
	if err := e.DataTo(data); err != nil {
		return err
	}
	_, err = contract.Encode(data.(interface{ Validate() error }))
	return err
}

// The reason of an outage was added later than the message that contains it.
func TestReasonOfAnOutageHasBounds(t *testing.T) {
	change := contract.ProviderChange{State: "open", Version: 1, ChangedAt: time.Now()}
	long := strings.Repeat("x", contract.MaxText+1)
	for text, fits := range map[string]bool{"": true, long: false, "nul \x00": false} {
		change.Error = &contract.StorageError{Class: "outage", Message: text}
		if err := change.Validate(); (err == nil) != fits {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// The attributes have bounds too, and a message must have come as messages of its type must.
func TestEnvelopeHasBoundsAndARoute(t *testing.T) {
	const subject = "signup.essential.storage.provision"
	headers := func(changes map[string][]string) map[string][]string {
		h := map[string][]string{
			"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/member-svc"}, "ce-type": {"storage.provision"},
			"ce-subject":    {"01999e5c-0000-7000-8000-00000000000a"},
			"ce-sagaid":     {"01999e5c-0000-7000-8000-00000000000b"},
			"ce-generation": {"1"}, "ce-time": {"2026-11-22T10:00:00Z"},
		}
		for k, v := range changes {
			h[k] = v
		}
		return h
	}
	long, many := strings.Repeat("x", contract.MaxHeaderBytes), map[string][]string{}
	for i := range contract.MaxHeaders {
		many[fmt.Sprint("x-", i)] = []string{""}
	}
	malformed := []map[string][]string{
		{"ce-id": {"\x00"}}, {"ce-id": {"\xff"}}, {"ce-id": {long}}, {"ce-id": {"a\nb"}}, {"ce-id": {"1", "2"}},
		{"ce-source": {""}},
		{"ce-sagaid": {"x"}}, {"ce-subject": {"\x1b[2J"}}, {"ce-subject": {long}}, {"ce-generation": {"-1"}},
		{"ce-generation": {"1e3"}},
		{"ce-generation": {fmt.Sprint(contract.MaxGeneration + 1)}}, {"ce-generation": {"9223372036854775808"}},
		{"ce-time": {"1969-01-01T00:00:00Z"}}, {"ce-time": {"2999-01-01T00:00:00Z"}}, {"x": {long}}, many,
	}
	foreign := []map[string][]string{
		{"ce-type": {"storage.provisioned"}}, {"ce-type": {"mailbox.provision"}}, {"ce-type": {"Storage.Provision"}},
		{"ce-type": {"storage.provision\x00"}},
		{"ce-source": {"/storage-svc"}}, {"ce-source": {"/member-svc/"}}, {"Nats-Stream": {"STORAGE_ESSENTIAL"}},
	}
	if _, err := contract.Receive(subject, headers(nil), []byte("{}")); err != nil {
		t.Error(err)
	}
	for _, change := range malformed {
		_, err := contract.Receive(subject, headers(change), []byte("{}"))
		if !errors.Is(err, contract.ErrMalformed) || errors.Is(err, contract.ErrForeign) && change["ce-source"] == nil {
			t.Errorf("%.80v: %v", change, err)
		}
	}
	for _, change := range foreign {
		_, err := contract.Receive(subject, headers(change), []byte("{"))
		if !errors.Is(err, contract.ErrForeign) || !errors.Is(err, contract.ErrMalformed) {
			t.Errorf("%.80v: %v", change, err)
		}
	}
	for _, other := range []string{
		"", "signup.nonessential.storage.provision", "signup.essential.storage.deprovision", "$JS.API.INFO", "_INBOX.x",
	} {
		if _, err := contract.Receive(other, headers(nil), []byte("{}")); !errors.Is(err, contract.ErrForeign) {
			t.Errorf("on %q: %v", other, err)
		}
	}
	big := []byte(`"` + strings.Repeat("x", contract.MaxDataBytes) + `"`)
	if _, err := contract.Receive(subject, headers(nil), big); !errors.Is(err, contract.ErrMalformed) {
		t.Errorf("a large body: %v", err)
	}
}

// Each command is for one participant, and each participant gets only its own commands.
func TestCommandsHaveOneParticipant(t *testing.T) {
	seen := map[string]contract.Service{}
	for _, s := range contract.Services() {
		for _, subject := range contract.Commands(s) {
			if other, twice := seen[subject]; twice {
				t.Errorf("%s is for %s and %s", subject, s, other)
			}
			seen[subject] = s
		}
	}
	for _, r := range contract.Table() {
		command := r.Producer == contract.Member && r.Lane == contract.Essential
		if command != (seen[r.Subject()] != "") {
			t.Errorf("%s is for %q", r.Type, seen[r.Subject()])
		}
	}
}

// A message whose attributes and data name different members, sagas or generations is refused.
func TestAttributesAgreeWithTheData(t *testing.T) {
	const other = "01999e5c-0000-7000-8000-0000000000ff"
	for _, r := range contract.Table() {
		headers := map[string][]string{"content-type": {contract.StructuredContentType}}
		e, err := contract.Parse(headers, golden(t, r.Type))
		if err != nil {
			t.Fatal(err)
		}
		if r.Type == contract.StorageProviderChanged { // it is not about a member
			continue
		}
		for name, change := range map[string]struct {
			with func(*contract.Event)
			fits bool
		}{
			"nothing":          {func(*contract.Event) {}, true},
			"no attributes":    {func(e *contract.Event) { e.Subject, e.SagaID, e.Generation = "", "", 0 }, true},
			"other member":     {func(e *contract.Event) { e.Subject = other }, false},
			"other saga":       {func(e *contract.Event) { e.SagaID = other }, false},
			"other generation": {func(e *contract.Event) { e.Generation = 77 }, r.Type == contract.MemberSignedUp},
		} {
			changed := e
			change.with(&changed)
			err := changed.DataTo(dataOf(r))
			if (err == nil) != change.fits || err != nil && !errors.Is(err, contract.ErrMalformed) {
				t.Errorf("%s, %s: %v", r.Type, name, err)
			}
		}
	}
}
