// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A key is a private key on a token. Its public key was read when it was opened, and is
// compared whenever the object has to be found again: a token that was swapped for
// another does not pass.
type key struct {
	t         *Token
	ref       core.KeyRef
	id        []byte // of what it was asked for by; empty: by the label
	label     string // likewise
	publicID  []byte // CKA_ID
	curve     *curve
	algorithm core.KeyAlgorithm
	public    []byte

	mu         sync.Mutex
	handle     cryptoki.Object
	generation uint64 // of the module, in which the handle is worth something; 0: none
	checked    int    // signatures verified in that generation
}

// Ref implements core.PrivateKey.
func (k *key) Ref() core.KeyRef { return k.ref }

// Algorithm implements core.PrivateKey.
func (k *key) Algorithm() core.KeyAlgorithm { return k.algorithm }

// Public implements core.PrivateKey.
func (k *key) Public() []byte { return bytes.Clone(k.public) }

// object finds the private key on the token, unless that was done since the module was
// initialised.
func (k *key) object(s *session) (cryptoki.Object, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.generation == s.generation {
		return k.handle, nil
	}
	f, err := k.t.findKey(s, k.id, k.label)
	if err != nil {
		return 0, err
	}
	if f.algorithm() != k.algorithm || !bytes.Equal(f.public, k.public) {
		return 0, k.t.fail("find key", ErrKeyMismatch, string(k.ref))
	}
	k.handle, k.generation, k.checked = f.private, s.generation, 0
	return k.handle, nil
}

// with runs f on the key; what it fails with may come of an old handle, which is then
// looked for again.
func (k *key) with(s *session, f func(o cryptoki.Object) error) error {
	o, err := k.object(s)
	if err != nil {
		return err
	}
	if err = f(o); err != nil {
		k.mu.Lock()
		k.generation = 0
		k.mu.Unlock()
	}
	return err
}

// A foundKey is a private key as it is on the token.
type foundKey struct {
	private cryptoki.Object
	curve   *curve
	signs   bool
	agrees  bool
	public  []byte
	id      []byte
	label   string
}

// algorithm is what the key is for: one that may sign is for that.
func (f foundKey) algorithm() core.KeyAlgorithm {
	if f.signs {
		return f.curve.sign
	}
	if f.agrees {
		return f.curve.agree
	}
	return ""
}

// findKey looks for the one private key of an id and, if given, a label. ErrKeyNotFound
// only if the token answers as a healthy one that we are logged in to.
func (t *Token) findKey(s *session, id []byte, label string) (f foundKey, err error) {
	name := URI{ID: id, Object: label}.String()
	all, err := t.find(s, named(cryptoki.ClassPrivateKey, id, label))
	switch {
	case err != nil:
		return f, err
	case len(all) == 0:
		return f, t.absent(s, name)
	case len(all) > 1:
		return f, t.fail("find key", ErrKeyAmbiguous, fmt.Sprintf("%d private keys match %s", len(all), name))
	}
	f.private = all[0]
	switch yes, err := t.says(s, f.private, cryptoki.CKAAlwaysAuthenticate); {
	case err != nil:
		return f, err
	case yes:
		return f, t.fail("find key", ErrUnsupported, name+" wants the PIN before each use, CKA_ALWAYS_AUTHENTICATE")
	}
	params, err := s.p.Attribute(s.handle, f.private, cryptoki.CKAECParams)
	if resultOf(err) == cryptoki.ErrAttributeTypeInvalid {
		return f, t.fail("find key", ErrUnsupported, name+" is not a key of an elliptic curve")
	}
	if err != nil {
		return f, err
	}
	if f.curve = curveOf(params); f.curve == nil {
		return f, t.fail("find key", ErrUnsupported, fmt.Sprintf("%s is on another curve, CKA_EC_PARAMS %x", name, params))
	}
	if f.signs, err = t.flag(s, f.private, cryptoki.CKASign); err != nil {
		return f, err
	}
	if f.agrees, err = t.flag(s, f.private, cryptoki.CKADerive); err != nil {
		return f, err
	}
	if f.curve.sign == "" { // X25519 made as an Edwards key
		f.signs = false
	}
	text, err := s.p.Attribute(s.handle, f.private, cryptoki.CKALabel)
	if err != nil && resultOf(err) != cryptoki.ErrAttributeTypeInvalid {
		return f, err
	}
	f.label = string(text)
	if f.id = id; len(id) == 0 {
		if f.id, err = s.p.Attribute(s.handle, f.private, cryptoki.CKAID); err != nil {
			return f, err
		}
	}
	f.public, err = t.publicKey(s, f, name)
	return f, err
}

// maxListed bounds what is listed of objects that should be one.
const maxListed = 16

// errCrossed: see find. A restart of the module helps.
var errCrossed = fmt.Errorf("a handle of the module is that of another object: %w", cryptoki.ErrObjectHandleInvalid)

// find lists objects, at most maxListed, if the module means them: after the first of its
// objects was deleted, tpm2-pkcs11 gives new ones handles that are others' already. Who
// used one would sign with another key, or delete it.
func (t *Token) find(s *session, want cryptoki.Template) ([]cryptoki.Object, error) {
	all, err := s.p.Find(s.handle, want, maxListed)
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		if err := t.is(s, o, want); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// is fails unless an object is what it was asked for by, as far as it says.
func (t *Token) is(s *session, o cryptoki.Object, want cryptoki.Template) error {
	for _, v := range want {
		got, err := s.p.Attribute(s.handle, o, v.Attribute)
		if err != nil && kindOf(resultOf(err)) == nil {
			return err
		}
		if err == nil && !v.Is(got) {
			return errCrossed
		}
	}
	return nil
}

func (t *Token) flag(s *session, o cryptoki.Object, a cryptoki.Attribute) (bool, error) {
	v, err := s.p.Attribute(s.handle, o, a)
	if resultOf(err) == cryptoki.ErrAttributeTypeInvalid {
		return false, nil
	}
	return len(v) == 1 && v[0] != 0, err
}

// absent is for a search without a hit, which a token that is gone gives as well.
func (t *Token) absent(s *session, name string) error {
	in := t.in.Load()
	if info, err := s.p.TokenInfo(in.slot); err != nil || info.Serial != in.info.Serial {
		return cryptoki.ErrTokenNotPresent
	}
	if in.info.Flags&cryptoki.FlagLoginRequired != 0 {
		if yes, err := s.p.LoggedIn(s.handle); err != nil || !yes {
			return cryptoki.ErrUserNotLoggedIn
		}
	}
	return t.fail("find key", ErrKeyNotFound, name)
}

// publicKey looks for the public half: an object of the same id, the private object
// itself, or a certificate.
func (t *Token) publicKey(s *session, f foundKey, name string) ([]byte, error) {
	for _, class := range []uint{cryptoki.ClassPublicKey, cryptoki.ClassPrivateKey, cryptoki.ClassCertificate} {
		objects := []cryptoki.Object{f.private}
		if class != cryptoki.ClassPrivateKey {
			var err error
			objects, err = t.find(s, cryptoki.Template{{Attribute: cryptoki.CKAClass, Value: class}, {Attribute: cryptoki.CKAID, Value: f.id}})
			if err != nil {
				return nil, err
			}
		}
		for _, o := range objects {
			read, a := f.curve.publicKey, cryptoki.CKAECPoint
			if class == cryptoki.ClassCertificate {
				read, a = f.curve.certified, cryptoki.CKAValue
			}
			v, err := s.p.Attribute(s.handle, o, a)
			if err != nil && kindOf(resultOf(err)) == nil {
				return nil, err
			}
			if public := read(v); err == nil && public != nil {
				return public, nil
			}
		}
	}
	return nil, t.fail("find key", ErrUnsupported, name+" has no public key and no certificate with the same id on the token")
}

// open makes a key of what was found.
func (t *Token) open(f foundKey, id []byte, label string, generation uint64) (core.PrivateKey, error) {
	k := &key{
		t: t, id: bytes.Clone(id), publicID: f.id, label: label, curve: f.curve, algorithm: f.algorithm(), public: f.public,
		handle: f.private, generation: generation,
	}
	info := t.in.Load().info
	k.ref = URI{Token: info.Label, Serial: info.Serial, ID: k.id, Object: label, Type: "private"}.Reference()
	switch {
	case k.algorithm == "":
		return nil, t.fail("open key", ErrUnsupported, string(k.ref)+" may neither sign nor derive")
	case f.signs:
		return &signer{k}, nil
	}
	return &agreer{k}, nil
}

// run is an operation on a key.
func (k *key) run(ctx context.Context, op string, r retry, f func(s *session, o cryptoki.Object) error) error {
	return k.t.use(ctx, op, false, r, func(s *session) error {
		return k.with(s, func(o cryptoki.Object) error { return f(s, o) })
	})
}
