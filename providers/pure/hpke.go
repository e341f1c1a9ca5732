// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"context"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// A dhkem is DHKEM(group, kdf) of RFC 9180 section 4.1.
type dhkem struct {
	id       uint16
	alg      core.KeyAlgorithm
	group    group
	kdf      *kdf
	nsk, npk int
	ndh      int
	mask     byte // of a candidate scalar's first byte; 0: any string is a scalar
	prefix   []byte
}

var (
	kemP256   = newDHKEM(0x0010, core.ECDHP256, nist{ecdhP256}, hkdfSHA256, 32, 65, 32, 0xff)
	kemP384   = newDHKEM(0x0011, core.ECDHP384, nist{ecdhP384}, hkdfSHA384, 48, 97, 48, 0xff)
	kemP521   = newDHKEM(0x0012, core.ECDHP521, nist{ecdhP521}, hkdfSHA512, 66, 133, 66, 0x01)
	kemX25519 = newDHKEM(0x0020, core.X25519, x25519{}, hkdfSHA256, 32, 32, 32, 0)
	kemX448   = newDHKEM(0x0021, core.X448, x448{}, hkdfSHA512, 56, 56, 56, 0)
)

func newDHKEM(id uint16, alg core.KeyAlgorithm, g group, k *kdf, nsk, npk, ndh int, mask byte) *dhkem {
	prefix := binary.BigEndian.AppendUint16([]byte("HPKE-v1KEM"), id)
	return &dhkem{id: id, alg: alg, group: g, kdf: k, nsk: nsk, npk: npk, ndh: ndh, mask: mask, prefix: prefix}
}

// The labels of RFC 9180; variables, because a constant turned into bytes for
// an interface call is an allocation.
var (
	labelDKP       = []byte("dkp_prk")
	labelSK        = []byte("sk")
	labelCandidate = []byte("candidate")
	labelEAE       = []byte("eae_prk")
	labelShared    = []byte("shared_secret")
	labelPSKID     = []byte("psk_id_hash")
	labelInfo      = []byte("info_hash")
	labelSecret    = []byte("secret")
	labelKey       = []byte("key")
	labelNonce     = []byte("base_nonce")
	labelExporter  = []byte("exp")
	labelExport    = []byte("sec")
)

// labeledExpand is LabeledExpand of RFC 9180 section 4, suite_id in the prefix.
func labeledExpand(k *kdf, prefix, prk, label, info []byte, length int) ([]byte, error) {
	if length > 0xffff {
		return nil, fmt.Errorf("expand to %d bytes, the length field has 16 bits: %w", length, core.ErrTooLarge)
	}
	head := make([]byte, 0, 64)
	head = binary.BigEndian.AppendUint16(head, uint16(length))
	head = append(head, prefix...)
	return k.expand(prk, length, head, label, info)
}

// derive is DeriveKeyPair of RFC 9180 section 7.1.3.
func (d *dhkem) derive(ikm []byte) (groupKey, error) {
	prk := d.kdf.extract(nil, d.prefix, labelDKP, ikm)
	defer clear(prk)
	if d.mask == 0 {
		secret, err := labeledExpand(d.kdf, d.prefix, prk, labelSK, nil, d.nsk)
		if err != nil {
			return nil, err
		}
		defer clear(secret)
		return d.group.open(secret)
	}
	for counter := range 256 {
		secret, err := labeledExpand(d.kdf, d.prefix, prk, labelCandidate, []byte{byte(counter)}, d.nsk)
		if err != nil {
			return nil, err
		}
		secret[0] &= d.mask
		k, err := d.group.open(secret)
		clear(secret)
		if err == nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("derive key pair: no candidate is a scalar: %w", core.ErrInvalid)
}

// encap makes a shared secret for the holder of a public key.
func (d *dhkem) encap(public []byte) (shared, enc []byte, err error) {
	ephemeral, err := d.group.generate()
	if err != nil {
		return nil, nil, err
	}
	defer ephemeral.wipe()
	dh, err := ephemeral.agree(public)
	if err != nil {
		return nil, nil, err
	}
	enc = ephemeral.public()
	shared, err = d.share(dh, enc, public)
	return shared, enc, err
}

// share is ExtractAndExpand; it takes dh over.
func (d *dhkem) share(dh, enc, public []byte) ([]byte, error) {
	prk := d.kdf.extract(nil, d.prefix, labelEAE, dh)
	clear(dh)
	defer clear(prk)
	kemContext := make([]byte, 0, 2*133)
	kemContext = append(append(kemContext, enc...), public...)
	return labeledExpand(d.kdf, d.prefix, prk, labelShared, kemContext, d.kdf.size)
}

// agreeWith asks an Agreer that is not ours. It must not be trusted to validate
// the peer's key or to notice an all-zero result (RFC 9180 section 7.1.4).
func (d *dhkem) agreeWith(ctx context.Context, key core.Agreer, peer []byte) ([]byte, error) {
	if err := d.group.validate(peer); err != nil {
		return nil, err
	}
	secret, err := key.Agree(ctx, peer)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe()
	if secret.Len() != d.ndh {
		return nil, fmt.Errorf("key %s agreed on %d bytes, not %d: %w", key.Ref(), secret.Len(), d.ndh, core.ErrInvalid)
	}
	if subtle.ConstantTimeCompare(secret.Bytes(), make([]byte, d.ndh)) == 1 {
		return nil, errPublic
	}
	return append([]byte(nil), secret.Bytes()...), nil
}

// context is the key_schedule_context of RFC 9180 section 5.1 in base mode.
func (s *suite) context(info []byte) []byte {
	c := make([]byte, 0, 1+2*64)
	c = append(c, 0) // mode_base
	c = append(c, s.pskIDHash...)
	return append(c, s.kdf.extract(nil, s.prefix, labelInfo, info)...)
}

// schedule is the secret of KeySchedule (RFC 9180 section 5.1), from which its outputs are
// expanded.
func (s *suite) schedule(shared []byte) []byte {
	defer clear(shared)
	return s.kdf.extract(shared, s.prefix, labelSecret)
}

// first returns the AEAD and nonce of the first message; it takes shared over.
func (s *suite) first(shared, context []byte) (cipher.AEAD, []byte, error) {
	secret := s.schedule(shared)
	defer clear(secret)
	key, err := labeledExpand(s.kdf, s.prefix, secret, labelKey, context, s.aead.nk)
	if err != nil {
		return nil, nil, err
	}
	defer clear(key)
	nonce, err := labeledExpand(s.kdf, s.prefix, secret, labelNonce, context, s.aead.nn)
	if err != nil {
		return nil, nil, err
	}
	aead, err := s.aead.open(key)
	return aead, nonce, err
}

// An exporter is the export interface of an HPKE context (RFC 9180 section 5.3).
type exporter struct {
	s      *suite
	secret core.Secret
}

func (s *suite) exporter(shared, info []byte) (core.Exporter, error) {
	secret := s.schedule(shared)
	defer clear(secret)
	exp, err := labeledExpand(s.kdf, s.prefix, secret, labelExporter, s.context(info), s.kdf.size)
	if err != nil {
		return nil, err
	}
	return &exporter{s, core.NewSecret(exp)}, nil
}

func (e *exporter) Export(exporterContext []byte, length int) (core.Secret, error) {
	out, err := labeledExpand(e.s.kdf, e.s.prefix, e.secret.Bytes(), labelExport, exporterContext, length)
	if err != nil {
		return core.Secret{}, fmt.Errorf("export: %w", err)
	}
	return core.NewSecret(out), nil
}

// A sealer is a suite with the key_schedule_context of an info.
type sealer struct {
	s       *suite
	context []byte
}

// Sealer is core.Suite's.
func (s *suite) Sealer(info []byte) core.Sealer { return &sealer{s, s.context(info)} }

func (r *sealer) Seal(public, aad, plaintext []byte) (core.HPKECiphertext, error) {
	shared, enc, err := r.s.kem.encap(public)
	if err != nil {
		return core.HPKECiphertext{}, fail("seal", err)
	}
	aead, nonce, err := r.s.first(shared, r.context)
	if err != nil {
		return core.HPKECiphertext{}, fail("seal", err)
	}
	return core.HPKECiphertext{KEMOutput: enc, Ciphertext: aead.Seal(nil, nonce, plaintext, aad)}, nil
}

// SetupSender is core.Suite's.
func (s *suite) SetupSender(public, info []byte) ([]byte, core.Exporter, error) {
	shared, enc, err := s.kem.encap(public)
	if err != nil {
		return nil, nil, fail("set up sender", err)
	}
	export, err := s.exporter(shared, info)
	if err != nil {
		return nil, nil, fail("set up sender", err)
	}
	return enc, export, nil
}

// A recipient is HPKE over a private key, wherever that is.
type recipient struct {
	s      *suite
	key    core.Agreer
	own    groupKey // nil: not a key of this package
	public []byte
}

// Recipient is core.Suite's.
func (s *suite) Recipient(key core.PrivateKey) (core.Recipient, error) {
	agreer, ok := key.(core.Agreer)
	if !ok || agreer.Algorithm() != s.kem.alg {
		return nil, fail("recipient", fmt.Errorf("not an %s key: %w", s.kem.alg, core.ErrUnsupported))
	}
	r := &recipient{s: s, key: agreer, public: agreer.Public()}
	if own, ok := key.(*agreementKey); ok {
		r.own = own.k
		return r, nil
	}
	if err := s.kem.group.validate(r.public); err != nil {
		return nil, fail("recipient", err)
	}
	return r, nil
}

func (r *recipient) decap(ctx context.Context, enc []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var dh []byte
	var err error
	if r.own != nil {
		dh, err = r.own.agree(enc)
	} else {
		dh, err = r.s.kem.agreeWith(ctx, r.key, enc)
	}
	if err != nil {
		return nil, err
	}
	return r.s.kem.share(dh, enc, r.public)
}

func (r *recipient) Open(ctx context.Context, info, aad []byte, ct core.HPKECiphertext) ([]byte, error) {
	shared, err := r.decap(ctx, ct.KEMOutput)
	if err != nil {
		return nil, fail("open", err)
	}
	aead, nonce, err := r.s.first(shared, r.s.context(info))
	if err != nil {
		return nil, fail("open", err)
	}
	plaintext, err := aead.Open(nil, nonce, ct.Ciphertext, aad)
	if err != nil {
		return nil, fail("open", core.ErrInvalid)
	}
	return plaintext, nil
}

func (r *recipient) Setup(ctx context.Context, enc, info []byte) (core.Exporter, error) {
	shared, err := r.decap(ctx, enc)
	if err != nil {
		return nil, fail("set up recipient", err)
	}
	export, err := r.s.exporter(shared, info)
	if err != nil {
		return nil, fail("set up recipient", err)
	}
	return export, nil
}
