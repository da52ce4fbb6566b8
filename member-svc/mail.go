package main

import (
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

// Validate implements [service.Validator].
func (c MailConfig) Validate(check *service.Checks) {
	check.Addr("SMTP_ADDR", c.SMTPAddr)
	check.NoError("MAIL_FROM", welcome.CheckSender(c.MailFrom))
	if c.MailHelo != "" {
		check.NoError("MAIL_HELO", welcome.CheckHello(c.MailHelo))
	}
	policies := strings.Join(welcome.TLSPolicies, ", ")
	check.Require(slices.Contains(welcome.TLSPolicies, c.MailTLS), "MAIL_TLS: must be one of "+policies)
	check.Require((c.SMTPCertFile == "") == (c.SMTPKeyFile == ""), "SMTP_CERT_FILE, SMTP_KEY_FILE: one needs the other")
	known := (c.SMTPUsername == "") == (c.SMTPPassword.Reveal() == "")
	check.Require(known, "SMTP_USERNAME, SMTP_PASSWORD: one needs the other")
	check.Require(c.MailMaxAge > 0, "MAIL_MAX_AGE: must be positive")
}

func (c MailConfig) server() welcome.Server {
	return welcome.Server{
		Addr: c.SMTPAddr, Hello: c.MailHelo, TLS: c.MailTLS,
		CAFile: c.SMTPCAFile, CertFile: c.SMTPCertFile, KeyFile: c.SMTPKeyFile,
		Username: c.SMTPUsername, Password: c.SMTPPassword.Current,
	}
}
