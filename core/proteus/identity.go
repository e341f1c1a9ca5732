// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"fmt"
	"io"

	"github.com/conclave-mls/conclave/core"
)

// An IdentityKeyPair is what a device is known by. It is never replaced.
type IdentityKeyPair struct{ pair keyPair }

// version stands at the head of all that is stored or sent. Nobody checks it.
const version = 1

// GenerateIdentity draws 32 bytes from random; nil is crypto/rand.
func GenerateIdentity(random io.Reader) (*IdentityKeyPair, error) {
	k, err := generate(random)
	if err != nil {
		return nil, err
	}
	return &IdentityKeyPair{k}, nil
}

// Public is the identity key.
func (i *IdentityKeyPair) Public() PublicKey { return i.pair.public }

// Wipe erases the secret key.
func (i *IdentityKeyPair) Wipe() { i.pair.seed.Wipe() }

// Format shows the fingerprint only, by whatever verb.
func (i *IdentityKeyPair) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "IdentityKeyPair("+i.Public().Fingerprint()+")")
}

// Marshal encodes the pair, secret key included, as TypeScript stores it.
func (i *IdentityKeyPair) Marshal() []byte {
	b := appendUint(append(appendMap(nil, 3), 0), version)
	b = i.pair.appendSecret(append(b, 1))
	return i.pair.public.appendIdentity(append(b, 2))
}

// UnmarshalIdentity reads what Marshal writes.
func UnmarshalIdentity(data []byte) (*IdentityKeyPair, error) {
	r := &reader{rest: data}
	i := r.identityPair()
	if err := r.end("identity key pair"); err != nil {
		return nil, err
	}
	return i, nil
}

func (r *reader) identityPair() *IdentityKeyPair {
	i := new(IdentityKeyPair)
	r.fields([]uint64{0, 1, 2}, func(key uint64) bool {
		switch key {
		case 0:
			r.uint(1)
		case 1:
			i.pair.seed = r.secret()
		case 2:
			i.pair.public = r.identity()
		default:
			return false
		}
		return true
	})
	return i
}

// UnmarshalIdentityFile reads the identity file of Wire's native cryptobox: a number, then a
// map with the pair. core.ErrNotFound if it has the public key only.
func UnmarshalIdentityFile(data []byte) (*IdentityKeyPair, error) {
	r := &reader{rest: data}
	var i *IdentityKeyPair
	switch kind := r.uint(1); {
	case r.err != nil:
	case kind == 2:
		return nil, fmt.Errorf("proteus: identity file without the secret key: %w", core.ErrNotFound)
	case kind != 1:
		r.fail(CodeMalformed, "kind %d", kind)
	default:
		r.fields([]uint64{0}, func(key uint64) bool {
			if key == 0 {
				i = r.identityPair()
			}
			return key == 0
		})
	}
	if err := r.end("identity file"); err != nil {
		return nil, err
	}
	return i, nil
}
