// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// PSKType tells external and resumption pre-shared keys apart (RFC 9420 section 8.4).
type PSKType uint8

// The types.
const (
	PSKExternal   PSKType = 1
	PSKResumption PSKType = 2
)

// ResumptionUsage is the usage of a resumption PSK.
type ResumptionUsage uint8

// The usages.
const (
	ResumptionApplication ResumptionUsage = 1
	ResumptionReInit      ResumptionUsage = 2
	ResumptionBranch      ResumptionUsage = 3
)

// A PreSharedKeyID names a pre-shared key and one injection of it.
type PreSharedKeyID struct {
	Type    PSKType
	ID      []byte          // external
	Usage   ResumptionUsage // resumption
	GroupID []byte          // resumption
	Epoch   uint64          // resumption
	Nonce   []byte          // Nh bytes, fresh for each injection
}

func (p PreSharedKeyID) append(b []byte) []byte {
	b = append(b, byte(p.Type))
	if p.Type == PSKExternal {
		b = appendOpaque(b, p.ID)
	} else {
		b = appendOpaque(append(b, byte(p.Usage)), p.GroupID)
		b = appendU64(b, p.Epoch)
	}
	return appendOpaque(b, p.Nonce)
}

func readPreSharedKeyID(r *reader) (p PreSharedKeyID) {
	p.Type = PSKType(r.u8())
	switch p.Type {
	case PSKExternal:
		p.ID = r.opaque()
	case PSKResumption:
		p.Usage = ResumptionUsage(r.u8())
		if p.Usage < ResumptionApplication || p.Usage > ResumptionBranch {
			r.fail()
		}
		p.GroupID = r.opaque()
		p.Epoch = r.u64()
	default:
		r.fail()
	}
	p.Nonce = r.opaque()
	return p
}

// check is what a PSK in a proposal must be: a nonce of the group's suite, and no
// usage that is for the first commit of another group.
func (p PreSharedKeyID) check(suite core.Suite) error {
	if n := len(p.Nonce); n != suite.Parameters().Nh {
		return breach("PSK-1", "nonce of %d bytes", n)
	}
	if p.Type == PSKResumption && p.Usage != ResumptionApplication {
		return breach("PSK-3", "resumption usage %d in a proposal", p.Usage)
	}
	return nil
}

// A PSK is a pre-shared key at hand.
type PSK struct {
	ID     PreSharedKeyID
	Secret core.Secret
}

// pskSecret chains the keys in order (RFC 9420 section 8.4): Nh zero bytes for none.
func pskSecret(suite core.Suite, psks []PSK) (core.Secret, error) {
	if len(psks) > 0xFFFF { // index and count are two bytes in the label
		return core.Secret{}, fmt.Errorf("mls: %d pre-shared keys: %w", len(psks), core.ErrTooLarge)
	}
	nh := suite.Parameters().Nh
	zero := core.NewSecret(make([]byte, nh))
	secret := core.NewSecret(make([]byte, nh))
	for i, p := range psks {
		label := p.ID.append(nil)
		label = appendU16(label, uint16(i))
		label = appendU16(label, uint16(len(psks)))
		extracted := suite.Extract(zero, p.Secret)
		input, err := expandWithLabel(suite, extracted, "derived psk", label, nh)
		extracted.Wipe()
		if err != nil {
			return core.Secret{}, err
		}
		next := suite.Extract(input, secret)
		input.Wipe()
		secret.Wipe()
		secret = next
	}
	return secret, nil
}
