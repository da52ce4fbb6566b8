package e2e

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
)

// shippedNATS runs the server of deploy/nats-server.conf with the streams and consumers of the services, and an
// auditor.
func shippedNATS(t *testing.T) (url string, js jetstream.JetStream) {
	t.Helper()
	options := natsOptions(t, repository, "member", "storage")
	options.Users = append(options.Users, &server.User{Username: "auditor", Password: auditorPassword})
	options.StoreDir, options.Host, options.Port, options.HTTPPort = t.TempDir(), "127.0.0.1", server.RANDOM_PORT, 0
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("NATS does not start")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("auditor", auditorPassword))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	for _, producer := range contract.Services() {
		for _, lane := range contract.Lanes() {
			if subjects := contract.Subjects(producer, lane); len(subjects) > 0 {
				config := jetstream.StreamConfig{Subjects: subjects, AllowDirect: true}
				config.Name = contract.Stream(producer, lane)
				if _, err := js.CreateStream(t.Context(), config); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	config := jetstream.ConsumerConfig{Durable: "member-svc", AckPolicy: jetstream.AckExplicitPolicy}
	if _, err := js.CreateConsumer(t.Context(), "STORAGE_ESSENTIAL", config); err != nil {
		t.Fatal(err)
	}
	return s.ClientURL(), js
}

// A NATS server sends its answer to any reply subject that a request names, whatever the user may publish. By
// reading their own stream, a user can thereby place a message of their choice in another stream. Such copies
// are recognised by their headers.
func TestACopiedMessageIsForeign(t *testing.T) {
	url, js := shippedNATS(t)
	thief, err := nats.Connect(url, nats.UserInfo("member_app", "canaryNATS"),
		nats.CustomInboxPrefix("_INBOX.member-svc"))
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	const target = "signup.essential.storage.provisioned"
	forged := nats.NewMsg("signup.essential.storage.provision")
	forged.Header = nats.Header{
		"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/storage-svc"}, "ce-type": {"storage.provisioned"},
	}
	forged.Data = []byte(`{}`)
	if _, err := thief.RequestMsg(forged, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	last, err := json.Marshal(map[string]any{"last_by_subj": forged.Subject})
	if err != nil {
		t.Fatal(err)
	}
	for subject, body := range map[string][]byte{
		"$JS.API.DIRECT.GET.MEMBER_ESSENTIAL":  last,
		"$JS.API.STREAM.INFO.MEMBER_ESSENTIAL": nil,
		forged.Subject:                         forged.Data,
	} {
		if err := thief.PublishRequest(subject, target, body); err != nil {
			t.Fatal(err)
		}
	}
	consumer, err := js.Consumer(t.Context(), "STORAGE_ESSENTIAL", "member-svc")
	if err != nil {
		t.Fatal(err)
	}
	copied := 0
	for range 3 { // as many as were requested; that they arrive is the server's behaviour
		m, err := consumer.Next(jetstream.FetchMaxWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if m.Headers().Get("Nats-Stream") == "MEMBER_ESSENTIAL" {
			copied++
		}
		if _, err := contract.Receive(m.Subject(), m.Headers(), m.Data()); !errors.Is(err, contract.ErrForeign) {
			t.Errorf("taken for genuine: %s %v %s: %v", m.Subject(), m.Headers(), m.Data(), err)
		}
	}
	if copied != 1 {
		t.Errorf("%d copies arrived, want 1", copied)
	}
}
