// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

const (
	keyLen    = chacha20poly1305.KeySize
	prefixLen = 6 // of a blinded key: whose it is
)

// A keyring is what the root record holds, ready for use: the blinding key, which
// stays, and the data keys by generation, of which the newest seals.
type keyring struct {
	secret     core.Secret // the root secret
	blinding   core.Secret
	prefix     [prefixLen]byte
	blinded    blinded
	keys       map[uint32]cipher.AEAD // by generation
	newest     uint32
	generation core.Version // of the generation record that goes with these keys
	moved      bool
}

// keyring opens the keyring of a root record with the root secret, and keeps that.
func (r root) keyring(secret core.Secret, generation core.Version) (*keyring, error) {
	plain, err := r.open(secret)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	ring, err := newKeyring(secret, plain)
	if err != nil {
		return nil, err
	}
	ring.generation, ring.moved = generation, r.moved
	return ring, nil
}

// newKeyring copies what it keeps of a keyring in plain.
func newKeyring(secret core.Secret, plain []byte) (*keyring, error) {
	blinding, keys, err := decodeKeyring(plain)
	if err != nil {
		return nil, err
	}
	ring := &keyring{secret: secret, blinding: core.NewSecret(append([]byte(nil), blinding...)), keys: map[uint32]cipher.AEAD{}}
	copy(ring.prefix[:], ring.mac("tenant"))
	for _, k := range keys {
		if ring.keys[k.generation], err = chacha20poly1305.NewX(k.key); err != nil {
			return nil, err
		}
		ring.newest = max(ring.newest, k.generation)
	}
	return ring, nil
}

// wipe forgets the keys. The AEADs keep copies that nobody can reach to zero:
// they are left to the garbage collector.
func (r *keyring) wipe() {
	r.secret.Wipe()
	r.blinding.Wipe()
	r.keys = nil
}

// mac is what this tenant alone can compute.
func (r *keyring) mac(label string) []byte {
	mac := hmac.New(sha256.New, r.blinding.Bytes())
	mac.Write(vlbytes.Append(nil, []byte(label)))
	return mac.Sum(nil)
}

// blind hides a scope: 16 bytes that nobody can match to it without the key. The
// first are the same for all that the tenant has, so that its records can be found.
func (r *keyring) blind(table core.Table, scope []byte) [blindLen]byte {
	if out, ok := r.blinded.get(table, scope); ok {
		return out
	}
	var out [blindLen]byte
	n := copy(out[:], r.prefix[:])
	mac := hmac.New(sha256.New, r.blinding.Bytes())
	mac.Write(append(append(vlbytes.Append(nil, []byte("scope")), byte(table)), scope...))
	copy(out[n:], mac.Sum(nil))
	r.blinded.put(table, scope, out)
	return out
}

// key is what the store gets as the key of a record, or as the beginning of some.
func (r *keyring) key(table core.Table, scope, rest []byte) []byte {
	blind := r.blind(table, scope)
	return append(append(make([]byte, 0, blindLen+len(rest)), blind[:]...), rest...)
}

// blinded are scopes that were blinded lately: an operation names each several times, and
// the next one most of them again.
type blinded struct {
	mu    sync.Mutex
	known map[scoped][blindLen]byte
}

type scoped struct {
	table core.Table
	scope string
}

const (
	maxBlinded = 128 // scopes
	maxScope   = 128 // bytes of one
)

func (b *blinded) get(table core.Table, scope []byte) (out [blindLen]byte, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out, ok = b.known[scoped{table, string(scope)}]
	return out, ok
}

func (b *blinded) put(table core.Table, scope []byte, out [blindLen]byte) {
	if len(scope) > maxScope {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil {
		b.known = map[scoped][blindLen]byte{}
	} else if len(b.known) >= maxBlinded {
		clear(b.known)
	}
	b.known[scoped{table, string(scope)}] = out
}

// everything names all that the tenant has in the tables, receipts too.
func (r *keyring) everything() []core.Range {
	var all []core.Range
	for table := core.Table(0); ; table++ {
		all = append(all, core.Range{Table: table, Prefix: r.prefix[:]})
		if table == lastTable {
			return all
		}
	}
}

const lastTable core.Table = 255

// A keyring in plain is
//
//	opaque blinding_key[32]
//	struct { uint32 generation; opaque key[32] } data_keys<V>
//
// and a dataKey is one of them.
type dataKey struct {
	generation uint32
	key        []byte
}

func encodeKeyring(blinding []byte, keys []dataKey) []byte {
	plain := make([]byte, 0, keyLen+4+len(keys)*(4+keyLen))
	plain = append(plain, blinding...)
	return vlbytes.AppendVector(plain, func(b []byte) []byte {
		for _, k := range keys {
			b = append(binary.BigEndian.AppendUint32(b, k.generation), k.key...)
		}
		return b
	})
}

// decodeKeyring gives slices of plain. There is at least one data key.
func decodeKeyring(plain []byte) (blinding []byte, keys []dataKey, err error) {
	s := cryptobyte.String(plain)
	var vector cryptobyte.String
	ok := s.ReadBytes(&blinding, keyLen) && vlbytes.Read(&s, &vector) && s.Empty()
	for ok && !vector.Empty() {
		var k dataKey
		if ok = vector.ReadUint32(&k.generation) && vector.ReadBytes(&k.key, keyLen); ok {
			keys = append(keys, k)
		}
	}
	if !ok || len(keys) == 0 {
		return nil, nil, fmt.Errorf("keyring: %w", core.ErrDamaged)
	}
	return blinding, keys, nil
}
