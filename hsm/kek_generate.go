// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// GenerateKEK makes a key encryption key on the token and gives the URI for
// [Token.Wrapper]: AES-256, sensitive, not extractable, for one method and nothing else.
// The method is "aes-gcm", "aes-kw" or "aes-cbc-hmac"; empty, the first of the first two
// that works here. The last has a second key, whose label ends with "-hmac". That the
// token refuses to read a key out is tried, and that it wraps; a key that fails, or that the
// token says is extractable, is deleted.
//
// Who loses the key loses all that it wraps: decide about a backup first.
// core.ErrConflict: the token has a secret key of this label.
func (t *Token) GenerateKEK(ctx context.Context, label, method string) (uri string, err error) {
	if label == "" {
		return "", t.fail("generate kek", ErrInvalidInput, "it has no label")
	}
	if method != "" {
		m := methodOf(method)
		if m == nil {
			return "", t.fail("generate kek", ErrInvalidInput, fmt.Sprintf("no method %q", method))
		}
		return t.generateKEK(ctx, label, m)
	}
	for _, m := range kekMethods[:2] {
		made, failed := t.generateKEK(ctx, label, m)
		if !errors.Is(failed, core.ErrUnsupported) || !lasting(failed) {
			return made, failed
		}
		err = errors.Join(err, failed)
	}
	return "", err
}

func (t *Token) generateKEK(ctx context.Context, label string, m *kekMethod) (string, error) {
	info := t.in.Load().info
	u := URI{Token: info.Label, Serial: info.Serial, ID: make([]byte, 16), Object: label, Type: "secret-key", KEKMethod: m.name}
	_, _ = rand.Read(u.ID)
	want := []secretSpec{{label, u.ID, cryptoki.AESKeyGen, cryptoki.KeyAES, m.usage}}
	if m.hmac {
		u.HMACKey = label + "-hmac"
		second := make([]byte, 16) // of two keys of one id, NSS has the last
		_, _ = rand.Read(second)
		want = append(want, secretSpec{u.HMACKey, second, cryptoki.GenericSecretKeyGen, cryptoki.KeyGenericSecret, []cryptoki.Attribute{cryptoki.CKASign}})
	}
	unlock, err := t.keys.lock(ctx, "kek")
	if err != nil {
		return "", err
	}
	defer unlock()
	for _, w := range want {
		if err := t.labelFree(ctx, w.label); err != nil {
			return "", err
		}
	}
	err = t.roomless(t.use(ctx, "generate kek", true, retryNever, func(s *session) error {
		for _, w := range want {
			o, err := s.p.GenerateKey(s.handle, w.mechanism, w.template(true))
			if err == nil {
				err = t.keeps(s, o)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	if err == nil {
		_, err = t.Wrapper(ctx, u.String())
	}
	if err != nil {
		for _, w := range want {
			err = errors.Join(err, t.deleteKEK(context.WithoutCancel(ctx), w.id))
		}
		return "", err
	}
	return u.String(), nil
}

// A secretSpec is a secret key to be made.
type secretSpec struct {
	label     string
	id        []byte
	mechanism cryptoki.Mechanism
	keyType   uint
	usage     []cryptoki.Attribute
}

func (k secretSpec) template(stored bool) cryptoki.Template {
	t := cryptoki.Template{
		{Attribute: cryptoki.CKAClass, Value: cryptoki.ClassSecretKey},
		{Attribute: cryptoki.CKAKeyType, Value: k.keyType},
		{Attribute: cryptoki.CKAToken, Value: stored},
		{Attribute: cryptoki.CKAPrivate, Value: true},
		{Attribute: cryptoki.CKASensitive, Value: true},
		{Attribute: cryptoki.CKAExtractable, Value: false},
		{Attribute: cryptoki.CKALabel, Value: k.label},
		{Attribute: cryptoki.CKAID, Value: k.id},
		{Attribute: cryptoki.CKAValueLen, Value: uint(keyLen)},
	}
	uses := map[cryptoki.Attribute]bool{} // what is not said is what the token likes
	for _, a := range k.usage {
		uses[a] = true
	}
	for _, a := range []cryptoki.Attribute{
		cryptoki.CKAEncrypt, cryptoki.CKADecrypt, cryptoki.CKAWrap, cryptoki.CKAUnwrap, cryptoki.CKASign, cryptoki.CKAVerify, cryptoki.CKADerive,
	} {
		t = append(t, cryptoki.Value{Attribute: a, Value: uses[a]})
	}
	return t
}

// labelFree is core.ErrConflict if the token has a secret key of the label.
func (t *Token) labelFree(ctx context.Context, label string) error {
	err := t.use(ctx, "generate kek", false, retryOnce, func(s *session) error {
		_, err := t.findSecret(s, nil, label, nil)
		return err
	})
	switch {
	case errors.Is(err, ErrKeyNotFound):
		return nil
	case err == nil, errors.Is(err, ErrKeyAmbiguous), errors.Is(err, core.ErrUnsupported): // one, several, one of another size
		return t.fail("generate kek", core.ErrConflict, "the token has a secret key with the label "+label)
	}
	return err
}

// deleteKEK deletes the secret keys of an id that was drawn here.
func (t *Token) deleteKEK(ctx context.Context, id []byte) error {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	return t.use(ctx, "delete kek", true, retryOnce, func(s *session) error {
		all, err := t.find(s, named(cryptoki.ClassSecretKey, id, ""))
		for _, o := range all {
			if gone := s.p.Destroy(s.handle, o); err == nil {
				err = gone
			}
		}
		return err
	})
}
