package challenge

import (
	cryptorand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func solve(t *testing.T, c Challenge) solution {
	t.Helper()
	for n := range c.MaxNumber + 1 {
		if hashOf(c.Salt, n) == c.Challenge {
			return solution{c.Algorithm, c.Challenge, n, c.Salt, c.Signature}
		}
	}
	t.Fatal("the challenge has no solution")
	return solution{}
}

func (s solution) payload(t *testing.T) string {
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
		payload := solve(t, i.Issue(1000)).payload(t)
		for n, want := range []bool{true, false, false} {
			if got := i.Redeem(payload); got != want {
				t.Errorf("%d: %t", n+1, got)
			}
		}
		if !replica.Redeem(payload) {
			t.Error("another replica does not know the challenge")
		}
		<-time.After(Lifetime - time.Second) // before it expires, in whatever generation it is remembered
		if i.Redeem(payload) {
			t.Error("a solution counts again")
		}
		late := solve(t, i.Issue(1000)).payload(t)
		<-time.After(Lifetime)
		if i.Redeem(late) {
			t.Error("an expired challenge counts")
		}
	})
}

func TestNothingElseIsASolution(t *testing.T) {
	i := NewIssuer([]byte("a secret of the service"))
	for name, change := range map[string]func(*solution){
		"another number":     func(s *solution) { s.Number++ },
		"another salt":       func(s *solution) { s.Salt = "0" + s.Salt },
		"another challenge":  func(s *solution) { s.Challenge = hashOf(s.Salt, s.Number+1); s.Number++ },
		"another signature":  func(s *solution) { s.Signature = strings.Repeat("0", 64) },
		"no signature":       func(s *solution) { s.Signature = "" },
		"another algorithm":  func(s *solution) { s.Algorithm = "SHA-1" },
		"no end of the time": func(s *solution) { s.Salt = strings.TrimSuffix(s.Salt, "&") },
		"a time that has digits of the number": func(s *solution) {
			s.Salt = strings.TrimSuffix(s.Salt, "&") + "9&"
		},
		"of somebody else": func(s *solution) { *s = solve(t, NewIssuer([]byte("another secret")).Issue(100)) },
	} {
		s := solve(t, i.Issue(100))
		change(&s)
		if i.Redeem(s.payload(t)) {
			t.Errorf("%s is accepted", name)
		}
	}
	for _, payload := range []string{"", "!", "e30=", "bnVsbA==", strings.Repeat("A", 1<<20)} {
		if i.Redeem(payload) {
			t.Errorf("%.20q is accepted", payload)
		}
	}
	if s := solve(t, i.Issue(100)); !i.Redeem(s.payload(t)) {
		t.Error("a solution is refused")
	}
}

// However many solutions there are, memory is bounded; the next lifetime has room again.
func TestUsedSolutionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := NewIssuer([]byte("a secret of the service"))
		for range maxUsed {
			i.first(cryptorand.Text(), time.Now())
		}
		payload := solve(t, i.Issue(10)).payload(t)
		if i.Redeem(payload) || len(i.used) != maxUsed {
			t.Errorf("%d are remembered", len(i.used))
		}
		<-time.After(Lifetime + time.Second)
		if !i.Redeem(solve(t, i.Issue(10)).payload(t)) {
			t.Error("nothing is accepted any more")
		}
	})
}

// A message of one block is all that the page's script can hash.
func TestSaltAndNumberFitOneBlock(t *testing.T) {
	c := NewIssuer(nil).Issue(Hardest)
	if n := len(c.Salt) + len("1000000"); n > 55 || c.MaxNumber >= 10_000_000 {
		t.Errorf("%d bytes", n)
	}
}
