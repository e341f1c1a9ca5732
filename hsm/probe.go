// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// The lists that tokens give are not to be trusted: some list what they then refuse, make
// keys that they cannot use, or give out what they were told to keep. So what counts is
// what a token does when it is tried, with keys that are gone afterwards.

// State is what came of trying something.
type State string

// The states.
const (
	Works   State = "works"
	Fails   State = "fails"   // it begins well: the key is made, and then does not do what it is for
	Missing State = "missing" // the token has no such thing
)

// An Ability is something that was tried on a token.
type Ability struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Why   string `json:"why,omitempty"` // where it does not work

	stored bool           // tried with keys that stay, because the token has no others
	result cryptoki.Error // of what does not work
}

// passing says that it may be otherwise another time.
func (a Ability) passing() bool { return a.State != Works && !lastingResult(a.result) }

// A Report is what a token can do, by trying. It holds no secret.
type Report struct {
	Library      string `json:"library"` // what the module says of itself
	Token        string `json:"token"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
	MaxSessions  uint   `json:"max_sessions"` // 0: the token names no limit

	Keys  []Ability `json:"keys"`  // by core.KeyAlgorithm: made, and used once
	KEK   []Ability `json:"kek"`   // by the methods of [Token.Wrapper]
	Other []Ability `json:"other"` // keys of a session, random numbers, whether keys are kept
}

// String is a table for people.
func (r Report) String() string {
	var b strings.Builder
	limit := "no limit known"
	if r.MaxSessions > 0 {
		limit = fmt.Sprintf("at most %d", r.MaxSessions)
	}
	fmt.Fprintf(&b, "library   %s\ntoken     %s, serial number %s: %s %s, firmware %s\nsessions  %s\n",
		r.Library, r.Token, r.Serial, r.Manufacturer, r.Model, r.Firmware, limit)
	for _, part := range []struct {
		name string
		list []Ability
	}{{"private keys", r.Keys}, {"key encryption keys", r.KEK}, {"other", r.Other}} {
		fmt.Fprintf(&b, "\n%s\n", part.name)
		for _, a := range part.list {
			fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("  %-24s%-9s%s", a.Name, a.State, a.Why), " "))
		}
	}
	return b.String()
}

// Probe tries what the token can do, once for each [Token], or again if something failed
// that may work another time. It makes keys for a moment:
// in a session, or, on a token that has only keys that stay, on the token.
func (t *Token) Probe(ctx context.Context) (Report, error) {
	unlock, err := t.keys.lock(ctx, "probe")
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	if r := t.probed.Load(); r != nil {
		return r.clone(), nil
	}
	info := t.in.Load().info
	r := Report{
		Token: info.Label, Serial: info.Serial, Manufacturer: info.Manufacturer, Model: info.Model,
		Firmware: info.Firmware, MaxSessions: info.MaxSessions,
	}
	library := make(chan string, 2) // one of each try
	err = t.use(ctx, "probe", false, retryOnce, func(s *session) error {
		i, err := s.p.Info()
		if err != nil {
			return err
		}
		library <- fmt.Sprintf("%s %s (%s), Cryptoki %s", strings.TrimSpace(i.Library), i.Version, strings.TrimSpace(i.Manufacturer), i.Cryptoki)
		return nil
	})
	if err != nil {
		return Report{}, err
	}
	r.Library = <-library
	inSession := Ability{Name: "keys of a session", State: Missing}
	for _, a := range algorithms {
		can, err := t.ability(ctx, a)
		if err != nil {
			return Report{}, err
		}
		if can.State == Works && !can.stored {
			inSession.State = Works
		}
		r.Keys = append(r.Keys, can)
	}
	r.Other = append(r.Other, inSession)
	for _, m := range kekMethods {
		can, err := t.tried(ctx, m.name, func(s *session, made func()) error { return t.tryKEK(s, made, m) })
		if err != nil {
			return Report{}, err
		}
		r.KEK = append(r.KEK, can)
	}
	for _, other := range []struct {
		name string
		try  func(s *session, made func()) error
	}{
		{"AES-256 keys", t.tryAES},
		{"HMAC-SHA256", t.tryHMAC},
		{"random numbers", t.tryRandom},
		{"refuses to show keys", t.tryShow},
		{"refuses to wrap keys", t.tryWrap},
	} {
		can, err := t.tried(ctx, other.name, other.try)
		if err != nil {
			return Report{}, err
		}
		r.Other = append(r.Other, can)
	}
	for _, list := range [][]Ability{r.Keys, r.KEK, r.Other} {
		for _, a := range list {
			if a.passing() {
				return r, nil
			}
		}
	}
	t.probed.Store(&r)
	return r.clone(), nil
}

func (r Report) clone() Report {
	for _, list := range []*[]Ability{&r.Keys, &r.KEK, &r.Other} {
		*list = append([]Ability(nil), *list...)
	}
	return r
}

// tried says what came of an attempt, which calls made when the token has begun well. A
// token that is gone is an error.
func (t *Token) tried(ctx context.Context, name string, attempt func(s *session, made func()) error) (Ability, error) {
	a := Ability{Name: name, State: Works}
	begun := make(chan bool, 1)
	err := t.use(ctx, "probe", true, retryNever, func(s *session) error {
		return attempt(s, func() {
			select {
			case begun <- true:
			default:
			}
		})
	})
	if err == nil {
		return a, nil
	}
	var e *Error
	if errors.As(err, &e) {
		a.result = e.Result
	}
	if !errors.Is(err, core.ErrUnsupported) && !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrTooLarge) {
		return a, err
	}
	a.State = Missing
	select {
	case <-begun:
		a.State = Fails
	default:
	}
	if e != nil {
		if a.Why = e.Detail; e.Result != 0 {
			a.Why = e.Result.Name()
		}
		if e.Result == cryptoki.ErrDeviceMemory {
			a.Why += ": " + noRoom
		}
	}
	return a, nil
}

// ability tries an algorithm, once if what comes of it is sure to last.
func (t *Token) ability(ctx context.Context, a core.KeyAlgorithm) (Ability, error) {
	unlock, err := t.keys.lock(ctx, "algorithm "+string(a))
	if err != nil {
		return Ability{}, err
	}
	defer unlock()
	t.asked.Lock()
	can, known := t.can[a]
	t.asked.Unlock()
	if known {
		return can, nil
	}
	passing := false
	for _, stored := range []bool{false, true} {
		for range 3 { // another process that tries the same deletes the key, or the module was restarted
			can, err = t.tried(ctx, string(a), func(s *session, made func()) error { return t.try(s, made, a, stored) })
			if !stored || !stale(can.result) {
				break
			}
		}
		if can.stored = stored; err != nil {
			return Ability{}, err
		}
		passing = passing || can.passing()
		if can.State != Missing {
			break
		}
	}
	if passing && can.State != Works {
		return can, nil
	}
	t.asked.Lock()
	defer t.asked.Unlock()
	t.can[a] = can
	return can, nil
}

// try makes a key pair for a moment, and has it work.
func (t *Token) try(s *session, made func(), a core.KeyAlgorithm, stored bool) (err error) {
	c := curveFor(a, useOf(a))
	spec := core.KeySpec{Algorithm: a, Use: useOf(a), Label: probeLabel}
	_, _ = rand.Read(spec.ID[:])
	if stored {
		copy(spec.ID[:], probeID(string(a)))
		if err := t.delete(s, spec.ID[:], ""); err != nil {
			return err
		}
	}
	public, private, err := t.make(s, c, spec, stored)
	if err != nil {
		return err
	}
	if stored { // nothing else is to be destroyed
		err := errors.Join(t.is(s, private, named(cryptoki.ClassPrivateKey, spec.ID[:], "")), t.is(s, public, named(cryptoki.ClassPublicKey, spec.ID[:], "")))
		if err != nil {
			return err
		}
	}
	made()
	defer destroy(s, &err, private, public)
	point, err := s.p.Attribute(s.handle, public, cryptoki.CKAECPoint)
	if err != nil {
		return err
	}
	k := &key{t: t, publicID: spec.ID[:], curve: c, algorithm: a, public: c.publicKey(point), handle: private, generation: s.generation}
	// A module that cannot write the point cannot read it either, and tpm2-pkcs11 is not well
	// any more after it has tried to sign with such a key.
	if k.public == nil || !bytes.Equal(point, k.public) && !bytes.Equal(point, wrapped(k.public)) {
		return t.fail("probe", ErrUnsupported, "the token gives a malformed public key")
	}
	if useOf(a) == core.UseDecrypt {
		return (&agreer{k}).proves(s)
	}
	return (&signer{k}).proves(s)
}

const probeLabel = "conclave probe"

// probeID is the id of a key that stays while it is tried. If the process dies then, the
// next one finds the key by it, and deletes it.
func probeID(name string) []byte {
	sum := sha256.Sum256([]byte(probeLabel + "\x00" + name))
	return sum[:len(core.KeySpec{}.ID)]
}

// destroy is for a defer after objects were made.
func destroy(s *session, err *error, objects ...cryptoki.Object) {
	for _, o := range objects {
		if gone := s.p.Destroy(s.handle, o); *err == nil {
			*err = gone
		}
	}
}

// proves signs once, and verifies.
func (k *signer) proves(s *session) error {
	message := []byte("conclave probe")
	mechanism, data := k.input(message)
	out, err := s.p.Sign(s.handle, mechanism, k.handle, data)
	if err != nil {
		return err
	}
	encoded, err := k.encode(out)
	if err != nil {
		return k.disproved(err)
	}
	return k.disproved(k.check(s, message, data, out, encoded))
}

// disproved is for what the token does wrongly: that is not supported. What it says when
// it does nothing is passed on.
func (k *key) disproved(err error) error {
	var e *Error
	if err == nil || resultOf(err) != 0 {
		return err
	}
	if errors.As(err, &e) && e.Detail != "" {
		return k.t.fail("probe", ErrUnsupported, e.Detail)
	}
	return k.t.fail("probe", ErrUnsupported, err.Error())
}

// secret makes a secret key for a moment, with what destroys it: one of the session, or
// one that stays, of a token that has no others.
func (t *Token) secret(s *session, keyType uint, usage ...cryptoki.Attribute) (cryptoki.Object, error) {
	w := secretSpec{label: probeLabel, id: make([]byte, 16), mechanism: cryptoki.AESKeyGen, keyType: keyType, usage: usage}
	if keyType == cryptoki.KeyGenericSecret {
		w.mechanism = cryptoki.GenericSecretKeyGen
	}
	_, _ = rand.Read(w.id)
	o, err := s.p.GenerateKey(s.handle, w.mechanism, w.template(false))
	if resultOf(err) == cryptoki.ErrAttributeValueInvalid {
		w.id = probeID(fmt.Sprint(keyType, usage)) // another for each that is there at once
		left, err := t.find(s, named(cryptoki.ClassSecretKey, w.id, probeLabel))
		if err != nil {
			return 0, err
		}
		for _, o := range left {
			if err := s.p.Destroy(s.handle, o); err != nil {
				return 0, err
			}
		}
		return s.p.GenerateKey(s.handle, w.mechanism, w.template(true))
	}
	return o, err
}

func (t *Token) tryKEK(s *session, made func(), m *kekMethod) (err error) {
	k := &kek{t: t, method: m, head: []byte(probeLabel)}
	if k.keys.aes, err = t.secret(s, cryptoki.KeyAES, m.usage...); err != nil {
		return err
	}
	defer destroy(s, &err, k.keys.aes)
	if m.hmac {
		if k.keys.hmac, err = t.secret(s, cryptoki.KeyGenericSecret, cryptoki.CKASign); err != nil {
			return err
		}
		defer destroy(s, &err, k.keys.hmac)
	}
	_, err = m.check(s, k.keys)
	if r := resultOf(err); r == cryptoki.ErrMechanismInvalid || r == cryptoki.ErrFunctionNotSupported {
		return err
	}
	made()
	if err != nil {
		return err
	}
	return k.proves(s)
}

func (t *Token) tryAES(s *session, made func()) (err error) {
	o, err := t.secret(s, cryptoki.KeyAES, cryptoki.CKAEncrypt)
	if err == nil {
		destroy(s, &err, o)
	}
	return err
}

func (t *Token) tryHMAC(s *session, made func()) (err error) {
	o, err := t.secret(s, cryptoki.KeyGenericSecret, cryptoki.CKASign)
	if err != nil {
		return err
	}
	defer destroy(s, &err, o)
	var mac [3][]byte
	for i, text := range []string{"a", "a", "b"} {
		if mac[i], err = s.p.Sign(s.handle, cryptoki.SHA256HMAC, o, []byte(text)); err != nil {
			return err
		}
	}
	if len(mac[0]) != macLen || !bytes.Equal(mac[0], mac[1]) || bytes.Equal(mac[0], mac[2]) {
		made()
		return t.fail("probe", ErrUnsupported, "the token computes something else")
	}
	return nil
}

func (t *Token) tryRandom(s *session, made func()) (err error) {
	a, err := s.p.Random(s.handle, 32)
	if err != nil {
		return err
	}
	b, err := s.p.Random(s.handle, 32)
	if err == nil && (len(a) != 32 || len(b) != 32 || bytes.Equal(a, b)) {
		made()
		return t.fail("probe", ErrUnsupported, "the token gives the same twice, or another size")
	}
	return err
}

// tryShow reads a key that is to be kept.
func (t *Token) tryShow(s *session, made func()) (err error) {
	o, err := t.secret(s, cryptoki.KeyAES, cryptoki.CKAEncrypt)
	if err != nil {
		return err
	}
	defer destroy(s, &err, o)
	made()
	return t.refusesToShow(s, o)
}

// tryWrap has a key that is to be kept wrapped: who has the PIN would have the key.
func (t *Token) tryWrap(s *session, made func()) (err error) {
	kept, err := t.secret(s, cryptoki.KeyAES, cryptoki.CKAEncrypt)
	if err != nil {
		return err
	}
	defer destroy(s, &err, kept)
	with, err := t.secret(s, cryptoki.KeyAES, cryptoki.CKAWrap)
	if err != nil {
		return err
	}
	defer destroy(s, &err, with)
	_, err = s.p.Wrap(s.handle, cryptoki.AESKeyWrap, with, kept)
	switch resultOf(err) {
	case cryptoki.ErrKeyUnextractable:
		return nil
	case cryptoki.ErrMechanismInvalid, cryptoki.ErrFunctionNotSupported:
		return t.fail("probe", ErrUnsupported, "it has no AES key wrap")
	case 0:
		made()
		return t.fail("probe", ErrUnsupported, "a key marked as not extractable leaves the token, wrapped with another: who has the PIN can copy keys")
	}
	return err
}
