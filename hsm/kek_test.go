// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A scriptedKEK is the part of a module that the methods use. What it computes only looks
// as if it were encrypted.
type scriptedKEK struct {
	cryptoki.Module
	calls   []string
	fails   map[string]error // by call
	given   [][]byte         // every secret that went in or came out
	objects int              // of the session
	iv      func([]byte) []byte
	tag     func(aad []byte) []byte
	wrapped func([]byte) []byte // what Wrap gives in place of what it should
	params  []cryptoki.Parameters
	created cryptoki.Template
}

func newScripted() *scriptedKEK {
	return &scriptedKEK{
		fails:   map[string]error{},
		iv:      func(iv []byte) []byte { return iv },
		tag:     func(aad []byte) []byte { sum := sha256.Sum256(aad); return sum[:gcmTagLen] },
		wrapped: func(b []byte) []byte { return b },
	}
}

func (f *scriptedKEK) call(name string) error {
	f.calls = append(f.calls, name)
	return f.fails[name]
}

func invert(b []byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= 0x5c
	}
	return out
}

func (f *scriptedKEK) keep(secret []byte) []byte {
	f.given = append(f.given, secret)
	return secret
}

func (f *scriptedKEK) Encrypt(_ cryptoki.Session, m cryptoki.Mechanism, p cryptoki.Parameters, _ cryptoki.Object, data []byte) ([]byte, []byte, error) {
	if err := f.call("encrypt"); err != nil {
		return nil, nil, err
	}
	p.IV = bytes.Clone(p.IV)
	f.params = append(f.params, p)
	out := invert(data)
	if m == cryptoki.AESGCM {
		return append(out, f.tag(p.AAD)...), f.iv(p.IV), nil
	}
	return append(out, make([]byte, 16)...), p.IV, nil
}

func (f *scriptedKEK) Decrypt(_ cryptoki.Session, _ cryptoki.Mechanism, p cryptoki.Parameters, _ cryptoki.Object, data []byte) ([]byte, error) {
	if err := f.call("decrypt"); err != nil {
		return nil, err
	}
	f.params = append(f.params, p)
	return f.keep(invert(data[:len(data)-16])), nil
}

func (f *scriptedKEK) Sign(_ cryptoki.Session, _ cryptoki.Mechanism, key cryptoki.Object, data []byte) ([]byte, error) {
	h := hmac.New(sha256.New, []byte{byte(key)})
	h.Write(data)
	return h.Sum(nil), f.call("sign")
}

func (f *scriptedKEK) Create(_ cryptoki.Session, t cryptoki.Template) (cryptoki.Object, error) {
	if err := f.call("create"); err != nil {
		return 0, err
	}
	f.created = t
	f.keep(t[len(t)-1].Value.([]byte))
	f.objects++
	return 3, nil
}

func (f *scriptedKEK) Destroy(cryptoki.Session, cryptoki.Object) error {
	f.objects--
	return f.call("destroy")
}

func (f *scriptedKEK) Wrap(cryptoki.Session, cryptoki.Mechanism, cryptoki.Object, cryptoki.Object) ([]byte, error) {
	if err := f.call("wrap"); err != nil {
		return nil, err
	}
	return f.wrapped(append(make([]byte, 8), invert(f.given[len(f.given)-1])...)), nil
}

func (f *scriptedKEK) Unwrap(_ cryptoki.Session, _ cryptoki.Mechanism, _ cryptoki.Object, blob []byte, t cryptoki.Template) (cryptoki.Object, error) {
	if err := f.call("unwrap"); err != nil {
		return 0, err
	}
	f.created = t
	f.keep(invert(blob[8:]))
	f.objects++
	return 4, nil
}

func (f *scriptedKEK) Attribute(cryptoki.Session, cryptoki.Object, cryptoki.Attribute) ([]byte, error) {
	return f.keep(bytes.Clone(f.given[len(f.given)-1])), f.call("attribute")
}

func (f *scriptedKEK) session() *session { return &session{p: f} }

var scriptedKeys = kekKeys{aes: 1, hmac: 2}

// wiped fails unless nothing is left of the secrets that went through.
func (f *scriptedKEK) wiped(t *testing.T, what string, but ...[]byte) {
	t.Helper()
	for _, secret := range f.given {
		if slices.ContainsFunc(but, func(b []byte) bool { return bytes.Equal(b, secret) }) {
			continue
		}
		if !bytes.Equal(secret, make([]byte, len(secret))) {
			t.Errorf("%s: a secret is left", what)
		}
	}
	if f.objects != 0 {
		t.Errorf("%s: %d objects are left", what, f.objects)
	}
}

// Tokens that list GCM and mean something else are not used.
func TestGCMUnsuited(t *testing.T) {
	for name, change := range map[string]func(*scriptedKEK){
		"an IV of its own":    func(f *scriptedKEK) { f.iv = func([]byte) []byte { return make([]byte, 12) } },
		"a short tag":         func(f *scriptedKEK) { f.tag = func([]byte) []byte { return make([]byte, 12) } },
		"an IV of other size": func(f *scriptedKEK) { f.iv = func([]byte) []byte { return make([]byte, 16) } },
	} {
		f := newScripted()
		change(f)
		if out, err := gcmCheck(f.session(), scriptedKeys); !errors.Is(err, ErrUnsupported) || out != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*scriptedKEK){
		"a short tag":         func(f *scriptedKEK) { f.tag = func([]byte) []byte { return make([]byte, 12) } },
		"an IV of other size": func(f *scriptedKEK) { f.iv = func([]byte) []byte { return make([]byte, 16) } },
	} {
		f := newScripted()
		change(f)
		if out, err := gcmWrap(f.session(), scriptedKeys, make([]byte, 32), nil); !errors.Is(err, ErrUnsupported) || out != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The IV is ours and new each time; one that the token replaces is what is written.
func TestGCMIV(t *testing.T) {
	f := newScripted()
	for range 2 {
		if _, err := gcmWrap(f.session(), scriptedKeys, make([]byte, 32), []byte("bound")); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range f.params {
		if len(p.IV) != 12 || p.TagBits != 128 || string(p.AAD) != "bound" || bytes.Equal(p.IV, make([]byte, 12)) {
			t.Errorf("the token is asked for %+v", p)
		}
	}
	if bytes.Equal(f.params[0].IV, f.params[1].IV) {
		t.Error("an IV is used twice")
	}
	f.iv = func([]byte) []byte { return []byte("of the token") }
	body, err := gcmWrap(f.session(), scriptedKeys, make([]byte, 32), nil)
	if err != nil || string(body[:12]) != "of the token" {
		t.Errorf("%q, %v", body, err)
	}
	if _, err := gcmUnwrap(f.session(), scriptedKeys, body, nil); err != nil || string(f.params[len(f.params)-1].IV) != "of the token" {
		t.Error("it is decrypted with another IV")
	}
}

// Whatever fails, no key is left in the session and none in memory.
func TestKWLeavesNothing(t *testing.T) {
	broken := errors.New("broken")
	dek := bytes.Repeat([]byte{7}, 32)
	good := func() []byte {
		f := newScripted()
		body, err := kwWrap(f.session(), scriptedKeys, dek, []byte("bound"))
		if err != nil {
			t.Fatal(err)
		}
		f.wiped(t, "wrap")
		for _, v := range f.created {
			if v.Attribute == cryptoki.CKAToken && v.Value != false {
				t.Error("the key is stored")
			}
		}
		return body
	}()
	f := newScripted()
	if got, err := kwUnwrap(f.session(), scriptedKeys, good, []byte("bound")); err != nil || !bytes.Equal(got, dek) {
		t.Error(err)
	}
	f.calls, f.given[0] = nil, nil // which the script keeps
	f.wiped(t, "unwrap")
	for _, call := range []string{"create", "wrap", "destroy"} {
		f := newScripted()
		f.fails[call] = broken
		if body, err := kwWrap(f.session(), scriptedKeys, dek, nil); !errors.Is(err, broken) || body != nil {
			t.Errorf("wrap, %s fails: %v", call, err)
		}
		f.wiped(t, "wrap, failing "+call)
	}
	f = newScripted()
	f.wrapped = func(b []byte) []byte { return append(b, make([]byte, 8)...) }
	if _, err := kwWrap(f.session(), scriptedKeys, dek, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("another wrapping: %v", err)
	}
	f.wiped(t, "another wrapping")
	for _, call := range []string{"unwrap", "attribute", "destroy"} {
		f := newScripted()
		f.fails[call] = broken
		if got, err := kwUnwrap(f.session(), scriptedKeys, good, []byte("bound")); !errors.Is(err, broken) || got != nil {
			t.Errorf("unwrap, %s fails: %v", call, err)
		}
		if len(f.given) > 0 {
			f.given = f.given[1:]
		}
		f.wiped(t, "unwrap, failing "+call)
	}
	f = newScripted()
	if got, err := kwUnwrap(f.session(), scriptedKeys, good, []byte("other")); !errors.Is(err, errNotAuthentic) || got != nil {
		t.Errorf("bound to something else: %v", err)
	}
	f.given = f.given[1:]
	f.wiped(t, "bound to something else")
}

// What has a wrong MAC is not decrypted: its padding would tell something.
func TestCBCVerifiesFirst(t *testing.T) {
	f := newScripted()
	body, err := cbcWrap(f.session(), scriptedKeys, make([]byte, 32), []byte("bound"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range body {
		changed := bytes.Clone(body)
		changed[i]++
		if _, err := cbcUnwrap(f.session(), scriptedKeys, changed, []byte("bound")); !errors.Is(err, errNotAuthentic) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for i, bound := range []string{"boun", "bound ", ""} {
		if _, err := cbcUnwrap(f.session(), scriptedKeys, body, []byte(bound)); !errors.Is(err, errNotAuthentic) {
			t.Errorf("bound to something else, %d: %v", i, err)
		}
	}
	if slices.Contains(f.calls, "decrypt") {
		t.Error("it is decrypted")
	}
	if _, err := cbcUnwrap(f.session(), scriptedKeys, body, []byte("bound")); err != nil {
		t.Error(err)
	}
}

// A check value depends on each key of the method.
func TestCBCCheck(t *testing.T) {
	f := newScripted()
	one, err := cbcCheck(f.session(), kekKeys{aes: 1, hmac: 2})
	other, err2 := cbcCheck(f.session(), kekKeys{aes: 1, hmac: 3})
	if errors.Join(err, err2) != nil || bytes.Equal(one, other) {
		t.Errorf("%v, %v: the second key does not count", err, err2)
	}
	if len(one) != 32+32 {
		t.Errorf("%d bytes", len(one))
	}
}

// What a token says of a forged blob is no trouble with the token.
func TestRefusedWrapped(t *testing.T) {
	for _, result := range []cryptoki.Error{
		cryptoki.ErrEncryptedDataInvalid, cryptoki.ErrEncryptedDataLenRange, cryptoki.ErrWrappedKeyInvalid, cryptoki.ErrWrappedKeyLenRange,
		cryptoki.ErrDataInvalid, cryptoki.ErrDataLenRange, cryptoki.ErrArgumentsBad, cryptoki.ErrSignatureInvalid,
	} {
		if !refusedWrapped(&Error{Kind: kindOf(result), Result: result}) {
			t.Errorf("%s is trouble", result.Name())
		}
	}
	if !refusedWrapped(errNotAuthentic) || refusedWrapped(ErrTokenUnavailable) || refusedWrapped(ErrKeyMismatch) || refusedWrapped(ErrUnsupported) {
		t.Error("trouble is taken for a forged blob, or the reverse")
	}
}

// The secrets of an operation are wiped when nobody has them: neither the caller, who may
// have left, nor the call, which may be late.
func TestCustody(t *testing.T) {
	c := &custody{in: core.NewSecret([]byte("in"))}
	in, out := c.in.Bytes(), []byte("out")
	working, left := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() {
		done <- c.work(func(*session) error {
			close(working)
			<-left
			if string(in) != "in" {
				t.Error("it is wiped while it is used")
			}
			c.give(out)
			return nil
		})(nil)
	}()
	<-working
	c.end()
	close(left)
	if err := <-done; err != nil || string(in) != "\x00\x00" || string(out) != "\x00\x00\x00" {
		t.Errorf("%v; left over: %q, %q", err, in, out)
	}
	if err := c.work(func(*session) error { t.Error("it runs, and nobody waits"); return nil })(nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	c = &custody{in: core.NewSecret([]byte("in"))}
	in = c.in.Bytes()
	if err := c.work(func(*session) error { c.give([]byte("first")); c.give([]byte("out")); return nil })(nil); err != nil {
		t.Fatal(err)
	}
	got := c.take()
	c.end()
	if string(got.Bytes()) != "out" || string(in) != "\x00\x00" {
		t.Errorf("%q, %q", got.Bytes(), in)
	}
}

// FuzzWrapped: what is no blob of this key is refused, before the token has it, and what
// is one is split where it was joined.
func FuzzWrapped(f *testing.F) {
	k := &kek{t: &Token{name: "token"}, method: kekMethods[0], head: []byte("\x03\x01\x04name12345678")}
	copy(k.check[:], "12345678")
	signed := func(b []byte) []byte {
		sum := sha256.Sum256(b)
		return append(bytes.Clone(b), sum[:sumLen]...)
	}
	f.Add([]byte(""))
	f.Add([]byte("\x03\x01\x04name12345678body"))
	f.Add([]byte("\x03\x01\x05other12345678body"))
	f.Add([]byte("\x03\x02\x04name12345678body"))
	f.Add([]byte("\x03\x01\x04name87654321body"))
	f.Add([]byte("\x03\x01\xff"))
	f.Add([]byte("\x04\x01\x04name12345678body"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := k.split(b); err == nil && !bytes.Equal(signed(b[:len(b)-sumLen]), b) {
			t.Errorf("%x has a wrong sum", b)
		}
		head, body, err := k.split(signed(b))
		switch {
		case errors.Is(err, ErrWrapDamaged), errors.Is(err, ErrOtherKEK):
			if head != nil || body != nil || !errors.Is(err, core.ErrWrongKey) {
				t.Errorf("%x: %x, %x, %v", b, head, body, err)
			}
			if bytes.HasPrefix(b, k.head) && len(b) < maxWrapped-sumLen {
				t.Errorf("%x: %v", b, err)
			}
		case err != nil:
			t.Errorf("%x: %v", b, err)
		case !bytes.Equal(append(bytes.Clone(head), body...), b) || !bytes.HasSuffix(head, k.check[:]) || b[0] != kekFormat || b[1] != k.method.code:
			t.Errorf("%x: %x, %x", b, head, body)
		}
	})
}
