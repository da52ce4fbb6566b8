package mail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"os"
	"slices"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/signup-saga/signup-saga/member-svc/internal/email"
)

// Values of [Server].TLS.
const (
	TLSOpportunistic = "opportunistic" // STARTTLS if the server offers it, with a valid certificate
	TLSRequired      = "required"      // STARTTLS, or no mail
	TLSImplicit      = "implicit"      // TLS from the first byte, RFC 8314
	TLSOff           = "off"
)

// TLSPolicies are the values of [Server].TLS.
var TLSPolicies = []string{TLSOpportunistic, TLSRequired, TLSImplicit, TLSOff}

// Server says how to reach the mail server. Its files and password are read again for each conversation.
type Server struct {
	Addr              string        // host:port
	Hello             string        // name for EHLO, see [CheckHello]; "" chooses one
	TLS               string        // one of [TLSPolicies]
	CAFile            string        // certificate authorities, PEM; "" for those of the system
	CertFile, KeyFile string        // client certificate, PEM; "" for none
	Username          string        // "" for no AUTH
	Password          func() string // called if there is a Username
}

// Timeouts of RFC 5321, section 4.5.3.2. Their sum for one mail is less than mailLease.
type timeouts struct{ command, end, stop, quit time.Duration }

var patience = timeouts{
	command: 5 * time.Minute,
	end:     10 * time.Minute, // after the text: giving up earlier causes duplicates
	stop:    5 * time.Second,  // for the conversation to end properly when this process is stopped
	quit:    2 * time.Second,
}

// session is one conversation with the mail server.
type session struct {
	client *smtp.Client
	wait   timeouts
	stop   func()
}

// connect starts a conversation: everything before the first mail.
func (m *Mailer) connect(ctx context.Context) (*session, *failure) {
	c, wait := m.cfg.Server, m.patience
	fail := func(at stage, err error) (*session, *failure) { return nil, newFailure(at, err, email.Address{}) }
	config, err := c.tlsConfig()
	if err != nil {
		return fail(stageTLS, err)
	}
	conn, err := m.dial(ctx, "tcp", c.Addr)
	if err != nil {
		return fail(stageConnect, err)
	}
	s := &session{wait: wait}
	unwatch := context.AfterFunc(ctx, func() { time.AfterFunc(wait.stop, func() { _ = conn.Close() }) })
	s.stop = func() { unwatch(); _ = conn.Close() }
	if at, err := s.begin(c, conn, config); err != nil {
		s.stop()
		return fail(at, err)
	}
	return s, nil
}

// begin does the greeting, EHLO, TLS and AUTH. If it fails, it returns the stage that failed.
func (s *session) begin(c Server, conn net.Conn, config *tls.Config) (stage, error) {
	if err := conn.SetDeadline(time.Now().Add(s.wait.command)); err != nil {
		return stageConnect, err
	}
	if c.TLS == TLSImplicit {
		secured := tls.Client(conn, config)
		if err := secured.Handshake(); err != nil {
			return stageTLS, err
		}
		conn = secured
	}
	var err error
	if s.client, err = smtp.NewClient(conn, config.ServerName); err != nil {
		return stageGreeting, err
	}
	if err = s.step(s.wait.command, func() error { return s.client.Hello(c.hello(conn)) }); err != nil {
		return stageHello, err
	}
	if err = s.startTLS(c, config); err != nil {
		return stageTLS, err
	}
	if c.Username != "" {
		return stageAuth, s.authenticate(c, conn)
	}
	return "", nil
}

// step runs one step of the conversation with a deadline.
func (s *session) step(d time.Duration, do func() error) error {
	if err := s.client.UpdateDeadline(d); err != nil {
		return err
	}
	return do()
}

func (s *session) startTLS(c Server, config *tls.Config) error {
	if c.TLS != TLSOpportunistic && c.TLS != TLSRequired {
		return nil
	}
	offered, _ := s.client.Extension("STARTTLS")
	switch {
	case offered:
		return s.step(s.wait.command, func() error { return s.client.StartTLS(config) })
	case c.TLS == TLSRequired:
		return errors.New("the server does not offer it, and MAIL_TLS requires it")
	default:
		return nil
	}
}

// mechanisms are the supported AUTH mechanisms, the best one first.
var mechanisms = []struct {
	name string
	with func(user, password, host string) smtp.Auth
}{
	{"SCRAM-SHA-256", func(user, password, _ string) smtp.Auth { return smtp.ScramSHA256Auth(user, password) }},
	{"SCRAM-SHA-1", func(user, password, _ string) smtp.Auth { return smtp.ScramSHA1Auth(user, password) }},
	{"PLAIN", func(user, password, host string) smtp.Auth { return smtp.PlainAuth("", user, password, host, true) }},
	{"LOGIN", func(user, password, host string) smtp.Auth { return smtp.LoginAuth(user, password, host, true) }},
}

// authenticate sends the password only over TLS or to a server on this machine.
func (s *session) authenticate(c Server, conn net.Conn) error {
	if _, secured := s.client.TLSConnectionState(); !secured && !loopback(conn.RemoteAddr()) {
		return errors.New("the server offers no TLS, and the password is not sent without it")
	}
	_, offered := s.client.Extension("AUTH")
	host, _, _ := net.SplitHostPort(c.Addr)
	for _, m := range mechanisms {
		if slices.Contains(strings.Fields(strings.ToUpper(offered)), m.name) {
			return s.step(s.wait.command, func() error { return s.client.Auth(m.with(c.Username, c.Password(), host)) })
		}
	}
	return fmt.Errorf("the server offers %q, none of which this service speaks", offered)
}

// deliver offers one mail to the server.
func (s *session) deliver(from sender, to email.Address, id string) *failure {
	fail := func(at stage, err error) *failure { return newFailure(at, err, to) }
	if offered, _ := s.client.Extension("SMTPUTF8"); !offered && !to.ASCII() {
		const refused = "the address needs SMTPUTF8, which the mail server does not offer"
		return &failure{stage: stageRcpt, code: 553, text: "5.6.7 " + refused}
	}
	text, err := from.compose(to, id)
	if err != nil {
		return &failure{stage: stageRcpt, code: 553, text: "5.1.3 the address cannot be written into a mail"}
	}
	s.client.SkipSMTPUTF8(to.ASCII())
	command := s.wait.command
	err = s.step(command, func() error { return taken(s.client.Mail("<" + from.address.String() + ">")) })
	if err != nil {
		f := fail(stageMail, err)
		f.ours = to.ASCII() // else the command asks for SMTPUTF8
		return s.after(f)
	}
	err = s.step(command, func() error { return taken(s.client.Rcpt("<" + to.String() + ">")) })
	if err != nil {
		return s.after(fail(stageRcpt, err))
	}
	if err := s.client.UpdateDeadline(command); err != nil {
		return fail(stageData, err)
	}
	w, err := s.client.Data()
	if err != nil {
		return s.after(fail(stageData, err))
	}
	if _, err := text.WriteTo(w); err != nil {
		return fail(stageData, err) // the server does not accept a text without its end
	}
	if err := s.step(s.wait.end, func() error { return taken(w.Close()) }); err != nil {
		return s.after(fail(stageEnd, err))
	}
	return nil
}

// after makes the conversation ready for the next mail, if the server still talks to us.
func (s *session) after(f *failure) *failure {
	if !f.ends() {
		_ = s.step(s.wait.command, s.client.Reset) // if Reset fails, so does the next MAIL
	}
	return f
}

func (s *session) close() {
	_ = s.step(s.wait.quit, s.client.Quit)
	s.stop()
}

// sender is the sender of the mails.
type sender struct {
	name    string
	address email.Address
}

// CheckSender accepts an address, or a name with an address in angle brackets. The domain may be a single label.
func CheckSender(from string) error {
	_, err := parseSender(from)
	return err
}

func parseSender(from string) (sender, error) {
	bad := errors.New("not an address as in welcome@example.org or Example <welcome@example.org>")
	a, err := netmail.ParseAddress(from)
	if err != nil {
		return sender{}, bad
	}
	local, host, _ := strings.Cut(a.Address, "@")
	known, err := email.Parse(local + "@example.org")
	if err != nil || !known.ASCII() {
		return sender{}, bad
	}
	domain, err := email.Domain(host)
	if err != nil {
		return sender{}, bad
	}
	return sender{a.Name, email.Address{Local: local, Domain: domain}}, nil
}

// compose returns the welcome mail. The only part of it that strangers can choose is the recipient's address.
func (f sender) compose(to email.Address, id string) (*gomail.Msg, error) {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.SetMessageIDWithValue(id + "@" + f.address.Domain) // the same for every copy
	msg.SetDate()
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no replies from people on holiday
	msg.Subject("Welcome")
	msg.SetBodyString(gomail.TypeTextPlain, `Welcome!

Your storage is being set up; it will be there when you sign in.

If you did not sign up, somebody typed your address by mistake.
You do not have to do anything.
`)
	return msg, errors.Join(msg.FromFormat(f.name, f.address.String()), msg.To(to.String()))
}

// CheckHello accepts a host name, or an address literal as in [192.0.2.1] or [IPv6:2001:db8::1].
func CheckHello(name string) error {
	if literal, ok := strings.CutPrefix(name, "["); ok {
		address, closed := strings.CutSuffix(literal, "]")
		six, tagged := strings.CutPrefix(address, "IPv6:")
		if ip := net.ParseIP(six); closed && ip != nil && tagged == (ip.To4() == nil) {
			return nil
		}
	} else if domain, err := email.Domain(name); err == nil && strings.EqualFold(domain, name) {
		return nil
	}
	return errors.New("not a host name, nor an address as in [192.0.2.1]")
}

// hello returns our name for EHLO: the configured one, else the host's name if it is a full one, else our
// address.
func (c Server) hello(conn net.Conn) string {
	if c.Hello != "" {
		return c.Hello
	}
	if name, err := os.Hostname(); err == nil && fullName(name) {
		return name
	}
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	host, _, _ = strings.Cut(host, "%") // the zone of a link-local address
	if ip := net.ParseIP(host); ip.To4() == nil {
		return "[IPv6:" + host + "]"
	}
	return "[" + host + "]"
}

// fullName reports whether others may take name for the name of a machine in the DNS.
func fullName(name string) bool {
	return CheckHello(name) == nil && strings.Contains(name, ".") && !strings.HasPrefix(name, "[") &&
		!strings.HasSuffix(name, ".localdomain") && !strings.HasSuffix(name, ".local")
}

func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// tlsConfig returns the TLS configuration, which checks the server's certificate against its name in Addr.
func (c Server) tlsConfig() (*tls.Config, error) {
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("SMTP_CA_FILE: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("SMTP_CA_FILE holds no certificate")
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("SMTP_CERT_FILE, SMTP_KEY_FILE: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
