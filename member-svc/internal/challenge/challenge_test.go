package challenge

import (
	cryptorand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
)

func solve(t *testing.T, c wire.Challenge) wire.Solution {
	t.Helper()
	for n := range c.MaxNumber + 1 {
		if hashOf(c.Salt, n) == c.Challenge {
			return wire.Solution{
				Algorithm: c.Algorithm, Challenge: c.Challenge, Number: n, Salt: c.Salt, Signature: c.Signature,
			}
		}
	}
	t.Fatal("the challenge has no solution")
	return wire.Solution{}
}

func payload(t *testing.T, s wire.Solution) string {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(text)
}

func TestSolutionCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := []byte("a secret of the service")
		i, replica := NewIssuer(secret), NewIssuer(secret)
		answer := payload(t, solve(t, i.Issue(1000)))
		for n, want := range []bool{true, false, false} {
			if got := i.Redeem(answer); got != want {
				t.Errorf("%d: %t", n+1, got)
			}
		}
		if !replica.Redeem(answer) {
			t.Error("another replica does not know the challenge")
		}
		<-time.After(Lifetime - time.Second) // just before it expires, in either generation of used challenges
		if i.Redeem(answer) {
			t.Error("a solution counts again")
		}
		late := payload(t, solve(t, i.Issue(1000)))
		<-time.After(Lifetime)
		if i.Redeem(late) {
			t.Error("an expired challenge counts")
		}
	})
}

func TestNothingElseIsASolution(t *testing.T) {
	i := NewIssuer([]byte("a secret of the service"))
	for name, change := range map[string]func(*wire.Solution){
		"another number":     func(s *wire.Solution) { s.Number++ },
		"another salt":       func(s *wire.Solution) { s.Salt = "0" + s.Salt },
		"another challenge":  func(s *wire.Solution) { s.Challenge = hashOf(s.Salt, s.Number+1); s.Number++ },
		"another signature":  func(s *wire.Solution) { s.Signature = strings.Repeat("0", 64) },
		"no signature":       func(s *wire.Solution) { s.Signature = "" },
		"another algorithm":  func(s *wire.Solution) { s.Algorithm = "SHA-1" },
		"no end of the time": func(s *wire.Solution) { s.Salt = strings.TrimSuffix(s.Salt, "&") },
		"a time that has digits of the number": func(s *wire.Solution) {
			s.Salt = strings.TrimSuffix(s.Salt, "&") + "9&"
		},
		"of somebody else": func(s *wire.Solution) { *s = solve(t, NewIssuer([]byte("another secret")).Issue(100)) },
	} {
		s := solve(t, i.Issue(100))
		change(&s)
		if i.Redeem(payload(t, s)) {
			t.Errorf("%s is accepted", name)
		}
	}
	for _, odd := range []string{"", "!", "e30=", "bnVsbA==", strings.Repeat("A", 1<<20)} {
		if i.Redeem(odd) {
			t.Errorf("%.20q is accepted", odd)
		}
	}
	if s := solve(t, i.Issue(100)); !i.Redeem(payload(t, s)) {
		t.Error("a solution is refused")
	}
}

// Memory is bounded, however many solutions arrive; the next lifetime has room again.
func TestUsedSolutionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := NewIssuer([]byte("a secret of the service"))
		for range maxUsed {
			i.first(cryptorand.Text(), time.Now())
		}
		answer := payload(t, solve(t, i.Issue(10)))
		if i.Redeem(answer) || len(i.used) != maxUsed {
			t.Errorf("%d are remembered", len(i.used))
		}
		<-time.After(Lifetime + time.Second)
		if !i.Redeem(payload(t, solve(t, i.Issue(10)))) {
			t.Error("nothing is accepted any more")
		}
	})
}

// The page's script can only hash a message of one block.
func TestSaltAndNumberFitOneBlock(t *testing.T) {
	c := NewIssuer(nil).Issue(Hardest)
	if n := len(c.Salt) + len("1000000"); n > 55 || c.MaxNumber >= 10_000_000 {
		t.Errorf("%d bytes", n)
	}
}
