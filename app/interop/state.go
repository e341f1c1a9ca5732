// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"crypto/sha256"

	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// A state is one member's view of one group, in whatever epoch it is.
type state struct {
	member
	group   *mls.Group
	records records
	pending *mls.PendingCommit

	// The proposals of this epoch, own ones included, by the hash of their message:
	// a driver hands them over again and again, and a key opens only once.
	seen map[[sha256.Size]byte]mls.ProposalRef
}

// keptEpochs is how far back messages open and resumption keys are known.
const keptEpochs = 32

// config is our choice for a group. What others send is taken in either form, and
// when application messages are sent is for the driver to say.
func config(encryptHandshake bool) mls.Config {
	c := mls.DefaultConfig
	c.Handshake = mls.HandshakePublic
	if encryptHandshake {
		c.Handshake = mls.HandshakePrivate
	}
	c.AcceptAnyWire = true
	c.MaxPastEpochs, c.ResumptionEpochs = keptEpochs, keptEpochs
	c.OutOfOrder = c.MaxForward
	c.SendWithProposals = true
	return c
}

func newState(m member) *state {
	return &state{member: m, records: records{}, seen: map[[sha256.Size]byte]mls.ProposalRef{}}
}

func (s *state) env() *mls.Env {
	env := s.member.env()
	env.Fetch = s.records.fetch
	return env
}

// set goes on with the next value of the group.
func (s *state) set(g *mls.Group, ws *record.WriteSet) {
	if s.group != nil && s.group.Epoch() != g.Epoch() {
		s.pending = nil
		clear(s.seen)
	}
	s.group = g
	s.records.apply(ws)
}

func (s *state) wipe() {
	s.member.wipe()
	s.records.wipe()
}

// remember notes which proposal a message is.
func (s *state) remember(message []byte, ref mls.ProposalRef) {
	s.seen[sha256.Sum256(message)] = ref
}

// take has the group keep a proposal, unless it does.
func (s *state) take(ctx context.Context, message []byte) (mls.ProposalRef, error) {
	if ref, ok := s.seen[sha256.Sum256(message)]; ok {
		return ref, nil
	}
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	g, result, ws, err := s.group.Process(ctx, s.env(), m)
	if err != nil {
		return nil, err
	}
	p, ok := result.(*mls.ReceivedProposal)
	if !ok {
		return nil, invalid("a message that is no proposal")
	}
	s.set(g, ws)
	s.remember(message, p.Ref)
	return p.Ref, nil
}

// memberLeaf finds who has an identity.
func (s *state) memberLeaf(ctx context.Context, identity []byte) (mls.LeafIndex, error) {
	members, err := s.group.Members(ctx, s.env())
	if err != nil {
		return 0, err
	}
	return leafOf(members, identity)
}

// unwrap decodes a message of one kind.
func unwrap[T any](message []byte, kind func(*mls.MLSMessage) *T) (*T, error) {
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	if body := kind(m); body != nil {
		return body, nil
	}
	return nil, invalid("wire format %d", m.WireFormat())
}

func keyPackageOf(m *mls.MLSMessage) *mls.KeyPackage { return m.KeyPackage }
func groupInfoOf(m *mls.MLSMessage) *mls.GroupInfo   { return m.GroupInfo }
func welcomeOf(m *mls.MLSMessage) *mls.Welcome       { return m.Welcome }
