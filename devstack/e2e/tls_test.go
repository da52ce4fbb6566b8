package e2e

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// TestEverythingOverTLS signs a person up in a system whose every link is encrypted, and checks that no server
// accepts plain text.
func TestEverythingOverTLS(t *testing.T) {
	f := startFortress(t)
	f.migrate()
	services := []*child{f.serve("storage"), f.serve("member", "RECONCILE_INTERVAL=1s", "RECONCILE_MIN_AGE=0s")}
	f.awaitState(f.signUp("mina"), "ready")

	// Member-svc compares its members with storage-svc's list, over HTTPS.
	eventually(t, time.Minute, "a reconciliation", func() bool {
		resp, err := f.client.Get("https://" + f.addrs["MEMBER_ADMIN_ADDR"] + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), "\nstranded_members 0\n")
	})
	for name, address := range f.addrs {
		resp, err := http.Get("http://" + address + "/livez") // the address is a constant of this test
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s answers %d to plain HTTP", name, resp.StatusCode)
			}
		}
		old := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, RootCAs: f.ca.Pool()}
		if _, err := tls.Dial("tcp", address, old); err == nil {
			t.Errorf("%s speaks TLS 1.1", name)
		}
	}
	if plain := f.sql(`-- name: plainSessions
SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename LIKE '%\_app'
    AND NOT ssl`); plain != "0" {
		t.Errorf("%s sessions of Postgres are not encrypted", plain)
	}
	clients, err := f.nats.Connz(&server.ConnzOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range clients.Conns {
		if c.TLSVersion == "" {
			t.Errorf("%s speaks with NATS in the clear", c.Name)
		}
	}
	if len(clients.Conns) != 4 {
		t.Errorf("%d connections of NATS, want one for each service and each broker job", len(clients.Conns))
	}
	for _, c := range services {
		if err := c.stop(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// The service no longer answers, and the health check reports that.
	probe := f.run("member", "app", "healthcheck")
	if <-probe.done; probe.err == nil {
		t.Error("the health check passes without a service")
	}
}

// TestStrangersCertificatesAreRefused makes the services trust an authority that has not issued the servers'
// certificates.
func TestStrangersCertificatesAreRefused(t *testing.T) {
	f := startFortress(t)
	f.migrate()
	other := testenv.NewAuthority(t).File
	const refused = "certificate signed by unknown authority"
	member := f.run("member", "app", "serve", "NATS_CA_FILE="+other)
	f.put("storage-database-url", strings.Replace(f.database("storage_app", "canaryPostgres", "storage"),
		url.QueryEscape(f.ca.File), url.QueryEscape(other), 1))
	storage := f.run("storage", "app", "serve")
	for _, c := range []*child{member, storage} {
		eventually(t, time.Minute, c.name+" to refuse",
			func() bool { return strings.Contains(c.printed.String(), refused) })
	}
	clients, err := f.nats.Connz(&server.ConnzOptions{Username: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range clients.Conns {
		if strings.HasSuffix(c.AuthorizedUser, "_app") {
			t.Errorf("%s is connected", c.AuthorizedUser)
		}
	}
	// A signup needs neither NATS nor storage-svc.
	f.healthy("member", member)
	f.signUp("mina")
}
