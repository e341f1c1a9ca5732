// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// The root record of a tenant holds its keys: the blinding key, which stays, and
// the data keys by generation, of which the newest seals. They are sealed with a
// root secret, which the KeyWrapper wraps, so that opening a store costs one
// call to it however many generations there are. A rotation, and another wrapping
// key, write the record anew with a new root secret.
//
//	uint8  format = 1
//	opaque wrapper_id<V>
//	opaque wrapped_root_secret<V>
//	opaque nonce[24]
//	opaque sealed_keyring<V>
//
// and the keyring, which is sealed with all that stands before it and the tenant
// as associated data:
//
//	opaque blinding_key[32]
//	struct { uint32 generation; opaque key[32] } data_keys<V>
const rootFormat = 1

const keyLen = chacha20poly1305.KeySize

// A keyring is what the root record holds, ready for use.
type keyring struct {
	blinding core.Secret
	keys     map[uint32]cipher.AEAD // by generation
	newest   uint32
}

// wipe forgets the keys. The AEADs keep copies that nobody can reach to zero:
// they are left to the garbage collector.
func (r *keyring) wipe() {
	r.blinding.Wipe()
	r.keys = nil
}

// rootKey is where the root record is. It has to be found without a key, so a
// store that guesses a tenant's name can see that it is right.
func rootKey(tenant string) []byte {
	sum := sha256.Sum256(append([]byte("conclave root record\x00"), tenant...))
	return sum[:blindLen]
}

// rootAAD is what is authenticated beside the root secret, by the wrapper.
func rootAAD(tenant string) []byte {
	return append([]byte("conclave root secret\x00"), tenant...)
}

// openRoot reads the root record or makes it. Of several that make it at once,
// one wins, and a batch of unknown outcome is one more that may win later: so
// what counts is what a successful Apply or a read says.
func openRoot(ctx context.Context, ks core.Keystore, w core.KeyWrapper, tenant string) (*keyring, error) {
	key := rootKey(tenant)
	for range 8 {
		found, err := ks.Read(ctx, []core.Query{{Table: ownTable, Prefix: key}})
		if err != nil {
			return nil, err
		}
		if len(found) != 1 || len(found[0]) > 1 {
			return nil, fmt.Errorf("root record: more than one: %w", core.ErrDamaged)
		}
		if len(found[0]) == 1 {
			return readRoot(ctx, found[0][0].Value, w, tenant)
		}
		value, ring, err := makeRoot(ctx, w, tenant)
		if err != nil {
			return nil, err
		}
		err = ks.Apply(ctx, core.Batch{
			Expect: []core.Expectation{{Table: ownTable, Key: key}},
			Puts:   []core.Put{{Table: ownTable, Key: key, Value: value, Version: core.NewVersion()}},
		})
		if err == nil {
			return ring, nil
		}
		ring.wipe()
		if !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrUnknownOutcome) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("root record: cannot be made: %w", core.ErrUnavailable)
}

func makeRoot(ctx context.Context, w core.KeyWrapper, tenant string) ([]byte, *keyring, error) {
	plain := make([]byte, 0, keyLen+1+4+keyLen)
	plain = append(plain, random(keyLen)...)
	plain = vlbytes.AppendVector(plain, func(b []byte) []byte {
		return append(append(b, 0, 0, 0, 1), random(keyLen)...)
	})
	defer clear(plain)
	value, err := sealRoot(ctx, w, tenant, plain)
	if err != nil {
		return nil, nil, err
	}
	ring, err := parseKeyring(plain)
	return value, ring, err
}

// sealRoot makes the record of a keyring, with a root secret of its own.
func sealRoot(ctx context.Context, w core.KeyWrapper, tenant string, plain []byte) ([]byte, error) {
	root := core.NewSecret(random(keyLen))
	defer root.Wipe()
	wrapped, err := w.Wrap(ctx, root, rootAAD(tenant))
	if err != nil {
		return nil, fmt.Errorf("wrapping key %q: %w", w.ID(), err)
	}
	value := vlbytes.Append([]byte{rootFormat}, []byte(w.ID()))
	value = vlbytes.Append(value, wrapped)
	aead, err := chacha20poly1305.NewX(root.Bytes())
	if err != nil {
		return nil, err
	}
	n := random(chacha20poly1305.NonceSizeX)
	value = append(value, n...)
	return vlbytes.Append(value, aead.Seal(nil, n, plain, append(value[:len(value):len(value)], tenant...))), nil
}

func readRoot(ctx context.Context, value []byte, w core.KeyWrapper, tenant string) (*keyring, error) {
	plain, err := unsealRoot(ctx, value, w, tenant)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return parseKeyring(plain)
}

// unsealRoot is the reverse of sealRoot. The caller wipes the keyring.
func unsealRoot(ctx context.Context, value []byte, w core.KeyWrapper, tenant string) ([]byte, error) {
	s := cryptobyte.String(value)
	var format uint8
	var id, wrapped, sealed cryptobyte.String
	var n []byte
	if s.ReadUint8(&format) && format != rootFormat {
		return nil, fmt.Errorf("root record: format %d: %w", format, core.ErrUnsupported)
	}
	if !vlbytes.Read(&s, &id) || !vlbytes.Read(&s, &wrapped) || !s.ReadBytes(&n, chacha20poly1305.NonceSizeX) {
		return nil, fmt.Errorf("root record: %w", core.ErrDamaged)
	}
	aad := append(value[:len(value)-len(s):len(value)-len(s)], tenant...)
	if !vlbytes.Read(&s, &sealed) || !s.Empty() {
		return nil, fmt.Errorf("root record: %w", core.ErrDamaged)
	}
	if string(id) != w.ID() {
		return nil, fmt.Errorf("sealed with wrapping key %q, not %q: %w", id, w.ID(), core.ErrWrongKey)
	}
	root, err := w.Unwrap(ctx, wrapped, rootAAD(tenant))
	if err != nil {
		return nil, fmt.Errorf("wrapping key %q: %w", w.ID(), err)
	}
	defer root.Wipe()
	aead, err := chacha20poly1305.NewX(root.Bytes())
	if err != nil {
		return nil, fmt.Errorf("root record: %w", core.ErrDamaged)
	}
	plain, err := aead.Open(nil, n, sealed, aad)
	if err != nil {
		return nil, fmt.Errorf("root record: %w", core.ErrDamaged)
	}
	return plain, nil
}

// parseKeyring copies what it keeps.
func parseKeyring(plain []byte) (*keyring, error) {
	s := cryptobyte.String(plain)
	var blinding []byte
	var keys cryptobyte.String
	ok := s.ReadBytes(&blinding, keyLen) && vlbytes.Read(&s, &keys) && s.Empty()
	ring := &keyring{blinding: core.NewSecret(append([]byte(nil), blinding...)), keys: map[uint32]cipher.AEAD{}}
	for ok && !keys.Empty() {
		var generation uint32
		var key []byte
		if ok = keys.ReadUint32(&generation) && keys.ReadBytes(&key, keyLen); !ok {
			break
		}
		aead, err := chacha20poly1305.NewX(key)
		if err != nil {
			return nil, err
		}
		ring.keys[generation] = aead
		ring.newest = max(ring.newest, generation)
	}
	if !ok || len(ring.keys) == 0 {
		return nil, fmt.Errorf("keyring: %w", core.ErrDamaged)
	}
	return ring, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return b
}
