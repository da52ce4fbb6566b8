package service

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
)

// TLSFiles names the certificate of a program's listeners; configurations of
// programs that listen embed it.
type TLSFiles struct {
	CertFile string `env:"TLS_CERT_FILE" help:"certificate chain of all listeners, PEM; without it they speak plain HTTP"`
	KeyFile  string `env:"TLS_KEY_FILE" help:"private key of TLS_CERT_FILE, PEM; both are reloaded when they change"`
}

// Validate implements [Validator].
func (f TLSFiles) Validate(check *Checks) {
	check.Require((f.CertFile == "") == (f.KeyFile == ""), "TLS_CERT_FILE, TLS_KEY_FILE: one needs the other")
}

// ServerTLS returns the configuration of a listener, or nil if there is no certificate. Changed files are used
// from the next handshake on. The listener speaks TLS 1.2 and later, and HTTP/2 or 1.1 on top of it.
func (f TLSFiles) ServerTLS(log *slog.Logger) (*tls.Config, error) {
	if f.CertFile == "" {
		return nil, nil
	}
	pair, err := newReloaded(log, f.load, f.CertFile, f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("TLS_CERT_FILE, TLS_KEY_FILE: %w", err)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get(), nil },
	}, nil
}

func (f TLSFiles) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	return &pair, err
}

// client returns a client for the program's own listeners, and the scheme of their URLs. It accepts the
// certificate in the file and no other. It does not check names and dates, which protect only clients
// elsewhere. While the files do not load, the listener still has the last certificate that did, which this
// process does not know. Then any certificate is accepted, so that a bad file does not look like a service that
// is down.
func (f TLSFiles) client() (client *http.Client, scheme string) {
	if f.CertFile == "" {
		return http.DefaultClient, "http"
	}
	own, err := f.load()
	pin := func(c tls.ConnectionState) error {
		if err == nil && !bytes.Equal(c.PeerCertificates[0].Raw, own.Certificate[0]) {
			return errors.New("the listener presents another certificate than the one in TLS_CERT_FILE")
		}
		return nil
	}
	// The certificate is pinned instead of verified.
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, VerifyConnection: pin}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}, "https"
}
