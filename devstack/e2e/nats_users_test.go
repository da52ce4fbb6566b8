package e2e

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
)

// foreign marks messages of the test itself.
const foreign = "foreign"

// recorder records every subject on which a service has published.
type recorder struct {
	mu   sync.Mutex
	seen map[string]bool
}

// record starts a recorder, as a user who may subscribe to everything.
func record(t testing.TB, f *fortress) (*recorder, *nats.Conn) {
	t.Helper()
	r := &recorder{seen: map[string]bool{}}
	nc, err := nats.Connect(f.natsAs("auditor", auditorPassword), nats.RootCAs(f.ca.File))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	for _, pattern := range []string{">", "$JS.API.>", "$JS.ACK.>"} {
		if _, err := nc.Subscribe(pattern, func(m *nats.Msg) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(m.Header[foreign]) == 0 {
				r.seen[m.Subject] = true
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return r, nc
}

// missing returns the patterns on which nothing was published.
func (r *recorder) missing(patterns []string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(patterns), func(pattern string) bool {
		for subject := range r.seen {
			if subject == pattern || strings.HasSuffix(pattern, ">") &&
				strings.HasPrefix(subject, strings.TrimSuffix(pattern, ">")) {
				return true
			}
		}
		return false
	})
}

// users returns the users of the shipped configuration by name.
func users(t *testing.T) map[string]*server.User {
	t.Helper()
	options := natsOptions(t, repository, "member", "storage")
	found := map[string]*server.User{}
	for _, u := range options.Users {
		found[u.Username] = u
	}
	return found
}

// A new type of event needs its own line in the configuration.
func TestNATSUsersMayPublishTheirEvents(t *testing.T) {
	known := users(t)
	for _, r := range contract.Table() {
		subject := contract.SubjectPrefix(r.Lane) + string(r.Type)
		for name, user := range known {
			if may, should := slices.Contains(user.Permissions.Publish.Allow, subject), name == string(r.Producer)+
				"_app"; may != should {
				t.Errorf("%s may publish %s: %v, should be %v", name, subject, may, should)
			}
		}
	}
}

// TestNATSUsersMayDoWhatTheyNeedAndNoMore makes the services do everything that they ever do with NATS. Nothing
// is refused, and every permission is used.
func TestNATSUsersMayDoWhatTheyNeedAndNoMore(t *testing.T) {
	t.Parallel()
	f := startFortress(t)
	known := users(t)
	migrating, _ := record(t, f)
	f.migrate()
	for _, name := range []string{"member_migrator", "storage_migrator"} {
		if missing := migrating.missing(known[name].Permissions.Publish.Allow); len(missing) > 0 {
			t.Errorf("%s never needs %v", name, missing)
		}
	}

	working, auditor := record(t, f)
	services := f.doEverything(working, auditor)
	var subscribed []string
	clients, err := f.nats.Connz(&server.ConnzOptions{Subscriptions: true, Username: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range clients.Conns {
		if c.AuthorizedUser != "auditor" {
			subscribed = append(subscribed, c.Subs...)
		}
	}
	for _, c := range services {
		if err := c.stop(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, name := range []string{"member_app", "storage_app"} {
		deadline := time.Now().Add(10 * time.Second) // for messages still on their way to the auditor
		eventually(t, time.Minute, "the auditor", func() bool {
			missing := working.missing(known[name].Permissions.Publish.Allow)
			if len(missing) > 0 && time.Now().After(deadline) {
				t.Errorf("%s never needs %v", name, missing)
				return true
			}
			return len(missing) == 0
		})
		heard := &recorder{seen: map[string]bool{}}
		for _, subject := range subscribed {
			heard.seen[subject] = true
		}
		if missing := heard.missing(known[name].Permissions.Subscribe.Allow); len(missing) > 0 {
			t.Errorf("%s never listens to %v", name, missing)
		}
	}
	for _, c := range services {
		if violation := regexp.MustCompile(`(?i)[^\n]*permissions violation[^\n]*`).FindString(
			c.printed.String()); violation != "" {
			t.Errorf("%s: %s", c.name, violation)
		}
	}
}

// doEverything leads the services through outages, refusals, foreign messages, withdrawals and the loss of the
// broker's data.
func (f *fortress) doEverything(r *recorder, auditor *nats.Conn) []*child {
	f.t.Helper()
	told := make(chan struct{}, 100)
	webhook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told <- struct{}{} }))
	f.t.Cleanup(webhook.Close)
	variables := []string{"STUCK_WEBHOOK_URL=" + webhook.URL,
		"STUCK_WEBHOOK_SECRET=whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
	storage, member := f.serve("storage"), f.serve("member", variables...)
	f.awaitState(f.signUp("first"), "ready")
	// Foreign messages make the relays read their streams.
	for _, own := range contract.Table() {
		m := &nats.Msg{Subject: contract.SubjectPrefix(own.Lane) + string(own.Type),
			Header: nats.Header{foreign: {"yes"}}, Data: []byte(`{}`)}
		if err := auditor.PublishMsg(m); err != nil {
			f.t.Fatal(err)
		}
	}
	f.provider("outage")
	stuck := f.signUp("stuck")
	select {
	case <-told:
	case <-time.After(time.Minute):
		f.t.Fatal("no notice of a stuck signup arrived")
	}
	eventually(f.t, time.Minute, "the outage to be told", func() bool {
		return len(r.missing([]string{"signup.nonessential.storage.attempt-failed",
			"signup.nonessential.storage.provider-changed"})) == 0
	})
	f.provider("none")
	f.awaitState(stuck, "ready")
	f.provider("reject")
	f.awaitState(f.signUp("rejected"), "needs_attention")
	f.provider("none")
	f.leave("stuck", stuck)
	f.loseStreams(auditor)
	f.awaitState(f.signUp("late"), "ready")
	js, err := jetstream.New(auditor)
	if err != nil {
		f.t.Fatal(err)
	}
	eventually(f.t, time.Minute, "the non-essential relays to be back", func() bool {
		return !slices.ContainsFunc([]string{"MEMBER_NONESSENTIAL", "STORAGE_NONESSENTIAL"}, func(name string) bool {
			s, err := js.Stream(f.t.Context(), name)
			return err != nil || s.CachedInfo().State.LastSeq == 0
		})
	})
	return []*child{member, storage}
}

func (f *fortress) provider(mode string) {
	f.t.Helper()
	token := strings.TrimSpace(mustRead(f.t, f.path("STORAGE_TOKEN")))
	a := f.call(http.MethodPut, "STORAGE_HTTP_ADDR", "/v1/faults", token, `{"mode":"`+mode+
		`","probability":1,"latency_ms":0}`)
	if a.Status != http.StatusOK {
		f.t.Fatalf("PUT /v1/faults: %+v", a)
	}
}

func (f *fortress) leave(username, location string) {
	f.t.Helper()
	const password = `"password":"a long enough one"`
	session := f.call(http.MethodPost, "MEMBER_HTTP_ADDR", "/v1/sessions", "", `{"username":"`+username+`",`+password+
		`}`)
	token, _ := session.Body["token"].(string)
	if a := f.call(http.MethodDelete, "MEMBER_HTTP_ADDR", "/v1/members/me", token, `{`+password+
		`}`); a.Status != http.StatusAccepted {
		f.t.Fatalf("leave: %+v", a)
	}
	f.awaitState(location, "withdrawn")
}

// loseStreams deletes every stream, and waits until the services have created them again.
func (f *fortress) loseStreams(auditor *nats.Conn) {
	f.t.Helper()
	js, err := jetstream.New(auditor)
	if err != nil {
		f.t.Fatal(err)
	}
	names := []string{"MEMBER_ESSENTIAL", "MEMBER_NONESSENTIAL", "STORAGE_ESSENTIAL", "STORAGE_NONESSENTIAL"}
	for _, name := range names {
		if err := js.DeleteStream(f.t.Context(), name); err != nil {
			f.t.Fatal(err)
		}
	}
	eventually(f.t, time.Minute, "the streams", func() bool {
		return !slices.ContainsFunc(names,
			func(name string) bool { _, err := js.Stream(f.t.Context(), name); return err != nil })
	})
}

// migrations returns the subjects that are refused even to a service's own migrator.
func migrations(own []string) []string {
	return slices.DeleteFunc(slices.Clone(own), func(subject string) bool {
		return strings.Contains(subject, ".CREATE.")
	})
}

// TestNATSUsersAreRefusedWhatTheyMustNotDo tries what a compromised service would try.
func TestNATSUsersAreRefusedWhatTheyMustNotDo(t *testing.T) {
	f := startFortress(t)
	f.migrate()
	everybody := struct{ publish, subscribe []string }{
		publish: []string{
			"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$SYS.REQ.SERVER.PING", "anything",
			"$JS.API.STREAM.DELETE.MEMBER_ESSENTIAL", "$JS.API.STREAM.PURGE.MEMBER_ESSENTIAL",
			"$JS.API.STREAM.MSG.DELETE.MEMBER_ESSENTIAL",
			"$JS.API.STREAM.DELETE.STORAGE_ESSENTIAL", "$JS.API.STREAM.PURGE.STORAGE_ESSENTIAL",
			"$JS.API.STREAM.MSG.GET.STORAGE_ESSENTIAL",
			"$JS.API.STREAM.CREATE.ANOTHER", "$JS.API.STREAM.SNAPSHOT.MEMBER_ESSENTIAL",
			"$JS.API.STREAM.RESTORE.MEMBER_ESSENTIAL",
			"$JS.API.CONSUMER.CREATE.MEMBER_ESSENTIAL.spy", "$JS.API.CONSUMER.CREATE.STORAGE_ESSENTIAL.spy",
			"$JS.API.CONSUMER.CREATE.MEMBER_NONESSENTIAL",
			"$JS.API.CONSUMER.DURABLE.CREATE.MEMBER_ESSENTIAL.storage-svc",
			"$JS.API.CONSUMER.DELETE.MEMBER_ESSENTIAL.storage-svc",
			"$JS.API.CONSUMER.DELETE.STORAGE_ESSENTIAL.member-svc",
			"$JS.API.CONSUMER.PAUSE.MEMBER_ESSENTIAL.storage-svc", "$JS.FC.x", "_INBOX.other.x",
		},
		subscribe: []string{">", "_INBOX.>", "_INBOX.*.x", "signup.>", "signup.essential.storage.provision",
			"signup.essential.storage.provisioned", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$SYS.>", "outbox.>"},
	}
	member := []string{
		"signup.essential.storage.provision", "signup.nonessential.signup.stuck",
		"$JS.API.CONSUMER.MSG.NEXT.STORAGE_ESSENTIAL.member-svc",
		"$JS.ACK.STORAGE_ESSENTIAL.member-svc.1.1.1.1.1", "$JS.API.DIRECT.GET.MEMBER_NONESSENTIAL",
		"_INBOX.member-svc.x", "outbox.wake.MEMBER_ESSENTIAL",
	}
	storage := []string{
		"signup.essential.storage.provisioned", "signup.nonessential.storage.attempt-failed",
		"$JS.API.CONSUMER.MSG.NEXT.MEMBER_ESSENTIAL.storage-svc",
		"$JS.ACK.MEMBER_ESSENTIAL.storage-svc.1.1.1.1.1", "$JS.API.DIRECT.GET.STORAGE_ESSENTIAL",
		"_INBOX.storage-svc.x", "outbox.wake.STORAGE_ESSENTIAL",
	}
	member = append(member, "$JS.API.STREAM.CREATE.MEMBER_ESSENTIAL",
		"$JS.API.CONSUMER.CREATE.STORAGE_ESSENTIAL.member-svc",
		"$JS.API.CONSUMER.CREATE.MEMBER_NONESSENTIAL.member-welcome")
	storage = append(storage, "$JS.API.STREAM.CREATE.STORAGE_NONESSENTIAL",
		"$JS.API.CONSUMER.CREATE.MEMBER_ESSENTIAL.storage-svc")
	// A service may not create even what it uses itself: a consumer delivers to any subject, and a stream may
	// copy any other stream.
	create := slices.DeleteFunc(slices.Concat(member, storage), func(subject string) bool {
		return !strings.Contains(subject, ".CREATE.")
	})
	updates := []string{"$JS.API.STREAM.UPDATE.MEMBER_ESSENTIAL", "$JS.API.STREAM.UPDATE.STORAGE_ESSENTIAL"}
	for user, own := range map[string]struct{ publish, subscribe []string }{
		"member_app": {slices.Concat(storage, create, updates),
			[]string{"_INBOX.storage-svc.>", "outbox.wake.STORAGE_ESSENTIAL"}},
		"storage_app": {slices.Concat(member, create, updates),
			[]string{"_INBOX.member-svc.>", "outbox.wake.MEMBER_ESSENTIAL"}},
		"member_migrator": {slices.Concat(migrations(member), storage, updates[1:]),
			[]string{"_INBOX.member-svc.>", "_INBOX.storage-svc-migrate.>"}},
		"storage_migrator": {slices.Concat(member, migrations(storage), updates[:1]),
			[]string{"_INBOX.storage-svc.>", "_INBOX.member-svc-migrate.>"}},
	} {
		t.Run(user, func(t *testing.T) {
			refused := make(chan string, 1000)
			nc, err := nats.Connect(f.natsAs(user, "canaryNATS"), nats.RootCAs(f.ca.File),
				nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err.Error() }))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			var attempts []string
			for _, subject := range slices.Concat(everybody.publish, own.publish) {
				attempts = append(attempts, `Publish to "`+subject+`"`)
				if err := nc.Publish(subject, nil); err != nil {
					t.Fatal(err)
				}
			}
			for _, pattern := range slices.Concat(everybody.subscribe, own.subscribe) {
				attempts = append(attempts, `Subscription to "`+pattern+`"`)
				if _, err := nc.SubscribeSync(pattern); err != nil {
					t.Fatal(err)
				}
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for range attempts {
				select {
				case text := <-refused:
					got[text] = true
				case <-time.After(2 * time.Second): // the rest was allowed
				}
			}
			for _, attempt := range attempts {
				refused := func(text string) bool {
					return strings.Contains(strings.ToLower(text), strings.ToLower(attempt))
				}
				if !slices.ContainsFunc(slices.Collect(maps.Keys(got)), refused) {
					t.Errorf("not refused: %s", attempt)
				}
			}
		})
	}
	for _, stranger := range []string{f.natsURL.String(), f.natsAs("member_app", "wrong"), f.natsAs("", "")} {
		if nc, err := nats.Connect(stranger, nats.RootCAs(f.ca.File)); err == nil {
			nc.Close()
			t.Errorf("%s may connect", stranger)
		}
	}
}
