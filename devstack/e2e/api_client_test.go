package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"testing"

	api "github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
)

// listener is a transport that keeps the body of the last response.
type listener struct{ body []byte }

func (l *listener) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	l.body, err = io.ReadAll(response.Body)
	response.Body = io.NopCloser(bytes.NewReader(l.body))
	return response, err
}

// understood fails the test unless got holds all members of the last response.
func understood[T any](t *testing.T, l *listener, what string, got T, err error) T {
	t.Helper()
	var said, kept any
	text, _ := json.Marshal(got)
	if err := errors.Join(err, json.Unmarshal(l.body, &said), json.Unmarshal(text, &kept)); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	page, isPage := said.(map[string]any)
	if _, isList := kept.([]any); isPage && isList { // the client drops the page
		said = page["items"]
	} else if isPage && page["items"] != nil && page["next_cursor"] == nil {
		kept.(map[string]any)["next_cursor"], page["next_cursor"] = nil, nil // absent, null and empty mean the same
	}
	if !reflect.DeepEqual(said, kept) {
		t.Errorf("%s: the client understands\n%s\nof\n%s", what, text, l.body)
	}
	return got
}

// The Go client knows every member of the real services' responses.
func TestClientUnderstandsTheServices(t *testing.T) {
	s := startStack(t, nil)
	ctx, l := t.Context(), &listener{}
	h := &http.Client{Transport: l}
	members, storages := api.NewPublic(s.env["MEMBER_URL"], h),
		api.NewStorage(s.env["STORAGE_URL"], s.env["STORAGE_TOKEN"], h)
	admin := api.NewAdmin(s.env["ADMIN_URL"], s.env["ADMIN_TOKEN"], h)
	if err := storages.SetFault(ctx, wire.Fault{Mode: "reject", Probability: 1}); err != nil {
		t.Fatal(err)
	}
	fault, err := storages.Fault(ctx)
	understood(t, l, "fault", fault, err)

	signup, err := members.SignUpRetry(ctx,
		wire.NewMember{Username: "mina", Password: "a long enough one", Email: "mina@example.org"}, api.DefaultRetry)
	understood(t, l, "sign up", signup, err)
	final := ""
	for now, err := range api.NewPublic(s.env["MEMBER_URL"], nil).Watch(ctx, signup.SignupID) {
		if final = now.State; err != nil {
			t.Fatal(err)
		}
	}
	if final != wire.NeedsAttention {
		t.Fatalf("the last that was seen of the signup is %q", final)
	}
	now, err := members.Signup(ctx, signup.SignupID)
	understood(t, l, "signup", now, err)
	storage, err := storages.Get(ctx, signup.MemberID)
	understood(t, l, "storage", storage, err)
	all, err := storages.List(ctx, api.PageOf{Limit: 1})
	understood(t, l, "storages", all, err)

	sagas, err := admin.Sagas(ctx, api.SagaFilter{State: wire.NeedsAttention}, api.PageOf{})
	id := understood(t, l, "sagas", sagas, err).Items[0].SagaID
	saga, err := admin.Saga(ctx, id)
	understood(t, l, "saga", saga, err)
	failures, err := admin.Failures(ctx, 0)
	understood(t, l, "failures", failures, err)
	group := wire.NewGroupRetry{Filter: map[string]string{"error": saga.LastError.Fingerprint}, Reason: "tried",
		Rate: 1}
	if matched, err := admin.CountGroup(ctx, group); err != nil || matched != 1 {
		t.Errorf("%d sagas in the group, %v", matched, err)
	}
	begun, err := admin.RetryGroup(ctx, group)
	understood(t, l, "group retry", begun, err)
	retries, err := admin.GroupRetries(ctx, api.PageOf{})
	understood(t, l, "group retries", retries, err)
	overview, err := admin.Overview(ctx)
	understood(t, l, "overview", overview, err)
	cancelled, err := admin.Cancel(ctx, id, api.Act{Reason: "asked by letter"})
	understood(t, l, "cancel", cancelled, err)
	audit, err := admin.Audit(ctx, api.AuditFilter{SagaID: id}, api.PageOf{})
	understood(t, l, "audit", audit, err)
	dead, err := admin.DeadEvents(ctx, api.PageOf{})
	understood(t, l, "dead events", dead, err)
	letters, err := storages.DeadLetters(ctx, api.PageOf{})
	understood(t, l, "dead letters", letters, err)

	nora, err := members.SignUp(ctx, wire.NewMember{Username: "nora", Password: "a long enough one"}, "")
	understood(t, l, "sign up without an address", nora, err)
	session, err := members.SignIn(ctx, "nora", "a long enough one")
	understood(t, l, "session", session, err)
	account, err := members.Member(ctx, session.Token)
	understood(t, l, "account", account, err)
	open, err := members.Sessions(ctx, session.Token)
	understood(t, l, "sessions", open, err)
	if err := members.ChangePassword(ctx, session.Token, "a long enough one", "an even longer one"); err != nil {
		t.Errorf("change the password: %v", err)
	}
	if err := members.EndSessions(ctx, session.Token, true); err != nil {
		t.Errorf("end the other sessions: %v", err)
	}
	left, err := members.Leave(ctx, session.Token, "an even longer one")
	understood(t, l, "leave", left, err)
	var refusal *wire.Problem
	if err := members.SignOut(ctx, session.Token); !errors.As(err, &refusal) || refusal.Code != "unauthorized" {
		t.Errorf("a session after leaving: %v", err)
	}
}
