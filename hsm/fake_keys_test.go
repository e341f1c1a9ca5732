// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// add makes an object of a session, or of the token.
func (f *fake) add(s cryptoki.Session, attributes map[cryptoki.Attribute][]byte, secret any) (*object, error) {
	f.last++
	o := &object{handle: cryptoki.Object(f.last), attributes: attributes, secret: secret}
	if _, ok := attributes[cryptoki.CKAExtractable]; ok && f.extractable {
		attributes[cryptoki.CKAExtractable] = []byte{1}
	}
	switch {
	case !o.is(cryptoki.CKAToken) && f.stays:
		return nil, cryptoki.ErrAttributeValueInvalid
	case !o.is(cryptoki.CKAToken):
		o.session = s
	case !f.sessions[s]:
		return nil, cryptoki.ErrSessionReadOnly
	}
	if f.crossed && len(f.objects) > 0 {
		o.handle = f.objects[0].handle
	}
	f.objects = append(f.objects, o)
	return o, nil
}

func (f *fake) GenerateKey(s cryptoki.Session, m cryptoki.Mechanism, t cryptoki.Template) (h cryptoki.Object, err error) {
	return h, f.call("GenerateKey", s, func() error {
		value := make([]byte, 32)
		_, _ = rand.Read(value)
		o, err := f.add(s, attributesOf(t), value)
		if err == nil {
			h = o.handle
		}
		return err
	})
}

// pretended is a key of Ed448, which the standard library does not have.
type pretended []byte

func (p pretended) sign(data []byte) []byte {
	a, b := sha512.Sum512(append([]byte("a"+string(p)), data...)), sha512.Sum512(append([]byte("b"+string(p)), data...))
	return append(a[:], b[:50]...)
}

func (f *fake) GenerateKeyPair(s cryptoki.Session, m cryptoki.Mechanism, public, private cryptoki.Template) (a, b cryptoki.Object, err error) {
	return a, b, f.call("GenerateKeyPair", s, func() error {
		x, y := attributesOf(public), attributesOf(private)
		params := x[cryptoki.CKAECParams]
		c := curveOf(params)
		if c == nil || f.printable && c.name != "" && bytes.Equal(params, c.oid) {
			return cryptoki.ErrAttributeValueInvalid
		}
		if m == cryptoki.MontgomeryKeyPairGen && !f.montgomery || m == cryptoki.EdwardsKeyPairGen && c.agree != "" && f.montgomery {
			return cryptoki.ErrMechanismInvalid
		}
		secret, point := newSecretKey(c)
		if secret == nil {
			return cryptoki.ErrAttributeValueInvalid
		}
		x[cryptoki.CKAECPoint], y[cryptoki.CKAECParams] = f.point(point), params
		o, err := f.add(s, x, nil)
		if err != nil {
			return err
		}
		if f.eachTime {
			y[cryptoki.CKAAlwaysAuthenticate] = []byte{1}
		}
		p, err := f.add(s, y, secret)
		if err != nil {
			return err
		}
		a, b = o.handle, p.handle
		return nil
	})
}

func newSecretKey(c *curve) (secret any, public []byte) {
	switch c.sign {
	case core.ECDSAP256, core.ECDSAP384, core.ECDSAP521:
		k, _ := ecdsa.GenerateKey(map[int]elliptic.Curve{32: elliptic.P256(), 48: elliptic.P384(), 66: elliptic.P521()}[c.scalar], rand.Reader)
		public, _ = k.PublicKey.Bytes()
		return k, public
	case core.Ed25519:
		public, k, _ := ed25519.GenerateKey(rand.Reader)
		return k, public
	case core.Ed448:
		k := make(pretended, c.point)
		_, _ = rand.Read(k)
		return k, k
	}
	if c.agree == core.X25519 {
		k, _ := ecdh.X25519().GenerateKey(rand.Reader)
		return k, k.PublicKey().Bytes()
	}
	return nil, nil
}

func (f *fake) Create(cryptoki.Session, cryptoki.Template) (cryptoki.Object, error) {
	return 0, cryptoki.ErrFunctionNotSupported
}

func (f *fake) Destroy(s cryptoki.Session, h cryptoki.Object) error {
	return f.call("Destroy", s, func() error {
		o, err := f.get(h)
		if err != nil {
			return err
		}
		f.crossed = f.crossed || f.crosses && o == f.objects[0]
		f.objects = slices.DeleteFunc(f.objects, func(other *object) bool { return o == other })
		return nil
	})
}

func (f *fake) Sign(s cryptoki.Session, m cryptoki.Mechanism, key cryptoki.Object, data []byte) (out []byte, err error) {
	return out, f.call("Sign", s, func() error {
		f.used = append(f.used, s)
		o, err := f.get(key)
		if err != nil {
			return err
		}
		switch k := o.secret.(type) {
		case *ecdsa.PrivateKey:
			der, err := ecdsa.SignASN1(rand.Reader, k, data)
			if err != nil {
				return cryptoki.ErrFunctionFailed
			}
			size := (k.Curve.Params().BitSize + 7) / 8
			out = make([]byte, 2*size)
			var in, r, s cryptobyte.String = der, nil, nil
			if !in.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1(&r, asn1.INTEGER) || !in.ReadASN1(&s, asn1.INTEGER) {
				return cryptoki.ErrFunctionFailed
			}
			for i, part := range [][]byte{r, s} {
				part = bytes.TrimLeft(part, "\x00")
				copy(out[(i+1)*size-len(part):], part)
			}
		case ed25519.PrivateKey:
			out = ed25519.Sign(k, data)
		case pretended:
			out = k.sign(data)
		default:
			return cryptoki.ErrKeyFunctionNotPermitted
		}
		if f.sign != nil {
			out = f.sign(out)
		}
		return nil
	})
}

func (f *fake) Verify(s cryptoki.Session, m cryptoki.Mechanism, key cryptoki.Object, data, signature []byte) error {
	return f.call("Verify", s, func() error {
		o, err := f.get(key)
		if err != nil {
			return err
		}
		if public := curves[4].publicKey(o.attributes[cryptoki.CKAECPoint]); !bytes.Equal(pretended(public).sign(data), signature) {
			return cryptoki.ErrSignatureInvalid
		}
		return nil
	})
}

func (f *fake) gcm(key cryptoki.Object, m cryptoki.Mechanism, p cryptoki.Parameters) (cipher.AEAD, error) {
	o, err := f.get(key)
	if err != nil {
		return nil, err
	}
	value, ok := o.secret.([]byte)
	if !ok || m != cryptoki.AESGCM || len(p.IV) != 12 || p.TagBits != 128 {
		return nil, cryptoki.ErrMechanismInvalid
	}
	block, err := aes.NewCipher(value)
	if err != nil {
		return nil, cryptoki.ErrKeySizeRange
	}
	return cipher.NewGCM(block)
}

func (f *fake) Encrypt(s cryptoki.Session, m cryptoki.Mechanism, p cryptoki.Parameters, key cryptoki.Object, data []byte) (out, iv []byte, err error) {
	return out, p.IV, f.call("Encrypt", s, func() error {
		a, err := f.gcm(key, m, p)
		if f.withoutAAD {
			p.AAD = nil
		}
		if err == nil {
			out = a.Seal(nil, p.IV, data, p.AAD)
		}
		return err
	})
}

func (f *fake) Decrypt(s cryptoki.Session, m cryptoki.Mechanism, p cryptoki.Parameters, key cryptoki.Object, data []byte) (out []byte, err error) {
	return out, f.call("Decrypt", s, func() error {
		a, err := f.gcm(key, m, p)
		if err != nil {
			return err
		}
		if f.withoutAAD {
			p.AAD = nil
		}
		if out, err = a.Open(nil, p.IV, data, p.AAD); err != nil { // as SoftHSM
			return cryptoki.ErrGeneralError
		}
		return nil
	})
}

func (f *fake) Derive(s cryptoki.Session, key cryptoki.Object, peer []byte, t cryptoki.Template) (h cryptoki.Object, err error) {
	return h, f.call("Derive", s, func() error {
		o, err := f.get(key)
		if err != nil {
			return err
		}
		var k *ecdh.PrivateKey
		switch x := o.secret.(type) {
		case *ecdsa.PrivateKey:
			k, err = x.ECDH()
		case *ecdh.PrivateKey:
			k = x
		}
		if k == nil || err != nil {
			return cryptoki.ErrKeyFunctionNotPermitted
		}
		if f.derPeers {
			in := cryptobyte.String(peer)
			var inner cryptobyte.String
			// A point may look like one by chance, of another size.
			if !in.ReadASN1(&inner, asn1.OCTET_STRING) || !in.Empty() || len(inner) != len(k.PublicKey().Bytes()) {
				return cryptoki.ErrMechanismParamInvalid
			}
			peer = inner
		}
		public, err := k.Curve().NewPublicKey(peer)
		if err != nil {
			return cryptoki.ErrGeneralError
		}
		value, err := k.ECDH(public)
		if err != nil {
			return cryptoki.ErrGeneralError
		}
		if f.agree != nil {
			value = f.agree(value)
		}
		attributes := attributesOf(t)
		attributes[cryptoki.CKAValue] = value
		d, err := f.add(s, attributes, nil)
		if err == nil {
			h = d.handle
		}
		return err
	})
}

func (f *fake) Wrap(cryptoki.Session, cryptoki.Mechanism, cryptoki.Object, cryptoki.Object) ([]byte, error) {
	return nil, cryptoki.ErrFunctionNotSupported
}

func (f *fake) Unwrap(cryptoki.Session, cryptoki.Mechanism, cryptoki.Object, []byte, cryptoki.Template) (cryptoki.Object, error) {
	return 0, cryptoki.ErrFunctionNotSupported
}

func (f *fake) Random(s cryptoki.Session, n int) (b []byte, err error) {
	return b, f.call("Random", s, func() error {
		b = make([]byte, n)
		_, _ = rand.Read(b)
		return nil
	})
}
