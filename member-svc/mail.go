package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/member-svc/internal/welcome"
	"github.com/signup-saga/signup-saga/service"
)

// MailConfig configures the welcome mail and the mail server.
type MailConfig struct {
	SMTPAddr string `env:"SMTP_ADDR" envDefault:"127.0.0.1:1025" help:"mail server, host:port"`
	MailFrom string `env:"MAIL_FROM" envDefault:"welcome@localhost" help:"sender, as address or as Name <address>"`
	MailHelo string `env:"MAIL_HELO" help:"name for EHLO; by default the host's full name, else its address"`
	MailTLS  string `env:"MAIL_TLS" envDefault:"opportunistic" help:"opportunistic, required, implicit or off"`

	MailMaxAge time.Duration `env:"MAIL_MAX_AGE" envDefault:"24h" help:"after which an unsent mail is dropped"`

	SMTPCAFile   string `env:"SMTP_CA_FILE" help:"authorities of the mail server, PEM; by default the system's"`
	SMTPCertFile string `env:"SMTP_CERT_FILE" help:"client certificate for the mail server, PEM"`
	SMTPKeyFile  string `env:"SMTP_KEY_FILE" help:"private key of SMTP_CERT_FILE, PEM"`

	SMTPUsername string         `env:"SMTP_USERNAME" help:"user of the mail server, over TLS only"`
	SMTPPassword service.Secret `env:"SMTP_PASSWORD" help:"password of SMTP_USERNAME"`
}

func (c MailConfig) problems() (errs []error) {
	require := func(ok bool, problem string) {
		if !ok {
			errs = append(errs, errors.New(problem))
		}
	}
	_, _, err := net.SplitHostPort(c.SMTPAddr)
	require(err == nil, "SMTP_ADDR: must be host:port")
	if err := welcome.CheckSender(c.MailFrom); err != nil {
		errs = append(errs, fmt.Errorf("MAIL_FROM: %w", err))
	}
	if err := welcome.CheckHello(c.MailHelo); c.MailHelo != "" && err != nil {
		errs = append(errs, fmt.Errorf("MAIL_HELO: %w", err))
	}
	policies := strings.Join(welcome.TLSPolicies, ", ")
	require(slices.Contains(welcome.TLSPolicies, c.MailTLS), "MAIL_TLS: must be one of "+policies)
	require((c.SMTPCertFile == "") == (c.SMTPKeyFile == ""), "SMTP_CERT_FILE, SMTP_KEY_FILE: one needs the other")
	known := (c.SMTPUsername == "") == (c.SMTPPassword.Reveal() == "")
	require(known, "SMTP_USERNAME, SMTP_PASSWORD: one needs the other")
	require(c.MailMaxAge > 0, "MAIL_MAX_AGE: must be positive")
	return errs
}

func (c MailConfig) server() welcome.Server {
	return welcome.Server{
		Addr: c.SMTPAddr, Hello: c.MailHelo, TLS: c.MailTLS,
		CAFile: c.SMTPCAFile, CertFile: c.SMTPCertFile, KeyFile: c.SMTPKeyFile,
		Username: c.SMTPUsername, Password: c.SMTPPassword.Current,
	}
}
