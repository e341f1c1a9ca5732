// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A probe counts the public-key operations that an operation costs, and with them
// tells how far a refused message got.
type probe struct {
	core.SuiteSource
	verified atomic.Int64 // signatures
	opened   atomic.Int64 // HPKE ciphertexts
	sealed   atomic.Int64
	atOnce   atomic.Int64  // signatures being verified now
	most     atomic.Int64  // signatures that were verified at once
	pause    time.Duration // that a signature takes longer
}

func newProbe() *probe { return &probe{SuiteSource: provider} }

func (p *probe) reset() { p.verified.Store(0); p.opened.Store(0); p.sealed.Store(0); p.most.Store(0) }

func (p *probe) Suite(id core.SuiteID) (core.Suite, error) {
	s, err := p.SuiteSource.Suite(id)
	return probeSuite{s, p}, err
}

type probeSuite struct {
	core.Suite
	*probe
}

func (s probeSuite) Verify(public, message, signature []byte) error {
	now := s.atOnce.Add(1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	defer s.atOnce.Add(-1)
	s.verified.Add(1)
	time.Sleep(s.pause)
	return s.Suite.Verify(public, message, signature)
}

func (s probeSuite) Sealer(info []byte) core.Sealer {
	return probeSealer{s.Suite.Sealer(info), s.probe}
}

type probeSealer struct {
	core.Sealer
	*probe
}

func (s probeSealer) Seal(public, aad, plaintext []byte) (core.HPKECiphertext, error) {
	s.sealed.Add(1)
	return s.Sealer.Seal(public, aad, plaintext)
}

func (s probeSuite) Recipient(key core.PrivateKey) (core.Recipient, error) {
	r, err := s.Suite.Recipient(key)
	return probeRecipient{r, s.probe}, err
}

type probeRecipient struct {
	core.Recipient
	*probe
}

func (r probeRecipient) Open(ctx context.Context, info, aad []byte, ct core.HPKECiphertext) ([]byte, error) {
	r.opened.Add(1)
	return r.Recipient.Open(ctx, info, aad, ct)
}

// processWith processes a message of a member's stored group with the probe's
// suites, and changes nothing.
func (p *probe) processWith(m *member, message []byte) (mls.Processed, error) {
	g, err := mls.Load(p, m.stored[mls.RecordHeader][0].Value)
	if err != nil {
		return nil, err
	}
	msg, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	env := m.env()
	env.Suites = p
	p.reset()
	_, result, _, err := g.Process(m.t.Context(), env, msg)
	return result, err
}
