package signup

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/member-svc/internal/store"
)

// fingerprintVersion is the first byte of fingerprints that leave the password out. Version 1 had no such byte
// and was the HMAC of the whole body: anyone with the secret and the database could try passwords against it at
// the speed of SHA-256.
const fingerprintVersion = 2

// fingerprint identifies a request without its password. It is keyed, because the body holds personal data.
func (s *Service) fingerprint(r wire.NewMember) []byte {
	r.Password = ""
	return append([]byte{fingerprintVersion}, s.mac("fingerprint 2\x00", r)...)
}

// sameRequest reports whether r is the request that created the member. It checks the password against the
// member's hash, in a turn of the queue, as a sign-in does.
func (s *Service) sameRequest(ctx context.Context, r wire.NewMember, known store.Known) (bool, error) {
	if len(known.Fingerprint) == sha256.Size { // version 1: an older replica wrote it in the last 24 hours
		return hmac.Equal(known.Fingerprint, s.mac("", r)), nil
	}
	if !hmac.Equal(known.Fingerprint, s.fingerprint(r)) {
		return false, nil
	}
	same, _, err := s.hasher.Verify(ctx, known.PasswordHash, r.Password)
	return same, err
}

func (s *Service) mac(prefix string, r wire.NewMember) []byte {
	body, _ := json.Marshal(r) // strings always encode; check has filled in the defaults
	h := hmac.New(sha256.New, s.cfg.Secret)
	h.Write([]byte(prefix))
	h.Write(body)
	return h.Sum(nil)
}
