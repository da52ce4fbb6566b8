package client

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/signup-saga/signup-saga/contract/wire"
)

// maxWork bounds the numbers that are tried for a challenge. A service that means to answer does not ask for
// more work.
const maxWork = 10_000_000

// Solve returns the value of the Challenge-Solution header, which can be used once. It computes MaxNumber/2
// hashes on average, or stops when the context ends.
func Solve(ctx context.Context, c wire.Challenge) (string, error) {
	if c.Algorithm != "SHA-256" || c.MaxNumber > maxWork {
		return "", fmt.Errorf("challenge of %s up to %d: not supported", c.Algorithm, c.MaxNumber)
	}
	want, err := hex.DecodeString(c.Challenge)
	if err != nil {
		return "", fmt.Errorf("challenge: %w", err)
	}
	for n := int64(0); n <= c.MaxNumber; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return "", ctx.Err()
		}
		if sum := sha256.Sum256(strconv.AppendInt([]byte(c.Salt), n, 10)); string(sum[:]) == string(want) {
			text, err := json.Marshal(wire.Solution{
				Algorithm: c.Algorithm, Challenge: c.Challenge, Number: n, Salt: c.Salt, Signature: c.Signature,
			})
			return base64.StdEncoding.EncodeToString(text), err
		}
	}
	return "", errors.New("the challenge has no solution")
}

type solutionKey struct{}

// WithSolution returns a context whose calls send this solution of a challenge, or none if it is "". Such calls
// do not solve a challenge themselves.
func WithSolution(ctx context.Context, solution string) context.Context {
	return context.WithValue(ctx, solutionKey{}, solution)
}

// work makes a call for which the service hashes a password. If the service is busy and answers with a
// challenge, work solves it and repeats the call once, with the solution.
func (c caller) work(ctx context.Context, r call) (http.Header, error) {
	solution, given := ctx.Value(solutionKey{}).(string)
	header, err := c.do(ctx, r.solved(solution))
	var refusal *wire.Problem
	if given || !errors.As(err, &refusal) || refusal.Challenge == nil {
		return header, err
	}
	solution, failed := Solve(ctx, *refusal.Challenge)
	if failed != nil {
		return header, err // the service's answer says more
	}
	return c.do(ctx, r.solved(solution))
}

func (r call) solved(solution string) call {
	if solution != "" {
		r.header = r.header.Clone()
		if r.header == nil {
			r.header = http.Header{}
		}
		r.header.Set("Challenge-Solution", solution)
	}
	return r
}
