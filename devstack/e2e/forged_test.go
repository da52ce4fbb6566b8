package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/signup-saga/signup-saga/contract"
)

// forger is an attacker with the NATS password of storage-svc.
type forger struct {
	t  *testing.T
	js jetstream.JetStream
}

func (f *fortress) forger() forger {
	f.t.Helper()
	nc, err := nats.Connect(f.natsAs("storage_app", "canaryNATS"), nats.RootCAs(f.ca.File),
		nats.CustomInboxPrefix("_INBOX.storage-svc"))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		f.t.Fatal(err)
	}
	return forger{f.t, js}
}

// publish stores an event in the stream of storage-svc, as if storage-svc had sent it.
func (f forger) publish(typ contract.Type, id, key string, data map[string]any) {
	f.t.Helper()
	body, err := json.Marshal(data)
	if err != nil {
		f.t.Fatal(err)
	}
	route, _ := contract.RouteOf(typ)
	m := nats.NewMsg(route.Subject())
	m.Data = body
	for name, value := range map[string]string{
		contract.HeaderSpecVersion: "1.0", contract.HeaderID: id, contract.HeaderSubject: key,
		contract.HeaderSource: contract.Source(contract.Storage), contract.HeaderType: string(typ),
	} {
		m.Header[name] = []string{value}
	}
	if _, err := f.js.PublishMsg(f.t.Context(), m); err != nil {
		f.t.Fatalf("%s: %v", typ, err)
	}
}

// replies sends replies to a saga that no command asked for: with future generations, and with ids that no
// database accepts.
func (f forger) replies(saga map[string]any) {
	f.t.Helper()
	member, id := fmt.Sprint(saga["member_id"]), fmt.Sprint(saga["saga_id"])
	for n, forged := range []struct {
		generation      int64
		message, sagaID string
	}{
		{7, "forged", id},
		{math.MaxInt64, "forged", id},
		{1, "forged \x00", id},
		{1, "forged", "no UUID \x00"},
	} {
		for _, typ := range []contract.Type{
			contract.StorageProvisioned, contract.StorageRejected, contract.StorageDeprovisioned,
		} {
			f.publish(typ, fmt.Sprintf("%s %d %s %s", forged.message, n, typ, id), member, map[string]any{
				"member_id": member, "saga_id": forged.sagaID, "generation": forged.generation,
				"quota_bytes": 1, "attempt": 1,
				"error": map[string]any{"class": "rejected", "message": "forged", "fingerprint": "forged"},
			})
		}
	}
}

// report says that the provider has an outage, with a version that no true report will reach.
func (f forger) report() {
	f.t.Helper()
	for _, version := range []int64{contract.MaxVersion, math.MaxInt64} {
		f.publish(contract.StorageProviderChanged, fmt.Sprint("forged ", version), "provider", map[string]any{
			"state": "open", "version": version, "changed_at": time.Now().Add(time.Hour),
		})
	}
}

// taken waits until a durable consumer has acknowledged every message for it in a stream.
func (f *fortress) taken(auditor *nats.Conn, stream, durable string) {
	f.t.Helper()
	js, err := jetstream.New(auditor)
	if err != nil {
		f.t.Fatal(err)
	}
	eventually(f.t, time.Minute, stream+" to be taken by "+durable, func() bool {
		c, err := js.Consumer(f.t.Context(), stream, durable)
		return err == nil && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
	})
}

// operate makes an operator's request and fails the test unless the response has status want.
func (f *fortress) operate(method, path, body string, want int) answer {
	f.t.Helper()
	a := f.call(method, "MEMBER_ADMIN_ADDR", "/admin/v1/"+path, operatorToken, body)
	if a.Status != want {
		f.t.Fatalf("%s %s: %d %v, want %d", method, path, a.Status, a.Body, want)
	}
	return a
}

// sagas returns what the admin API shows of all sagas, by username.
func (f *fortress) sagas() map[string]map[string]any {
	f.t.Helper()
	byName := map[string]map[string]any{}
	items, _ := f.operate(http.MethodGet, "sagas", "", http.StatusOK).Body["items"].([]any)
	for _, item := range items {
		saga, _ := item.(map[string]any)
		byName[fmt.Sprint(saga["username"])] = saga
	}
	return byName
}

// TestForgedGenerationsStopNobody uses a stolen NATS password of storage-svc to reply for settled signups. No
// signup changes state, and everything that people and operators do still works.
func TestForgedGenerationsStopNobody(t *testing.T) {
	f := startFortress(t)
	f.migrate()
	_, auditor := record(t, f)
	f.serve("storage")
	f.serve("member")
	location := map[string]string{"ready": f.signUp("ready")}
	f.awaitState(location["ready"], "ready")
	f.provider("reject")
	for _, name := range []string{"retried", "cancelled", "one", "two"} {
		location[name] = f.signUp(name)
	}
	for name, l := range location {
		if name != "ready" {
			f.awaitState(l, "needs_attention")
		}
	}
	f.provider("none")
	before := f.sagas()

	thief := f.forger()
	for _, saga := range before {
		thief.replies(saga)
	}
	thief.report()
	for _, lane := range contract.Lanes() {
		f.taken(auditor, contract.Stream(contract.Storage, lane), "member-svc")
	}
	for name, after := range f.sagas() {
		for _, field := range []string{"state", "generation", "version"} {
			if after[field] != before[name][field] {
				t.Errorf("forged replies moved %s: %s is %v, was %v", name, field, after[field], before[name][field])
			}
		}
		f.operate(http.MethodGet, "sagas/"+fmt.Sprint(after["saga_id"]), "", http.StatusOK)
	}
	f.awaitState(f.signUp("late"), "ready")

	const reason = `{"reason":"the provider has been told"}`
	of := func(name string) string { return "sagas/" + fmt.Sprint(before[name]["saga_id"]) }
	f.operate(http.MethodPost, of("retried")+"/retry", reason, http.StatusAccepted)
	f.operate(http.MethodPost, of("cancelled")+"/cancel", reason, http.StatusAccepted)
	f.operate(http.MethodPost, of("ready")+"/retry", reason, http.StatusConflict)
	f.awaitState(location["retried"], "ready")
	f.awaitState(location["cancelled"], "withdrawn")
	f.retryAll(2)
	f.awaitState(location["one"], "ready")
	f.awaitState(location["two"], "ready")
	for _, list := range []string{"overview", "failures", "retries", "outbox/dead", "audit", "sagas?state=ready"} {
		f.operate(http.MethodGet, list, "", http.StatusOK)
	}
	f.leave("ready", location["ready"])
}

// retryAll retries the only kind of failure there is, and waits until want signups have succeeded.
func (f *fortress) retryAll(want float64) {
	f.t.Helper()
	failures, _ := f.operate(http.MethodGet, "failures", "", http.StatusOK).Body["items"].([]any)
	if len(failures) != 1 {
		f.t.Fatalf("failures: %v, want one kind", failures)
	}
	kind, _ := failures[0].(map[string]any)
	body := fmt.Sprintf(`{"filter":{"error":%q},"reason":"the provider has been told","rate_per_second":200}`,
		kind["fingerprint"])
	begun := f.operate(http.MethodPost, "retries", body, http.StatusAccepted)
	eventually(f.t, time.Minute, "the group retry to finish", func() bool {
		now := f.operate(http.MethodGet, "retries/"+fmt.Sprint(begun.Body["id"]), "", http.StatusOK).Body
		return now["state"] == "finished" && now["succeeded"] == want
	})
}
