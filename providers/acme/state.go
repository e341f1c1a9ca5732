// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"bytes"
	"encoding/asn1"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// needed is what a state waits for.
type needed int

const (
	needNonce needed = iota + 1
	needAccess
	needVisit
	needWait
	needSign
)

// A state is where an enrolment is.
type state struct {
	enrollment *e2ei.Enrollment
	need       needed
	token      string // for the challenge that is next
	login      login  // the last one, if its issuer is not ""
	grant      []byte // by which that login is remembered, until it is stored
	stale      bool   // the refresh token is refused
	provider   string // that gave it
	signature  []byte // of the request, or of the revocation
	sent       bool   // the request for the certificate was taken
	renewed    bool   // the order is the second one
	tries      int    // how often a server was waited for
	proofs     int    // how often the backend refused one

	revoke [][]byte // what is to be revoked, and its chain
	nonce  string   // in what is to be signed for that
}

// stateVersion is in each state: one for each layout there was.
const stateVersion = 1

// maxState is the longest state that is read, in bytes. Those that are written are shorter.
const maxState = core.MaxValue / 2

// A record is a state in DER.
type record struct {
	Version, Need int
	Stash         []byte
	Token         string `asn1:"utf8"`
	Login         login
	Grant         []byte
	Stale         bool
	Provider      string `asn1:"utf8"`
	Signature     []byte
	Sent, Renewed bool
	Tries, Proofs int
	Revoke        [][]byte
	Nonce         string `asn1:"utf8"`
}

func (s *state) encode() ([]byte, error) {
	stash, err := s.enrollment.Stash()
	if err != nil {
		return nil, err
	}
	defer stash.Wipe()
	b, err := asn1.Marshal(record{
		stateVersion, int(s.need), stash.Bytes(), s.token, s.login, s.grant, s.stale, s.provider, s.signature, s.sent, s.renewed, s.tries, s.proofs,
		s.revoke, s.nonce,
	})
	if err != nil || len(b) > maxState {
		return nil, fmt.Errorf("state of %d bytes: %w", len(b), core.ErrTooLarge)
	}
	return b, nil
}

// open reads a state. ErrInvalid: it is none, or of an issuer for another server.
func (i *Issuer) open(b []byte) (*state, error) {
	s, err := i.decode(b)
	if err != nil {
		return nil, fmt.Errorf("state of %d bytes: %w: %w", len(b), core.ErrInvalid, err)
	}
	return s, nil
}

func (i *Issuer) decode(b []byte) (*state, error) {
	var r record
	if len(b) > maxState {
		return nil, core.ErrTooLarge
	}
	if _, err := asn1.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	if again, err := asn1.Marshal(r); err != nil || !bytes.Equal(again, b) || r.Version != stateVersion ||
		r.Tries < 0 || r.Tries > maxTries || r.Proofs < 0 || r.Proofs > maxProofs {
		return nil, e2ei.ErrMalformed
	}
	if len(r.Revoke) == 0 {
		r.Revoke = nil
	}
	e, err := e2ei.Pop(r.Stash)
	clear(r.Stash)
	if err != nil {
		return nil, err
	}
	s := &state{
		e, needed(r.Need), r.Token, r.Login, orNil(r.Grant), r.Stale, r.Provider, orNil(r.Signature), r.Sent, r.Renewed, r.Tries, r.Proofs,
		r.Revoke, r.Nonce,
	}
	if err := i.fits(s); err != nil {
		s.wipe()
		return nil, err
	}
	return s, nil
}

// orNil: empty and absent mean the same.
func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// fits says whether the parts of a state belong together, and to this issuer.
func (i *Issuer) fits(s *state) error {
	c, next := s.enrollment.Config(), s.enrollment.Next()
	ok := false
	switch s.need {
	case needNonce, needAccess:
		ok = next == e2ei.StepDPoPChallenge && s.token == ""
	case needVisit:
		ok = next == e2ei.StepOIDCChallenge && s.login.Verifier != "" && s.token == ""
	case needSign:
		ok = s.signature == nil && (next == e2ei.StepFinalize || s.revoke != nil)
	case needWait:
		ok = true
	}
	if !ok || c.Directory != i.cfg.Directory || c.AllowHTTP && !i.cfg.AllowHTTP {
		return e2ei.ErrMalformed
	}
	if s.login.Issuer != "" {
		if err := i.checkAddress(s.login.Token); err != nil {
			return err
		}
	}
	if s.signature != nil {
		return s.checkSignature()
	}
	return nil
}

func (s *state) wipe() {
	if s.enrollment != nil {
		s.enrollment.Wipe()
	}
}

// again begins another order, with another account, for the same key.
func (s *state) again() error {
	e, err := e2ei.New(s.enrollment.Config())
	if err != nil {
		return err
	}
	s.wipe()
	*s = state{enrollment: e, provider: s.provider, renewed: true, tries: s.tries, proofs: s.proofs}
	return nil
}
