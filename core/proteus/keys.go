// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"

	"filippo.io/edwards25519"

	"github.com/conclave-mls/conclave/core"
)

// A PublicKey is an Ed25519 public key: the point's compressed form, 32 bytes. It verifies
// as it is, and agrees as the X25519 key of the same point.
type PublicKey [32]byte

// Fingerprint is the key as 64 lowercase hexadecimal digits.
func (p PublicKey) Fingerprint() string { return hex.EncodeToString(p[:]) }

// point decodes the key and multiplies it by the cofactor, so that nothing of a small
// subgroup is left in it. CodeBadPoint if it is no point or not in its canonical encoding
// (RFC 8032 section 5.1.3), CodeDegenerateKey if it is of small order.
func (p PublicKey) point() (*edwards25519.Point, error) {
	point, err := new(edwards25519.Point).SetBytes(p[:])
	if err != nil || !p.reduced() {
		return nil, failed(CodeBadPoint, "public key %x", p)
	}
	if point.MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, failed(CodeDegenerateKey, "public key %x is of small order", p)
	}
	return point, nil
}

// reduced says whether y is below 2^255 - 19. That the sign of x = 0 may be written in two
// ways does not matter: these points are of small order.
func (p PublicKey) reduced() bool {
	return p[31]&0x7f != 0x7f || p[0] < 0xed || !bytes.Equal(p[1:31], bytes.Repeat([]byte{0xff}, 30))
}

// A keyPair signs and agrees. The public key is the one that it was stored with.
type keyPair struct {
	seed   core.Secret // 32 bytes, RFC 8032 section 5.1.5
	public PublicKey
}

// generate draws 32 bytes.
func generate(random io.Reader) (keyPair, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(source(random), seed); err != nil {
		return keyPair{}, fmt.Errorf("proteus: random bytes: %w", err)
	}
	return keyPair{core.NewSecret(seed), publicOf(seed)}, nil
}

// source is where random bytes come from unless a test says: crypto/rand.
func source(random io.Reader) io.Reader {
	if random == nil {
		return rand.Reader
	}
	return random
}

func publicOf(seed []byte) PublicKey {
	private := ed25519.NewKeyFromSeed(seed)
	defer clear(private)
	return PublicKey(private[32:])
}

// agree is X25519 (RFC 7748) between the X25519 forms of both keys: 32 bytes.
//
// It multiplies the Edwards point, as that of the peer is to be decoded in any case: the
// scalar is a multiple of the cofactor, by which point has multiplied already.
func (k keyPair) agree(p PublicKey) (core.Secret, error) {
	point, err := p.point()
	if err != nil {
		return core.Secret{}, err
	}
	h := sha512.Sum512(k.seed.Bytes())
	defer clear(h[:])
	s := h[:32]
	s[0] &= 248
	s[31] = s[31]&127 | 64
	for i := range s { // by 8
		s[i] >>= 3
		if i < 31 {
			s[i] |= s[i+1] << 5
		}
	}
	scalar, err := edwards25519.NewScalar().SetCanonicalBytes(s)
	if err != nil { // it is below 2^252
		return core.Secret{}, fmt.Errorf("proteus: %w", err)
	}
	return core.NewSecret(point.ScalarMult(scalar, point).BytesMontgomery()), nil
}

func (k keyPair) sign(message []byte) []byte {
	private := ed25519.NewKeyFromSeed(k.seed.Bytes())
	defer clear(private)
	return ed25519.Sign(private, message)
}

// appendSecret writes a SecretKey: seed and public key.
func (k keyPair) appendSecret(b []byte) []byte {
	secret := k.seed.Bytes()
	public := publicOf(secret)
	b = appendHead(append(b, majorMap<<5|1, 0), majorBytes, 64)
	return append(append(b, secret...), public[:]...)
}

func (k keyPair) append(b []byte) []byte {
	b = k.appendSecret(append(b, majorMap<<5|2, 0))
	return appendWrapped(append(b, 1), k.public[:])
}

// appendSeed writes a pair for our records, where nobody checks that its halves fit: that
// takes longer than all else about a record.
func (k keyPair) appendSeed(b []byte) []byte {
	b = appendBytes(append(appendMap(b, 2), 0), k.seed.Bytes())
	return appendWrapped(append(b, 1), k.public[:])
}

func (r *reader) seedAndPublic() (k keyPair) {
	r.fields([]uint64{0, 1}, func(key uint64) bool {
		switch key {
		case 0:
			seed := make([]byte, 32)
			r.fixed(seed)
			k.seed = core.NewSecret(seed)
		case 1:
			k.public = r.public()
		default:
			return false
		}
		return true
	})
	return k
}

// secret reads a SecretKey. Its second half has to be the public key of the first.
func (r *reader) secret() core.Secret {
	var secret [64]byte
	defer clear(secret[:])
	r.wrapped(secret[:])
	if r.err != nil {
		return core.Secret{}
	}
	if seed := secret[:32]; publicOf(seed) != PublicKey(secret[32:]) {
		r.fail(CodeBadPoint, "the halves of a secret key do not fit")
		return core.Secret{}
	}
	return core.NewSecret(bytes.Clone(secret[:32]))
}

func (r *reader) keyPair() (k keyPair) {
	r.fields([]uint64{0, 1}, func(key uint64) bool {
		switch key {
		case 0:
			k.seed = r.secret()
		case 1:
			k.public = r.public()
		default:
			return false
		}
		return true
	})
	return k
}

func (r *reader) public() (p PublicKey) {
	r.wrapped(p[:])
	return p
}

// identity reads an IdentityKey, which is a PublicKey in a map of its own.
func (r *reader) identity() (p PublicKey) {
	r.fields([]uint64{0}, func(key uint64) bool {
		if key == 0 {
			p = r.public()
		}
		return key == 0
	})
	return p
}

func (p PublicKey) appendIdentity(b []byte) []byte {
	return appendWrapped(append(b, majorMap<<5|1, 0), p[:])
}
