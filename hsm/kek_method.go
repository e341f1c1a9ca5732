// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// kekKeys are the keys of a method on the token.
type kekKeys struct{ aes, hmac cryptoki.Object }

// A kekMethod is a way to wrap with a key of AES-256 in the token. What wrap is given
// beside the key is authenticated, not written. unwrap is errNotAuthentic, or what the
// module says, if anything is not as it was.
type kekMethod struct {
	name  string
	code  uint8
	usage []cryptoki.Attribute // of the AES key, and no other
	hmac  bool                 // it has a second key
	// check gives bytes that depend on the keys, and on nothing else.
	check  func(s *session, keys kekKeys) ([]byte, error)
	wrap   func(s *session, keys kekKeys, dek, bound []byte) ([]byte, error)
	unwrap func(s *session, keys kekKeys, body, bound []byte) ([]byte, error)
}

// kekMethods, the one to prefer first. CKM_AES_KEY_WRAP_PAD (0x210A) is none: tokens mean
// different things by it.
var kekMethods = []*kekMethod{
	{name: kekGCM, code: 1, usage: []cryptoki.Attribute{cryptoki.CKAEncrypt, cryptoki.CKADecrypt}, check: gcmCheck, wrap: gcmWrap, unwrap: gcmUnwrap},
	{name: kekKeyWrap, code: 2, usage: []cryptoki.Attribute{cryptoki.CKAWrap, cryptoki.CKAUnwrap}, check: kwCheck, wrap: kwWrap, unwrap: kwUnwrap},
	{name: kekCBCHMAC, code: 3, usage: []cryptoki.Attribute{cryptoki.CKAEncrypt, cryptoki.CKADecrypt}, hmac: true, check: cbcCheck, wrap: cbcWrap, unwrap: cbcUnwrap},
}

func methodOf(name string) *kekMethod {
	for _, m := range kekMethods {
		if m.name == name {
			return m
		}
	}
	return nil
}

func methodOfCode(code uint8) *kekMethod {
	for _, m := range kekMethods {
		if m.code == code {
			return m
		}
	}
	return nil
}

var errNotAuthentic = errors.New("not authentic")

// unsuited is for a token that does something, but not what a method needs.
func unsuited(why string) error {
	return &Error{Op: "wrap", Kind: ErrUnsupported, Detail: why}
}

// aes-gcm: the token encrypts the key.
//
//	iv[12] | ciphertext | tag[16]
const (
	gcmIVLen  = 12
	gcmTagLen = 16
)

func gcm(iv, aad []byte) cryptoki.Parameters {
	return cryptoki.Parameters{IV: iv, AAD: aad, TagBits: 8 * gcmTagLen}
}

// gcmCheckIV is used for the check value only. A random IV that is the same, of 2^96,
// would be needed for what is encrypted with it to tell anything; and it is not shown.
const gcmCheckIV = "conclave kcv"

func gcmCheck(s *session, keys kekKeys) ([]byte, error) {
	sealed, iv, err := s.p.Encrypt(s.handle, cryptoki.AESGCM, gcm([]byte(gcmCheckIV), []byte("conclave")), keys.aes, make([]byte, aes.BlockSize))
	switch {
	case err != nil:
		return nil, err
	case len(sealed) != aes.BlockSize+gcmTagLen:
		return nil, unsuited("the token gives a GCM tag of another size")
	case string(iv) != gcmCheckIV:
		return nil, unsuited("the token makes GCM IVs of its own, so that its keys have no check value; use " + kekKeyWrap)
	}
	return sealed[:aes.BlockSize], nil
}

func gcmWrap(s *session, keys kekKeys, dek, bound []byte) ([]byte, error) {
	fresh := make([]byte, gcmIVLen)
	_, _ = rand.Read(fresh)
	sealed, iv, err := s.p.Encrypt(s.handle, cryptoki.AESGCM, gcm(fresh, bound), keys.aes, dek)
	switch {
	case err != nil:
		return nil, err
	case len(iv) != gcmIVLen || len(sealed) != len(dek)+gcmTagLen:
		return nil, unsuited("the token gives a GCM IV or tag of another size")
	}
	return append(bytes.Clone(iv), sealed...), nil
}

func gcmUnwrap(s *session, keys kekKeys, body, bound []byte) ([]byte, error) {
	if len(body) <= gcmIVLen+gcmTagLen {
		return nil, errNotAuthentic
	}
	iv, sealed := body[:gcmIVLen], body[gcmIVLen:]
	dek, err := s.p.Decrypt(s.handle, cryptoki.AESGCM, gcm(iv, bound), keys.aes, sealed)
	if err == nil && len(dek) != len(sealed)-gcmTagLen {
		clear(dek)
		return nil, unsuited("the token decrypts GCM to another size")
	}
	return dek, err
}

// aes-kw: the token wraps, by RFC 3394, a key that is drawn for this once, with which the
// key itself is encrypted here. AES-KW alone has no associated data, and wraps the same
// key to the same bytes.
//
//	wrapped[40] | ciphertext | tag[16]
//
// The ciphertext is AES-256-GCM with the nonce 0, which is the only one of its key.
const kwLen = keyLen + 8

// kwImport is how a key is in the token for a moment: in the session, and readable. It
// was here before, or will be here.
func kwImport() cryptoki.Template {
	return cryptoki.Template{
		{Attribute: cryptoki.CKAClass, Value: cryptoki.ClassSecretKey},
		{Attribute: cryptoki.CKAKeyType, Value: cryptoki.KeyGenericSecret},
		{Attribute: cryptoki.CKAToken, Value: false},
		{Attribute: cryptoki.CKASensitive, Value: false},
		{Attribute: cryptoki.CKAExtractable, Value: true},
	}
}

func kw(s *session, keys kekKeys, key []byte) (wrapped []byte, err error) {
	o, err := s.p.Create(s.handle, append(kwImport(), cryptoki.Value{Attribute: cryptoki.CKAValue, Value: key}))
	if err != nil {
		return nil, err
	}
	defer func() {
		if gone := s.p.Destroy(s.handle, o); err == nil {
			err = gone
		}
	}()
	wrapped, err = s.p.Wrap(s.handle, cryptoki.AESKeyWrap, keys.aes, o)
	if err == nil && len(wrapped) != kwLen {
		return nil, unsuited("the token's AES key wrap is not that of RFC 3394")
	}
	return wrapped, err
}

func kwCheck(s *session, keys kekKeys) ([]byte, error) {
	return kw(s, keys, []byte("conclave kek check value, 32byte"))
}

// sealOnce is AES-256-GCM for a key that is used once.
func sealOnce(key []byte) (cipher.AEAD, []byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, make([]byte, gcmIVLen), err
}

func kwWrap(s *session, keys kekKeys, dek, bound []byte) ([]byte, error) {
	once := make([]byte, keyLen)
	_, _ = rand.Read(once)
	defer clear(once)
	aead, nonce, err := sealOnce(once)
	if err != nil {
		return nil, err
	}
	wrapped, err := kw(s, keys, once)
	if err != nil {
		return nil, err
	}
	return aead.Seal(wrapped, nonce, dek, bound), nil
}

func kwUnwrap(s *session, keys kekKeys, body, bound []byte) (dek []byte, err error) {
	if len(body) <= kwLen+gcmTagLen {
		return nil, errNotAuthentic
	}
	o, err := s.p.Unwrap(s.handle, cryptoki.AESKeyWrap, keys.aes, body[:kwLen], kwImport())
	if err != nil {
		return nil, err
	}
	once, err := s.p.Attribute(s.handle, o, cryptoki.CKAValue)
	defer clear(once)
	if gone := s.p.Destroy(s.handle, o); err == nil {
		err = gone
	}
	if err != nil {
		return nil, err
	}
	if len(once) != keyLen {
		return nil, unsuited(fmt.Sprintf("the token unwraps %d bytes to %d", kwLen, len(once)))
	}
	aead, nonce, err := sealOnce(once)
	if err != nil {
		return nil, err
	}
	if dek, err = aead.Open(nil, nonce, body[kwLen:], bound); err != nil {
		return nil, errNotAuthentic
	}
	return dek, nil
}

// aes-cbc-hmac, for old tokens: the token encrypts the key, and then computes HMAC-SHA256
// with a second key. Nothing is decrypted whose MAC is wrong, so that the padding tells
// nothing.
//
//	iv[16] | ciphertext | mac[32]
const macLen = 32

func cbcMAC(s *session, keys kekKeys, encrypted, bound []byte) ([]byte, error) {
	input := append([]byte("conclave kek mac\x00"), byte(len(encrypted)>>8), byte(len(encrypted)))
	input = append(append(input, encrypted...), bound...)
	mac, err := s.p.Sign(s.handle, cryptoki.SHA256HMAC, keys.hmac, input)
	if err == nil && len(mac) != macLen {
		return nil, unsuited("the token gives a MAC of another size")
	}
	return mac, err
}

// cbcCheck depends on both keys. What is encrypted is no IV and no block that cbcWrap
// would encrypt, but by chance, of 2^128.
func cbcCheck(s *session, keys kekKeys) ([]byte, error) {
	block, _, err := s.p.Encrypt(s.handle, cryptoki.AESCBCPad, cryptoki.Parameters{IV: make([]byte, aes.BlockSize)}, keys.aes, []byte("conclave kek kcv"))
	if err != nil {
		return nil, err
	}
	mac, err := s.p.Sign(s.handle, cryptoki.SHA256HMAC, keys.hmac, []byte("conclave kek check value"))
	return append(block, mac...), err
}

func cbcWrap(s *session, keys kekKeys, dek, bound []byte) ([]byte, error) {
	iv := make([]byte, aes.BlockSize)
	_, _ = rand.Read(iv)
	sealed, _, err := s.p.Encrypt(s.handle, cryptoki.AESCBCPad, cryptoki.Parameters{IV: iv}, keys.aes, dek)
	if err != nil {
		return nil, err
	}
	encrypted := append(iv, sealed...)
	mac, err := cbcMAC(s, keys, encrypted, bound)
	return append(encrypted, mac...), err
}

func cbcUnwrap(s *session, keys kekKeys, body, bound []byte) ([]byte, error) {
	if len(body) < 2*aes.BlockSize+macLen || len(body)%aes.BlockSize != 0 {
		return nil, errNotAuthentic
	}
	encrypted, mac := body[:len(body)-macLen], body[len(body)-macLen:]
	want, err := cbcMAC(s, keys, encrypted, bound)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(want, mac) != 1 {
		return nil, errNotAuthentic
	}
	return s.p.Decrypt(s.handle, cryptoki.AESCBCPad, cryptoki.Parameters{IV: encrypted[:aes.BlockSize]}, keys.aes, encrypted[aes.BlockSize:])
}
