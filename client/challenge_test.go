package client

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

func task(number, most int64) wire.Challenge {
	const salt = "a1b2c3?expires=1790000000&"
	sum := sha256.Sum256(fmt.Append(nil, salt, number))
	return wire.Challenge{
		Algorithm: "SHA-256", Challenge: hex.EncodeToString(sum[:]), MaxNumber: most, Salt: salt, Signature: "00ff",
	}
}

// pressed starts a busy service that requires a solution. It returns a client and the solutions that the
// service got.
func pressed(t *testing.T, c wire.Challenge) (*Public, *[]string) {
	t.Helper()
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		solution := r.Header.Get("Challenge-Solution")
		if got = append(got, solution); solution == "" {
			text, _ := json.Marshal(map[string]any{"code": "busy", "challenge": c})
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write(text)
			return
		}
		_, _ = io.WriteString(w, `{}`)
	}))
	t.Cleanup(server.Close)
	return NewPublic(server.URL, nil), &got
}

func TestClientSolvesTheChallenge(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, p *Public) error{
		"SignUp": func(ctx context.Context, p *Public) error {
			_, err := p.SignUp(ctx, wire.NewMember{}, "key")
			return err
		},
		"SignIn": func(ctx context.Context, p *Public) error { _, err := p.SignIn(ctx, "mina", "x"); return err },
		"Leave":  func(ctx context.Context, p *Public) error { _, err := p.Leave(ctx, "token", "x"); return err },
	} {
		p, got := pressed(t, task(4321, 5000))
		if err := call(t.Context(), p); err != nil || len(*got) != 2 {
			t.Errorf("%s: %v after %d requests", name, err, len(*got))
			continue
		}
		text, err := base64.StdEncoding.DecodeString((*got)[1])
		const want = `{"algorithm":"SHA-256","challenge":"`
		if err != nil || !strings.HasPrefix(string(text), want) || !strings.Contains(string(text), `"number":4321,`) {
			t.Errorf("%s: solution %s, %v", name, text, err)
		}
		var refusal *wire.Problem
		p, got = pressed(t, task(1, 10))
		err = call(WithSolution(t.Context(), ""), p)
		if !errors.As(err, &refusal) || refusal.Challenge == nil || len(*got) != 1 {
			t.Errorf("%s without work: %v", name, err)
		}
		p, got = pressed(t, task(1, 10))
		if err := call(WithSolution(t.Context(), "given"), p); err != nil || (*got)[0] != "given" {
			t.Errorf("%s with a solution: %v, %q", name, err, *got)
		}
	}
}

func TestSolvingIsBounded(t *testing.T) {
	unsolvable := task(20, 10)
	if _, err := Solve(t.Context(), unsolvable); err == nil {
		t.Error("a solution of an unsolvable challenge")
	}
	if _, err := Solve(t.Context(), task(1, maxWork+1)); err == nil {
		t.Error("no bound of the work")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := Solve(ctx, task(maxWork+1, maxWork)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	var refusal *wire.Problem
	p, got := pressed(t, unsolvable) // the service's own answer comes back
	_, err := p.SignIn(t.Context(), "mina", "x")
	if !errors.As(err, &refusal) || refusal.Code != "busy" || len(*got) != 1 {
		t.Errorf("%v", err)
	}
}
