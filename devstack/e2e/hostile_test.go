package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// harass sends hostile requests while others sign up. Each of them that is answered must be refused.
func (w *world) harass() error {
	const (
		slow      = 50        // connections that send a byte now and then
		parallel  = 100       // concurrent passwords to hash, all too weak or too late
		huge      = 256 << 20 // bytes that the service should not read to the end
		memoryCap = 256 << 20
	)
	target := strings.TrimPrefix(w.env["MEMBER_URL"], "http://")
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range slow {
		w.plan("hostile slow connection", 1)
		all.Go(func() {
			if conn, err := net.DialTimeout("tcp", target, time.Second); err == nil {
				dribble(conn, 50*time.Millisecond, stop)
				w.fired("hostile slow connection")
			}
		})
	}
	errs := w.nonsense()
	w.plan("hostile huge body", 1)
	read := &counted{Reader: io.LimitReader(endless{}, huge)}
	status, err := post("", w.env["MEMBER_URL"]+"/v1/members", read)
	if read.n.Load() >= huge/2 || err == nil && status != http.StatusRequestEntityTooLarge {
		errs = append(errs, fmt.Errorf("%d bytes of a huge body were taken, %d, %w", read.n.Load(), status, err))
	}
	w.fired("hostile huge body")
	w.plan("hostile password tried", parallel)
	var tried sync.WaitGroup
	for i := range parallel {
		tried.Go(func() {
			body := fmt.Sprintf(`{"username":"nobody%d","password":"a long enough password"}`, i)
			if status, err := post("", w.env["MEMBER_URL"]+"/v1/sessions", strings.NewReader(body)); err == nil &&
				status >= 400 {
				w.fired("hostile password tried")
			}
		})
	}
	tried.Wait()
	<-time.After(2 * time.Second) // the slow ones continue
	close(stop)
	all.Wait()
	return errors.Join(append(errs, w.unharmed(memoryCap))...)
}

// malformed holds request bodies that are not valid signups.
var malformed = map[string]string{
	"duplicate key": `{"username":"eve","username":"mallory","password":"a long enough password"}`,
	"bad UTF-8":     "{\"username\":\"\xff\xfe\",\"password\":\"a long enough password\"}",
	"second value":  `{"username":"eve","password":"a long enough password"} {}`,
	"deep nesting":  strings.Repeat("[", 4000),
	"deep object":   strings.Repeat(`{"username":`, 600),
	"wrong type":    `{"username":{},"password":[]}`,
	"nothing":       "",
}

// nonsense sends the malformed bodies.
func (w *world) nonsense() []error {
	const times = 20
	var errs []error
	for name, body := range malformed {
		kind := "hostile " + name
		w.plan(kind, times)
		for range times {
			status, err := post("", w.env["MEMBER_URL"]+"/v1/members", strings.NewReader(body))
			if err != nil || status < 400 || status >= 500 {
				errs = append(errs, fmt.Errorf("%s: %d, %w", name, status, err))
			}
			w.fired(kind)
		}
	}
	return errs
}

// unharmed checks the logs for panics, and the memory of the member services.
func (w *world) unharmed(memoryCap float64) error {
	for _, replica := range members {
		text, err := os.ReadFile(filepath.Join(w.dir, "log", replica+".log"))
		if err != nil {
			return err
		}
		if i := bytes.Index(text, []byte("panic")); i >= 0 {
			return fmt.Errorf("%s: %.300s", replica, text[i:])
		}
	}
	found := regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`).FindStringSubmatch(
		metrics(w.t, w.env["ADMIN_URL"]))
	if found == nil {
		return errors.New("the member service does not tell its memory")
	}
	size, err := strconv.ParseFloat(found[1], 64)
	if err == nil && size > memoryCap {
		err = fmt.Errorf("the member service has %.0f MB", size/(1<<20))
	}
	return err
}

// dribble begins a request and never completes it: it sends a byte after each pace until the service closes the
// connection.
func dribble(conn net.Conn, pace time.Duration, stop <-chan struct{}) {
	defer conn.Close()
	for _, b := range []byte(
		"POST /v1/members HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 7000\r\n\r\n") {
		if _, err := conn.Write([]byte{b}); err != nil {
			return
		}
		select {
		case <-stop:
			return
		case <-time.After(pace):
		}
	}
}

// dialer makes connections from a given address of this machine, or from any address for "".
func dialer(from string) *net.Dialer {
	return &net.Dialer{Timeout: oneTry, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
}

// post sends JSON on a new connection from an address; see dialer.
func post(from, url string, body io.Reader) (int, error) {
	client := &http.Client{Timeout: 2 * oneTry, Transport: &http.Transport{DialContext: dialer(from).DialContext}}
	defer client.CloseIdleConnections()
	resp, err := client.Post(url, "application/json", body)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// endless is an infinite body of spaces.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// counted counts the bytes read from a reader.
type counted struct {
	io.Reader
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}
