package contract_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/contract"
)

func golden(t *testing.T, typ contract.Type) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "v1", string(typ)+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func dataOf(r contract.Route) any {
	switch {
	case r.For != "":
		return new(contract.StorageCommand)
	case r.Type == contract.MemberSignedUp:
		return new(contract.SignedUp)
	case r.Type == contract.StorageProviderChanged:
		return new(contract.ProviderChange)
	case r.Type == contract.SignupStuck:
		return new(contract.Stuck)
	default:
		return new(contract.StorageReply)
	}
}

// Every type of the table has a golden message that decodes and, encoded again, is the same message.
func TestGoldenMessagesRoundTrip(t *testing.T) {
	for _, r := range contract.Table() {
		t.Run(string(r.Type), func(t *testing.T) {
			raw := golden(t, r.Type)
			e, err := contract.Parse(map[string][]string{"content-type": {contract.StructuredContentType}}, raw)
			if err != nil {
				t.Fatal(err)
			}
			if e.Type != r.Type {
				t.Fatalf("type %q, want %q", e.Type, r.Type)
			}
			data := dataOf(r)
			if err := e.DataTo(data); err != nil {
				t.Fatal(err)
			}
			if e.Data, err = json.Marshal(data); err != nil {
				t.Fatal(err)
			}
			again, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := errors.Join(json.Unmarshal(again, &got), json.Unmarshal(raw, &want)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("encoded again:\n%s\nwant:\n%s", again, raw)
			}
		})
	}
}

func TestBinaryModeReadsTheSameEvent(t *testing.T) {
	want, err := contract.Parse(map[string][]string{"content-type": {contract.StructuredContentType}},
		golden(t, contract.StorageProvision))
	if err != nil {
		t.Fatal(err)
	}
	headers := map[string][]string{
		"ce-specversion": {"1.0"}, "ce-id": {want.ID}, "ce-source": {want.Source}, "ce-type": {string(want.Type)},
		"ce-subject": {want.Subject}, "ce-time": {want.Time.Format("2006-01-02T15:04:05.999999Z07:00")},
	}
	for k, v := range want.Headers() {
		headers[k] = []string{v}
	}
	got, err := contract.Parse(headers, want.Data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// An event whose data is broken still says which saga it belongs to.
func TestMalformedKeepsAttributes(t *testing.T) {
	headers := map[string][]string{
		"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/x"}, "ce-type": {"storage.provision"},
		"ce-sagaid": {"s1"}, "ce-generation": {"7"},
	}
	e, err := contract.Parse(headers, []byte("{"))
	if !errors.Is(err, contract.ErrMalformed) {
		t.Fatalf("err = %v, want ErrMalformed", err)
	}
	if e.SagaID != "s1" || e.Generation != 7 {
		t.Errorf("attributes lost: %+v", e)
	}
	for name, bad := range map[string]map[string][]string{
		"version":    {"ce-specversion": {"0.3"}},
		"type":       {"ce-type": nil},
		"generation": {"ce-generation": {"x"}},
		"time":       {"ce-time": {"yesterday"}},
		"id":         {"ce-id": nil},
	} {
		h := make(map[string][]string)
		for k, v := range headers {
			h[k] = v
		}
		for k, v := range bad {
			h[k] = v
		}
		if _, err := contract.Parse(h, []byte("{}")); !errors.Is(err, contract.ErrMalformed) {
			t.Errorf("%s: err = %v, want ErrMalformed", name, err)
		}
	}
}

// A trace context from a stranger is stored and sent on only if it is well-formed.
func TestMalformedTraceParentIsNone(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, sent := range []string{good, "", "x", good + "\x00", strings.Repeat(good, 100), strings.ToUpper(good)} {
		e, err := contract.Parse(map[string][]string{
			"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/x"}, "ce-type": {"storage.provision"},
			"traceparent": {sent},
		}, []byte("{}"))
		if want := map[bool]string{true: good}[sent == good]; err != nil || e.TraceParent != want {
			t.Errorf("%.80q is read as %q, %v", sent, e.TraceParent, err)
		}
	}
}

// Streams never share a subject: JetStream refuses overlapping streams.
func TestEverySubjectHasOneStream(t *testing.T) {
	seen := map[string]string{}
	for _, p := range contract.Services() {
		for _, l := range contract.Lanes() {
			stream := contract.Stream(p, l)
			for _, s := range contract.Subjects(p, l) {
				if other, ok := seen[s]; ok {
					t.Errorf("subject %s is in %s and %s", s, other, stream)
				}
				seen[s] = stream
			}
		}
	}
	if len(seen) != len(contract.Table()) {
		t.Errorf("%d subjects for %d types", len(seen), len(contract.Table()))
	}
	if !slices.Contains(contract.Subjects(contract.Member, contract.Essential), "signup.essential.storage.provision") {
		t.Error("storage.provision is not an essential subject of member")
	}
}
