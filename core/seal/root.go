// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// The root record of a tenant holds its keyring, sealed with a root secret, which the
// KeyWrapper wraps: so opening a store costs one call to it however many data keys
// there are, and a store that is open learns of a new data key without one. Another
// wrapping key comes with a new root secret.
//
//	uint8  format = 1; 2 while the tenant moves to another keystore, 4 once it may be there
//	opaque wrapper_id<V>
//	opaque wrapped_root_secret<V>
//	opaque nonce[24]
//	opaque sealed_keyring<V>
//
// The keyring has all that stands before it, with format 1, and the tenant as
// associated data.
const (
	rootFormat = 1
	rootMoving = 2
	rootMoved  = 4 // no two differ in a single bit
)

// A root is a root record.
type root struct {
	moved    bool   // or moving
	wrapper  string // id of the wrapping key
	wrapped  []byte
	sealed   []byte
	nonce    []byte
	verified []byte // what is authenticated with the keyring
}

func parseRoot(value []byte, tenant string) (root, error) {
	var r root
	var format uint8
	var id, wrapped, sealed cryptobyte.String
	s := cryptobyte.String(value)
	if s.ReadUint8(&format) && format != rootFormat && format != rootMoving && format != rootMoved {
		return root{}, fmt.Errorf("root record: format %d: %w", format, core.ErrUnsupported)
	}
	ok := vlbytes.Read(&s, &id) && vlbytes.Read(&s, &wrapped) && s.ReadBytes(&r.nonce, chacha20poly1305.NonceSizeX)
	head := len(value) - len(s)
	if !ok || !vlbytes.Read(&s, &sealed) || !s.Empty() {
		return root{}, errRoot
	}
	r.moved, r.wrapper, r.wrapped, r.sealed = format != rootFormat, string(id), wrapped, sealed
	r.verified = verifiedOfRoot(value[:head], tenant)
	return r, nil
}

func verifiedOfRoot(head []byte, tenant string) []byte {
	out := join(head, []byte(tenant))
	out[0] = rootFormat
	return out
}

// unwrap gives the root secret. ErrWrongKey: w is not the key that wrapped it.
func (r root) unwrap(ctx context.Context, w core.KeyWrapper, tenant string) (core.Secret, error) {
	if r.wrapper != w.ID() {
		return core.Secret{}, fmt.Errorf("sealed with wrapping key %q, not %q: %w", r.wrapper, w.ID(), core.ErrWrongKey)
	}
	secret, err := w.Unwrap(ctx, r.wrapped, rootAAD(tenant))
	if err != nil {
		return core.Secret{}, fmt.Errorf("wrapping key %q: %w", w.ID(), err)
	}
	return secret, nil
}

// open gives the keyring in plain; the caller wipes it.
func (r root) open(secret core.Secret) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(secret.Bytes())
	if err != nil {
		return nil, errRoot
	}
	plain, err := aead.Open(nil, r.nonce, r.sealed, r.verified)
	if err != nil {
		return nil, errRoot
	}
	return plain, nil
}

var errRoot = fmt.Errorf("root record: %w", core.ErrDamaged)

// rootAAD is what is authenticated beside the root secret, by the wrapper.
func rootAAD(tenant string) []byte {
	return append([]byte("conclave root secret\x00"), tenant...)
}

// A sealer is what a root record is made with.
type sealer struct {
	wrapper string
	wrapped []byte
	secret  core.Secret
}

// newSealer draws a root secret; the caller wipes it, or keeps it.
func newSealer(ctx context.Context, w core.KeyWrapper, tenant string) (sealer, error) {
	s := sealer{wrapper: w.ID(), secret: core.NewSecret(random(keyLen))}
	var err error
	if s.wrapped, err = w.Wrap(ctx, s.secret, rootAAD(tenant)); err != nil {
		s.secret.Wipe()
		return sealer{}, fmt.Errorf("wrapping key %q: %w", w.ID(), err)
	}
	return s, nil
}

// seal makes the root record of a keyring.
func (s sealer) seal(tenant string, plain []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(s.secret.Bytes())
	if err != nil {
		return nil, err
	}
	n := random(chacha20poly1305.NonceSizeX)
	value := vlbytes.Append([]byte{rootFormat}, []byte(s.wrapper))
	value = vlbytes.Append(value, s.wrapped)
	value = append(value, n...)
	return vlbytes.Append(value, aead.Seal(nil, n, plain, verifiedOfRoot(value, tenant))), nil
}

// openRoot reads the root record or makes it. Of several that make it at once,
// one wins, and a batch of unknown outcome is one more that may win later: so
// what counts is what a successful Apply or a read says.
func openRoot(ctx context.Context, ks core.Keystore, w core.KeyWrapper, tenant string) (*keyring, own, error) {
	for range maxTries {
		o, err := readOwn(ctx, ks, tenant)
		if err != nil {
			return nil, own{}, err
		}
		if o.root.Key != nil {
			ring, err := unlock(ctx, o, w, tenant)
			return ring, o, err
		}
		ring, value, err := makeRoot(ctx, w, tenant)
		if err != nil {
			return nil, own{}, err
		}
		ring.generation = core.NewVersion()
		err = ks.Apply(ctx, core.Batch{
			Expect: o.expect(tenant),
			Puts:   []core.Put{putRoot(tenant, value), putGeneration(tenant, ring.generation)},
		})
		if err == nil {
			return ring, o, nil
		}
		ring.wipe()
		if !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrUnknownOutcome) {
			return nil, own{}, err
		}
	}
	return nil, own{}, fmt.Errorf("root record: cannot be made: %w", core.ErrUnavailable)
}

// unlock opens the keyring of a tenant with its wrapping key.
func unlock(ctx context.Context, o own, w core.KeyWrapper, tenant string) (*keyring, error) {
	r, err := parseRoot(o.root.Value, tenant)
	if err != nil {
		return nil, err
	}
	secret, err := r.unwrap(ctx, w, tenant)
	if err != nil {
		return nil, err
	}
	ring, err := r.keyring(secret, o.generation)
	if err != nil {
		secret.Wipe()
		return nil, err
	}
	return ring, nil
}

// makeRoot makes the keys of a new tenant.
func makeRoot(ctx context.Context, w core.KeyWrapper, tenant string) (*keyring, []byte, error) {
	plain := encodeKeyring(random(keyLen), []dataKey{{1, random(keyLen)}})
	defer clear(plain)
	s, err := newSealer(ctx, w, tenant)
	if err != nil {
		return nil, nil, err
	}
	value, err := s.seal(tenant, plain)
	if err != nil {
		return nil, nil, err
	}
	ring, err := newKeyring(s.secret, plain)
	return ring, value, err
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return b
}
