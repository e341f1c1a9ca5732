// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// Scheme is that of the references of token keys.
const Scheme = "pkcs11"

// A Provider makes and opens private keys on a token. They never leave it.
type Provider struct{ t *Token }

var (
	_ core.CryptoProvider = (*Provider)(nil)
	_ core.KeyDeleter     = (*Provider)(nil)
)

// Provider gives the crypto provider of the token. It ends with the token.
func (t *Token) Provider() *Provider { return &Provider{t} }

// Algorithms implements core.CryptoProvider: those of which the token has made a key that
// did what it is for, tried once. The lists that tokens give are not to be trusted.
func (p *Provider) Algorithms(ctx context.Context) ([]core.KeyAlgorithm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var can []core.KeyAlgorithm
	for _, a := range algorithms {
		tried, err := p.t.ability(ctx, a)
		if err != nil {
			return nil, err
		}
		if tried.State == Works {
			can = append(can, a)
		}
	}
	return can, nil
}

// GenerateKey implements core.CryptoProvider. CKA_ID is the ID; the key is sensitive, not
// extractable, and for one use. That the token refuses to read it out is tried; one that
// does not is core.ErrUnsupported, and has no new key. What is there of the ID and is no
// key that works was left behind by a process that died, and makes room.
func (p *Provider) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	t := p.t
	c := curveFor(spec.Algorithm, spec.Use)
	if c == nil {
		return nil, t.fail("generate", ErrUnsupported, "no algorithm "+string(spec.Algorithm)+" for this use")
	}
	unlock, err := t.keys.lock(ctx, string(spec.ID[:]))
	if err != nil {
		return nil, err
	}
	defer unlock()
	there, err := t.openKey(ctx, spec.ID[:], "")
	switch {
	case err == nil && there.Algorithm() == spec.Algorithm:
		return there, nil
	case err == nil:
		return nil, t.fail("generate", core.ErrConflict, "the id has a "+string(there.Algorithm())+" key")
	case !errors.Is(err, ErrKeyNotFound) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrKeyAmbiguous):
		return nil, err
	}
	switch can, err := t.ability(ctx, spec.Algorithm); { // some make keys that they cannot use
	case err != nil:
		return nil, err
	case can.State != Works:
		why := "the token has no use for " + string(spec.Algorithm) + " keys"
		if can.Why != "" {
			why += ": " + can.Why
		}
		return nil, t.fail("generate", ErrUnsupported, why)
	}
	if err := t.generate(ctx, c, spec); err != nil {
		return nil, err
	}
	return t.openKey(ctx, spec.ID[:], "")
}

// OpenKey implements core.CryptoProvider. A key of another token is core.ErrDenied.
func (p *Provider) OpenKey(ctx context.Context, ref core.KeyRef, _ core.Secret) (core.PrivateKey, error) {
	u, err := p.own(ref)
	if err != nil {
		return nil, err
	}
	return p.t.openKey(ctx, u.ID, u.Object)
}

// own reads a reference, which must be to this token.
func (p *Provider) own(ref core.KeyRef) (URI, error) {
	u, err := ParseReference(ref)
	if err != nil {
		return u, p.t.fail("open key", core.ErrDenied, err.Error())
	}
	info := p.t.in.Load().info
	if !u.Matches(info) || u.Token == "" && u.Serial == "" || len(u.ID) == 0 && u.Object == "" {
		return u, p.t.fail("open key", core.ErrDenied, "not a key of this token: "+string(ref))
	}
	return u, nil
}

func (t *Token) openKey(ctx context.Context, id []byte, label string) (core.PrivateKey, error) {
	result := make(chan core.PrivateKey, 2) // one of each try
	err := t.use(ctx, "open key", false, retryOnce, func(s *session) error {
		f, err := t.findKey(s, id, label)
		if err != nil {
			return err
		}
		k, err := t.open(f, id, label, s.generation)
		if err == nil {
			result <- k
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return <-result, nil
}

// DeleteKey implements core.KeyDeleter: both halves, the private one first. Certificates
// of the key stay, and so do public keys that share only the label with it.
func (p *Provider) DeleteKey(ctx context.Context, ref core.KeyRef) error {
	u, err := p.own(ref)
	if err != nil {
		return err
	}
	return p.t.use(ctx, "delete", true, retryOnce, func(s *session) error { return p.t.delete(s, u.ID, u.Object) })
}

// delete deletes all there is of a key. An id that was chosen for a KeySpec is that of one
// key, and if it has several private halves, two processes have made it at once. Any other
// name may be that of several keys, or of public keys whose private half is elsewhere: then
// a public key goes only with a private one of the same id and label.
func (t *Token) delete(s *session, id []byte, label string) error {
	chosen := len(id) == len(core.KeySpec{}.ID) && label == ""
	all, err := t.find(s, named(cryptoki.ClassPrivateKey, id, label))
	switch {
	case err != nil:
		return err
	case len(all) == 0: // that is no error, if the token is there
		if err := t.absent(s, ""); !errors.Is(err, ErrKeyNotFound) {
			return err
		}
	case len(all) > 1 && !chosen:
		return t.fail("delete", ErrKeyAmbiguous, URI{ID: id, Object: label}.String())
	case !chosen:
		if id, err = t.text(s, all[0], cryptoki.CKAID); err != nil {
			return err
		}
		of, err := t.text(s, all[0], cryptoki.CKALabel)
		if err != nil {
			return err
		}
		label = string(of)
	}
	for _, o := range all {
		if err := s.p.Destroy(s.handle, o); err != nil {
			return err
		}
	}
	if !chosen && (len(all) == 0 || len(id) == 0) {
		return nil
	}
	if all, err = t.find(s, named(cryptoki.ClassPublicKey, id, label)); err != nil {
		return err
	}
	for _, o := range all {
		if err := s.p.Destroy(s.handle, o); err != nil {
			return err
		}
	}
	return nil
}

// named is for a search by id and label, as far as given.
func named(class uint, id []byte, label string) cryptoki.Template {
	template := cryptoki.Template{{Attribute: cryptoki.CKAClass, Value: class}}
	if len(id) > 0 {
		template = append(template, cryptoki.Value{Attribute: cryptoki.CKAID, Value: id})
	}
	if label != "" { // some tokens do not take an empty one
		template = append(template, cryptoki.Value{Attribute: cryptoki.CKALabel, Value: label})
	}
	return template
}

// text is an attribute that an object may lack.
func (t *Token) text(s *session, o cryptoki.Object, a cryptoki.Attribute) ([]byte, error) {
	v, err := s.p.Attribute(s.handle, o, a)
	if resultOf(err) == cryptoki.ErrAttributeTypeInvalid {
		return nil, nil
	}
	return v, err
}

// pair is what the two halves of a key are made with.
func pair(c *curve, m maker, params []byte, spec core.KeySpec, stored bool) (public, private cryptoki.Template) {
	common := func(class uint) cryptoki.Template {
		t := cryptoki.Template{
			{Attribute: cryptoki.CKAClass, Value: class},
			{Attribute: cryptoki.CKAKeyType, Value: m.keyType},
			{Attribute: cryptoki.CKAToken, Value: stored},
			{Attribute: cryptoki.CKAID, Value: spec.ID[:]},
		}
		if spec.Label != "" {
			t = append(t, cryptoki.Value{Attribute: cryptoki.CKALabel, Value: spec.Label})
		}
		return t
	}
	signs := spec.Use == core.UseSign
	public = append(common(cryptoki.ClassPublicKey), cryptoki.Template{
		{Attribute: cryptoki.CKAPrivate, Value: false},
		{Attribute: cryptoki.CKAECParams, Value: params},
		{Attribute: cryptoki.CKAVerify, Value: signs},
	}...)
	private = append(common(cryptoki.ClassPrivateKey), cryptoki.Template{
		{Attribute: cryptoki.CKAPrivate, Value: true},
		{Attribute: cryptoki.CKASensitive, Value: true},
		{Attribute: cryptoki.CKAExtractable, Value: false},
		{Attribute: cryptoki.CKASign, Value: signs},
		{Attribute: cryptoki.CKADerive, Value: !signs},
	}...)
	return public, private
}

// generate makes a key pair, in the first of the ways that the token takes. It is never
// tried again after an error that may mean that there is one.
func (t *Token) generate(ctx context.Context, c *curve, spec core.KeySpec) error {
	err := t.use(ctx, "generate", true, retryNever, func(s *session) error {
		if err := t.delete(s, spec.ID[:], ""); err != nil { // half a key
			return err
		}
		_, _, err := t.make(s, c, spec, true)
		return err
	})
	if err != nil {
		return t.roomless(err)
	}
	return t.use(ctx, "generate", true, retryOnce, func(s *session) error {
		all, err := t.find(s, named(cryptoki.ClassPrivateKey, spec.ID[:], ""))
		if err != nil {
			return err
		}
		for _, private := range all {
			if err := t.keeps(s, private); err != nil {
				return errors.Join(err, t.delete(s, spec.ID[:], ""))
			}
		}
		return nil
	})
}

func (t *Token) make(s *session, c *curve, spec core.KeySpec, stored bool) (public, private cryptoki.Object, err error) {
	var general error
	for _, m := range c.makers {
		for _, params := range c.params() {
			a, b := pair(c, m, params, spec, stored)
			public, private, err = s.p.GenerateKeyPair(s.handle, m.mechanism, a, b)
			if err == nil || !refusedForm(resultOf(err)) {
				return public, private, err
			}
			if resultOf(err) == cryptoki.ErrGeneralError { // the key may be there all the same
				general = err
				if gone := t.delete(s, spec.ID[:], ""); gone != nil {
					return 0, 0, gone
				}
			}
		}
	}
	if general != nil { // or the token is gone
		return 0, 0, general
	}
	return 0, 0, &Error{Op: "generate", Token: t.name, Kind: ErrUnsupported, Result: resultOf(err)}
}

// refusedForm says of a result that the key may have been asked for in the wrong way.
func refusedForm(r cryptoki.Error) bool {
	switch r {
	case cryptoki.ErrGeneralError: // SoftHSM, of a form of the parameters that it does not know
		return true
	}
	return kindOf(r) != nil
}

// refusesToShow tries to read the private key out.
func (t *Token) refusesToShow(s *session, private cryptoki.Object) error {
	value, err := s.p.Attribute(s.handle, private, cryptoki.CKAValue)
	clear(value)
	switch r := resultOf(err); {
	case err == nil && len(value) == 0, r == cryptoki.ErrAttributeSensitive, r == cryptoki.ErrAttributeTypeInvalid:
		return nil
	case err != nil:
		return err
	}
	return t.fail("generate", ErrUnsupported, "the token gives out private keys that it was told to keep")
}

// keeps says whether a new key will stay in the token: that it is not given out, is tried;
// that it may be wrapped with another key, some tokens say, whatever they were told. One
// that wants the PIN before each use is of no use.
func (t *Token) keeps(s *session, o cryptoki.Object) error {
	if err := t.refusesToShow(s, o); err != nil {
		return err
	}
	for _, bad := range []struct {
		a   cryptoki.Attribute
		why string
	}{
		{cryptoki.CKAExtractable, "the token makes keys extractable that it was told to keep"},
		{cryptoki.CKAAlwaysAuthenticate, "the token makes keys that want the PIN before each use"},
	} {
		switch yes, err := t.says(s, o, bad.a); {
		case err != nil:
			return err
		case yes:
			return t.fail("generate", ErrUnsupported, bad.why)
		}
	}
	return nil
}

// says whether the token says yes of an object; one that says nothing does not.
func (t *Token) says(s *session, o cryptoki.Object, a cryptoki.Attribute) (bool, error) {
	v, err := s.p.Attribute(s.handle, o, a)
	if err != nil && kindOf(resultOf(err)) != nil {
		return false, nil
	}
	return len(v) == 1 && v[0] != 0, err
}

// noRoom is for CKR_DEVICE_MEMORY.
const noRoom = "the token has no room for another key"

// roomless has an error say so, if a full token is the reason.
func (t *Token) roomless(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Result == cryptoki.ErrDeviceMemory {
		return &Error{Op: e.Op, Token: e.Token, Result: e.Result, Kind: e.Kind, Detail: noRoom}
	}
	return err
}
