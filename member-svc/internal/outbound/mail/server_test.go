package mail_test

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Values of a script that are not answers.
const (
	hangUp = "hang up"
	silent = "silent" // until the client disconnects
)

// server is a mail server that speaks real SMTP and answers as its script says.
type server struct {
	t          *testing.T
	addr       string
	extensions []string    // after EHLO; STARTTLS is added if there is a certificate
	tls        *tls.Config // nil: no TLS
	implicit   bool

	mu       sync.Mutex
	script   func(command string) string // "" gives the usual answer; "greeting" and "." are commands, too
	commands []string
	mails    []string // the recipient's line, and the text
	texts    []string // texts received, whether they were accepted or not
	greeted  int
}

func newServer(t *testing.T, addr string, script func(string) string) *server {
	t.Helper()
	return (&server{t: t, script: script, extensions: []string{"8BITMIME", "ENHANCEDSTATUSCODES"}}).listen(addr)
}

func (s *server) listen(addr string) *server {
	s.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { s.talk(conn) })
		}
	})
	s.t.Cleanup(func() { _ = l.Close(); conns.Wait() })
	return s
}

// say answers a command as the script says, and reports whether the conversation continues.
func (s *server) say(conn net.Conn, r *bufio.Reader, command, otherwise string) (answer string, ok bool) {
	s.mu.Lock()
	s.commands = append(s.commands, command)
	script := s.script
	s.mu.Unlock()
	if script != nil {
		answer = script(command)
	}
	switch answer {
	case "":
		answer = otherwise
	case hangUp:
		return answer, false
	case silent:
		_, _ = r.ReadByte()
		return answer, false
	}
	_, err := fmt.Fprintf(conn, "%s\r\n", strings.ReplaceAll(answer, "\n", "\r\n"))
	return answer, err == nil && !strings.HasPrefix(answer, "421")
}

func (s *server) talk(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if s.implicit {
		conn = tls.Server(conn, s.tls)
	}
	r := bufio.NewReader(conn)
	s.mu.Lock()
	s.greeted++
	s.mu.Unlock()
	if _, ok := s.say(conn, r, "greeting", "220 mail.example.org ESMTP"); !ok {
		return
	}
	to, secured := "", s.implicit
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		otherwise := map[string]string{
			"QUIT": "221 bye", "DATA": "354 go on", "STARTTLS": "220 go on", "AUTH": "504 unknown mechanism",
		}[verb]
		switch verb {
		case "EHLO":
			lines := append([]string{"mail.example.org"}, s.extensions...)
			if s.tls != nil && !secured {
				lines = append(lines, "STARTTLS")
			}
			last := len(lines) - 1
			for _, l := range lines[:last] {
				otherwise += "250-" + l + "\n"
			}
			otherwise += "250 " + lines[last]
		case "RCPT":
			to = line
		}
		if otherwise == "" {
			otherwise = "250 2.0.0 fine"
		}
		answer, ok := s.say(conn, r, line, otherwise)
		if !ok || verb == "QUIT" {
			return
		}
		switch {
		case verb == "STARTTLS" && strings.HasPrefix(answer, "220"):
			conn = tls.Server(conn, s.tls)
			r = bufio.NewReader(conn)
			secured = true
		case verb == "DATA" && strings.HasPrefix(answer, "354"):
			if !s.take(conn, r, to) {
				return
			}
		}
	}
}

// take reads a text up to its end.
func (s *server) take(conn net.Conn, r *bufio.Reader, to string) bool {
	var text strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		text.WriteString(line)
	}
	s.mu.Lock()
	s.texts = append(s.texts, text.String())
	s.mu.Unlock()
	answer, ok := s.say(conn, r, ".", "250 2.0.0 taken")
	if ok && strings.HasPrefix(answer, "250") {
		s.mu.Lock()
		s.mails = append(s.mails, to+"\n"+text.String())
		s.mu.Unlock()
	}
	return ok
}

// answer changes the script.
func (s *server) answer(script func(command string) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

func (s *server) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// copies returns the texts received, whether they were accepted or not.
func (s *server) copies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.texts)
}

func (s *server) greetings() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.greeted
}

// said returns the received commands that begin with a verb.
func (s *server) said(verb string) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.commands {
		if strings.HasPrefix(c, verb) {
			found = append(found, c)
		}
	}
	return found
}

// to returns a script that answers one verb.
func to(verb, answer string) func(string) string {
	return func(command string) string {
		if strings.HasPrefix(command, verb) {
			return answer
		}
		return ""
	}
}

func encoded(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
