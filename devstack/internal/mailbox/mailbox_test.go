package mailbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"net/smtp"
	"strings"
	"testing"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/signup-saga/signup-saga/devstack/internal/mailbox"
)

func TestMailboxKeepsOnlyTheLatest(t *testing.T) {
	var box mailbox.Mailbox
	const sent = 2*mailbox.Capacity + 7
	for i := range sent {
		box.Add(mailbox.Message{Subject: fmt.Sprint(i)})
	}
	received, kept := box.Messages()
	if received != sent || len(kept) != mailbox.Capacity {
		t.Fatalf("received %d, kept %d; want %d and %d", received, len(kept), sent, mailbox.Capacity)
	}
	for i, m := range kept {
		if want := fmt.Sprint(sent - mailbox.Capacity + i); m.Subject != want {
			t.Fatalf("mail %d is %s, want %s", i, m.Subject, want)
		}
	}
}

func TestAMailSentIsShown(t *testing.T) {
	var box mailbox.Mailbox
	server := mailbox.NewSMTPServer(&box)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; err != nil && !errors.Is(err, gosmtp.ErrServerClosed) {
			t.Error(err)
		}
	})
	text := "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <1@localhost>\r\n\r\nWelcome\r\n"
	if err := smtp.SendMail(listener.Addr().String(), nil, "welcome@localhost", []string{"mina@example.org"},
		[]byte(text)); err != nil {
		t.Fatal(err)
	}

	answer := httptest.NewRecorder()
	box.ServeHTTP(answer, httptest.NewRequest("GET", "/api/messages", nil))
	var got struct {
		Count    int
		Messages []mailbox.Message
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Count != 1 || len(got.Messages) != 1 {
		t.Fatalf("got %s", answer.Body)
	}
	m := got.Messages[0]
	if m.From != "welcome@localhost" || m.To[0] != "mina@example.org" || m.Subject != "Grüße" ||
		m.MessageID != "<1@localhost>" || m.At.IsZero() {
		t.Errorf("got %+v", m)
	}
	answer = httptest.NewRecorder()
	box.ServeHTTP(answer, httptest.NewRequest("GET", "/", nil))
	if !strings.Contains(answer.Body.String(), "Grüße") {
		t.Errorf("the page does not show the mail: %s", answer.Body)
	}
}

func TestAnEmptyMailboxIsAnEmptyList(t *testing.T) {
	var box mailbox.Mailbox
	answer := httptest.NewRecorder()
	box.ServeHTTP(answer, httptest.NewRequest("GET", "/api/messages", nil))
	if got := strings.TrimSpace(answer.Body.String()); got != `{"count":0,"messages":[]}` {
		t.Errorf("got %s", got)
	}
}
