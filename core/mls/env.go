// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// An Env is what an operation needs from outside the engine. It is given anew to
// each operation; a Group keeps nothing of it. Suites and Auth are always needed, Fetch
// and Signer by the operations of a member; all else may be left out.
type Env struct {
	Suites core.SuiteSource
	Auth   core.Authenticator
	// Fetch reads the records of the group that the operation is called on.
	Fetch record.Fetch
	// Signer finds the private key of one of our signature keys.
	Signer func(ctx context.Context, public []byte) (core.Signer, error)
	// PSK finds a pre-shared key that the group itself does not hold: external
	// ones, and resumption keys of other groups. ErrMissingPSK if it is not there.
	PSK func(ctx context.Context, id PreSharedKeyID) (core.Secret, error)
	// Custom are the types of proposals that the application brings, those of drafts
	// and of private use; all others are core.ErrUnsupported (PRP-11).
	Custom map[ProposalType]CustomProposal
	// Now is the time of the operation; lifetimes are not checked if it is zero.
	Now time.Time
	// MaxLifetime is the longest range of a key package's lifetime that we make,
	// propose or commit; 0 is no limit (RFC 9420 section 7.2).
	MaxLifetime time.Duration
	// StrictLifetimes judges the lifetimes in the Adds of others and in the tree of a
	// group that is joined as well: all members need good clocks.
	StrictLifetimes bool
	// StrictCapabilities refuses leaves of others that list default types, which RFC
	// 9420 section 7.2 forbids and peers do: all members need the same choice.
	StrictCapabilities bool
	// Grease puts meaningless values into the leaves and GroupInfos that we make, by
	// which peers are found that do not ignore the unknown (RFC 9420 section 13.5).
	Grease bool

	identities map[*LeafNode]core.Identity // see operation
}

func (e *Env) psk(ctx context.Context, id PreSharedKeyID) (core.Secret, error) {
	if e.PSK == nil {
		return core.Secret{}, ErrMissingPSK
	}
	return e.PSK(ctx, id)
}

func (e *Env) signer(ctx context.Context, public []byte) (core.Signer, error) {
	if e.Signer == nil {
		return nil, fmt.Errorf("signature key: %w", core.ErrNotFound)
	}
	return e.Signer(ctx, public)
}

// HandshakePolicy says in which wire format commits and proposals travel (FR-11).
type HandshakePolicy uint8

// The policies. External commits and proposals are always PublicMessages.
const (
	HandshakePublic  HandshakePolicy = 1
	HandshakePrivate HandshakePolicy = 2
)

// A Config is one member's own choice for a group; it is not negotiated. Begin with
// [DefaultConfig]: zero is a number like any other here. Handshake has to be the same
// for all members, who refuse the commits of others otherwise (FR-11).
type Config struct {
	Handshake         HandshakePolicy
	AcceptAnyWire     bool   // take handshakes of others in either format
	MaxPastEpochs     uint32 // epochs whose application messages still open
	ResumptionEpochs  uint32 // epochs whose resumption PSK is kept, apart from the current one
	OutOfOrder        uint32 // generations of a sender kept for late messages
	MaxForward        uint32 // generations that a sender may jump ahead
	PadTo             Padding
	TreeOutOfBand     bool // leave the ratchet tree out of GroupInfo and Welcome
	SendWithProposals bool // allow application messages while proposals wait (PRP-10)
}

// DefaultConfig is what peers in the field use.
var DefaultConfig = Config{
	Handshake:        HandshakePublic,
	MaxPastEpochs:    3,
	ResumptionEpochs: 1,
	OutOfOrder:       2,
	MaxForward:       1000,
	PadTo:            Padding128,
}

func (c Config) append(b []byte) []byte {
	b = append(b, byte(c.Handshake))
	b = appendPresent(b, c.AcceptAnyWire)
	for _, v := range []uint32{c.MaxPastEpochs, c.ResumptionEpochs, c.OutOfOrder, c.MaxForward, uint32(c.PadTo)} {
		b = appendU32(b, v)
	}
	return appendPresent(appendPresent(b, c.TreeOutOfBand), c.SendWithProposals)
}

func readConfig(r *reader) Config {
	return Config{
		Handshake:         HandshakePolicy(r.u8()),
		AcceptAnyWire:     r.present(),
		MaxPastEpochs:     r.u32(),
		ResumptionEpochs:  r.u32(),
		OutOfOrder:        r.u32(),
		MaxForward:        r.u32(),
		PadTo:             Padding(r.u32()),
		TreeOutOfBand:     r.present(),
		SendWithProposals: r.present(),
	}
}
