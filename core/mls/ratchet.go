// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"fmt"
	"math"

	"github.com/conclave-mls/conclave/core"
)

// The sender ratchets (RFC 9420 sections 9.1 and 9.2): each leaf has one for
// handshakes and one for application messages.

// ratchetKind tells the two apart; the number is in record keys and floors.
type ratchetKind uint8

const (
	handshakeRatchet   ratchetKind = 0
	applicationRatchet ratchetKind = 1
)

var ratchetLabels = [...]string{handshakeRatchet: "handshake", applicationRatchet: "application"}

// ratchetKind says which ratchet protects a content type (FR-7).
func (t ContentType) ratchetKind() ratchetKind {
	if t == ContentApplication {
		return applicationRatchet
	}
	return handshakeRatchet
}

// ratchetLimits bound what a sender can make us keep and compute (FS-4, FS-5).
type ratchetLimits struct {
	tolerance  uint32 // past generations whose unused keys are kept
	maxForward uint32 // generations that one message may jump ahead
}

// maxOwnForward bounds how far a floor may move an own ratchet: a second of work.
const maxOwnForward = 1 << 20

// A messageKey is the key and nonce of one generation. Each encrypts one message,
// so that no AEAD comes near the limit of its use (FS-6).
type messageKey struct {
	generation uint32
	key, nonce core.Secret
}

func (k messageKey) wipe() {
	k.key.Wipe()
	k.nonce.Wipe()
}

// A ratchet is an immutable value. Next is the first generation whose key was not
// derived yet, 2^32 at the end of the ratchet; secret derives it.
type ratchet struct {
	next    uint64
	secret  core.Secret
	skipped []messageKey // unused keys below next, ascending
}

// newRatchet is generation 0 of a leaf's ratchet.
func newRatchet(suite core.Suite, leafSecret core.Secret, kind ratchetKind) (*ratchet, error) {
	secret, err := deriveSecret(suite, leafSecret, ratchetLabels[kind])
	if err != nil {
		return nil, err
	}
	return &ratchet{secret: secret}, nil
}

// find returns the key of a generation below next if it is still there. One
// within the window that is not there was used, one before it was dropped.
func (r *ratchet) find(generation uint32, limits ratchetLimits) (messageKey, error) {
	for _, k := range r.skipped {
		if k.generation == generation {
			return k, nil
		}
	}
	if uint64(generation)+uint64(limits.tolerance) >= r.next {
		return messageKey{}, ErrDuplicateMessage
	}
	return messageKey{}, ErrTooOld
}

// without returns the ratchet with the key of a skipped generation taken out.
func (r *ratchet) without(generation uint32) *ratchet {
	next := &ratchet{next: r.next, secret: r.secret}
	for _, k := range r.skipped {
		if k.generation != generation {
			next.skipped = append(next.skipped, k)
		}
	}
	return next
}

// forward returns the ratchet that stands behind a generation, which is not
// below next, and that generation's key. Of the keys before it the last ones
// within the tolerance are kept. The receiver keeps its secrets; what it shares
// with the result are the skipped keys that stay. The caller bounds the distance.
func (r *ratchet) forward(suite core.Suite, generation, tolerance uint32) (*ratchet, messageKey, error) {
	next := &ratchet{next: uint64(generation) + 1}
	oldest := next.next - min(next.next, uint64(tolerance))
	for _, k := range r.skipped {
		if uint64(k.generation) >= oldest {
			next.skipped = append(next.skipped, k)
		}
	}
	secret := r.secret
	for g := r.next; ; g++ {
		var key messageKey
		var err error
		if g >= oldest || g == uint64(generation) {
			if key, err = deriveMessageKey(suite, secret, uint32(g)); err != nil {
				return nil, messageKey{}, err
			}
		}
		following, err := deriveTreeSecret(suite, secret, "secret", uint32(g), suite.Parameters().Nh)
		if err != nil {
			return nil, messageKey{}, err
		}
		if g > r.next {
			secret.Wipe()
		}
		secret = following
		if g == uint64(generation) {
			next.secret = secret
			return next, key, nil
		}
		if g >= oldest {
			next.skipped = append(next.skipped, key)
		}
	}
}

func deriveMessageKey(suite core.Suite, secret core.Secret, generation uint32) (messageKey, error) {
	p := suite.Parameters()
	k := messageKey{generation: generation}
	var err error
	if k.key, err = deriveTreeSecret(suite, secret, "key", generation, p.Nk); err != nil {
		return messageKey{}, err
	}
	k.nonce, err = deriveTreeSecret(suite, secret, "nonce", generation, p.Nn)
	return k, err
}

// dropped lists the secrets of r that next no longer holds.
func (r *ratchet) dropped(next *ratchet) (list []core.Secret) {
	if next.next != r.next {
		list = append(list, r.secret)
	}
	kept := next.skipped
	for _, k := range r.skipped {
		if len(kept) > 0 && kept[0].generation == k.generation {
			kept = kept[1:]
		} else {
			list = append(list, k.key, k.nonce)
		}
	}
	return list
}

// secrets lists all secrets of the ratchet.
func (r *ratchet) secrets() []core.Secret {
	list := []core.Secret{r.secret}
	for _, k := range r.skipped {
		list = append(list, k.key, k.nonce)
	}
	return list
}

// append is the stored form, of constant size: at most 43 bytes and 32 for each
// skipped key in suite 1.
func (r *ratchet) append(b []byte) []byte {
	b = appendOpaque(appendU64(append(b, recordFormat), r.next), r.secret.Bytes())
	return appendList(b, r.skipped, func(k messageKey, b []byte) []byte {
		return append(append(appendU32(b, k.generation), k.key.Bytes()...), k.nonce.Bytes()...)
	})
}

// readRatchet decodes what append wrote, after the format byte.
func readRatchet(r *reader, suite core.Suite) *ratchet {
	p := suite.Parameters()
	v := &ratchet{next: r.u64(), secret: core.NewSecret(r.opaque())}
	if v.next > math.MaxUint32+1 || v.secret.Len() != p.Nh {
		r.fail()
	}
	r.list(func(r *reader) {
		k := messageKey{generation: r.u32(), key: core.NewSecret(r.take(p.Nk)), nonce: core.NewSecret(r.take(p.Nn))}
		last := len(v.skipped) - 1
		if uint64(k.generation) >= v.next || last >= 0 && v.skipped[last].generation >= k.generation {
			r.fail()
		}
		v.skipped = append(v.skipped, k)
	})
	return v
}

// sendGeneration is the generation that comes next in an own ratchet: not below
// the floor, and never the last one, so that floors can be counted in 32 bits.
func (r *ratchet) sendGeneration(floor uint32) (uint32, error) {
	generation := max(r.next, uint64(floor))
	if generation >= math.MaxUint32 {
		return 0, ErrExhausted
	}
	if generation-r.next > maxOwnForward {
		return 0, fmt.Errorf("floor of generation %d: %w", floor, ErrExhausted)
	}
	return uint32(generation), nil
}
