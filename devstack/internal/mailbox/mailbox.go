// Package mailbox is a mail server for development: it accepts every mail, shows the latest ones over HTTP, and
// delivers none.
package mailbox

import (
	"cmp"
	"encoding/json"
	"html/template"
	"io"
	"mime"
	"net/http"
	"net/mail"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Capacity is how many mails are kept. When it is reached, each new mail replaces the oldest.
const Capacity = 1000

// Message is one received mail. Its body is not kept.
type Message struct {
	From      string    `json:"from"`
	To        []string  `json:"to"`
	Subject   string    `json:"subject"`
	MessageID string    `json:"message_id"`
	At        time.Time `json:"at"`
}

// Mailbox keeps the latest mails in memory. The zero value is empty and ready; it is safe for concurrent use.
type Mailbox struct {
	mu       sync.Mutex
	received int
	kept     []Message // a ring once it holds Capacity mails; received%Capacity is then the oldest
}

// Add adds a mail, in place of the oldest one if Capacity is reached.
func (b *Mailbox) Add(m Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) < Capacity {
		b.kept = append(b.kept, m)
	} else {
		b.kept[b.received%Capacity] = m
	}
	b.received++
}

// Messages returns how many mails have been received since the start, and those that are kept, oldest first.
func (b *Mailbox) Messages() (received int, kept []Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	oldest := 0
	if len(b.kept) == Capacity {
		oldest = b.received % Capacity
	}
	kept = append([]Message{}, b.kept[oldest:]...)
	return b.received, append(kept, b.kept[:oldest]...)
}

// ServeHTTP shows the mails: a page at /, JSON at /api/messages.
func (b *Mailbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	received, kept := b.Messages()
	switch r.URL.Path {
	case "/":
		slices.Reverse(kept)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = page.Execute(w, map[string]any{"Received": received, "Kept": kept}) // the client has disconnected
	case "/api/messages":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(struct {
			Count    int       `json:"count"`
			Messages []Message `json:"messages"`
		}{received, kept})
	default:
		http.NotFound(w, r)
	}
}

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Mails</title>
<style>body{font:15px system-ui;margin:2rem}td,th{padding:.2rem 1rem .2rem 0;text-align:left}</style></head>
<body><h1>{{.Received}} mails</h1><table><tr><th>At</th><th>To</th><th>Subject</th></tr>
{{range .Kept}}<tr><td>{{.At.Format "15:04:05.000"}}</td><td>{{range .To}}{{.}} {{end}}</td><td>{{.Subject}}</td></tr>
{{end}}</table></body></html>
`))

// NewSMTPServer returns an SMTP server that delivers to the mailbox.
func NewSMTPServer(b *Mailbox) *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{box: b}, nil }))
	s.Domain = "localhost"
	s.MaxMessageBytes = 1 << 20
	s.MaxRecipients = 100
	s.ReadTimeout, s.WriteTimeout = time.Minute, time.Minute
	return s
}

// session is one SMTP conversation.
type session struct {
	box  *Mailbox
	from string
	to   []string
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	m, err := mail.ReadMessage(r)
	if err != nil {
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "this is not a mail"}
	}
	if _, err := io.Copy(io.Discard, m.Body); err != nil {
		return err
	}
	subject := m.Header.Get("Subject")
	decoded, err := new(mime.WordDecoder).DecodeHeader(subject)
	if err != nil {
		decoded = subject
	}
	s.box.Add(Message{
		From: s.from, To: s.to, Subject: cmp.Or(decoded, "(no subject)"), MessageID: m.Header.Get("Message-Id"),
		At: time.Now().UTC(),
	})
	return nil
}

func (s *session) Reset()        { s.from, s.to = "", nil }
func (s *session) Logout() error { return nil }
