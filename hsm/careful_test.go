// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// put adds an object as another program would.
func (f *fake) put(class uint, id, label string) {
	f.last++
	f.objects = append(f.objects, &object{handle: cryptoki.Object(f.last), attributes: attributesOf(cryptoki.Template{
		{Attribute: cryptoki.CKAClass, Value: class}, {Attribute: cryptoki.CKAToken, Value: true},
		{Attribute: cryptoki.CKAID, Value: []byte(id)}, {Attribute: cryptoki.CKALabel, Value: label},
	})})
}

// there lists the objects that stay: the class, 2 public and 3 private, the id, the label.
func (f *fake) there() string {
	var all []string
	for _, o := range f.objects {
		all = append(all, string(rune('0'+o.class()))+string(o.attributes[cryptoki.CKAID])+string(o.attributes[cryptoki.CKALabel]))
	}
	return strings.Join(all, " ")
}

// A key goes with its public half. The public keys of others stay, whatever they share
// with it.
func TestDeleteByName(t *testing.T) {
	const chosen = "0123456789abcdef"
	for _, c := range []struct{ name, there, left string }{
		{"object=L", "2aL 3aL 2bL 2aM", "2bL 2aM"},
		{"object=L", "2aL 2bL", "2aL 2bL"},
		{"object=L", "2aL 3L 2L", "2aL 2L"}, // it has no id
		{"object=L", "3aL 3bL 2aL", "3aL 3bL 2aL"},
		{"id=a", "2aL 3aL 2aM 2bL", "2aM 2bL"},
		{"id=a", "2aL 2bL", "2aL 2bL"},
		{"id=a;object=L", "2aL 3aL 3aM 2aM", "3aM 2aM"},
		{"id=a;object=L", "2aL", "2aL"},
		{"id=" + chosen, "2" + chosen + "L 3" + chosen + "L 3" + chosen + "L 2bL", "2bL"},
		{"id=" + chosen, "2" + chosen + "L 2bL", "2bL"},
		{"id=" + chosen + ";object=L", "2" + chosen + "L 2bL", "2" + chosen + "L 2bL"},
	} {
		f := newFake(t)
		token := f.open()
		for _, o := range strings.Fields(c.there) {
			f.put(uint(o[0]-'0'), o[1:len(o)-1], o[len(o)-1:])
		}
		err := token.Provider().DeleteKey(t.Context(), core.KeyRef("pkcs11:token=acme;"+c.name))
		if got := f.there(); got != c.left || errors.Is(err, ErrKeyAmbiguous) != strings.HasPrefix(c.left, "3aL") || err != nil && !errors.Is(err, ErrKeyAmbiguous) {
			t.Errorf("%s of %s leaves %s, %v", c.name, c.there, got, err)
		}
	}
}

// A token makes a key and says that it failed: it is asked in another way, and has one key.
func TestGeneratedAndFailed(t *testing.T) {
	f := newFake(t)
	token := f.open()
	f.key(token, core.X25519)
	f.objects = nil
	id := [16]byte{7}
	f.next("GenerateKeyPair", answer{err: cryptoki.ErrGeneralError, do: func() {
		f.put(cryptoki.ClassPublicKey, string(id[:]), "")
		f.put(cryptoki.ClassPrivateKey, string(id[:]), "")
	}})
	key, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: id, Algorithm: core.X25519, Use: core.UseDecrypt})
	if err != nil || key.Algorithm() != core.X25519 || len(f.objects) != 2 {
		t.Errorf("%v, %d objects", err, len(f.objects))
	}
}

// Keys that may leave the token are not kept on it, whatever it refuses to show.
func TestExtractable(t *testing.T) {
	f := newFake(t)
	var log bytes.Buffer
	token, err := Open(t.Context(), Config{URI: f.uri(""), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	uri, err := token.GenerateKEK(t.Context(), "good", kekGCM)
	if err != nil || log.Len() > 0 {
		t.Fatal(err, log.String())
	}
	f.objects[0].attributes[cryptoki.CKAExtractable] = []byte{1} // as another program made it
	if _, err := token.Wrapper(t.Context(), uri); err != nil || !strings.Contains(log.String(), "can leave the token") || !strings.Contains(log.String(), "object=good") {
		t.Error(err, log.String())
	}
	f.objects, f.extractable = nil, true
	_, err = token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{1}, Algorithm: core.Ed25519, Use: core.UseSign})
	if !errors.Is(err, ErrUnsupported) || len(f.objects) != 0 {
		t.Errorf("a key: %v, %d objects", err, len(f.objects))
	}
	_, err = token.GenerateKEK(t.Context(), "bad", kekGCM)
	if !errors.Is(err, ErrUnsupported) || len(f.objects) != 0 {
		t.Errorf("a key encryption key: %v, %d objects", err, len(f.objects))
	}
}

// What failed once for a reason that passes is tried again; what the token does not have is
// not.
func TestTriedAgain(t *testing.T) {
	spec := core.KeySpec{ID: [16]byte{1}, Algorithm: core.Ed25519, Use: core.UseSign}
	for _, result := range []cryptoki.Error{cryptoki.ErrDeviceMemory, cryptoki.ErrGeneralError, cryptoki.ErrFunctionFailed} {
		f := newFake(t)
		token := f.open()
		f.fails("GenerateKeyPair", result)
		f.fails("GenerateKey", result)
		_, err := token.Provider().GenerateKey(t.Context(), spec)
		full := result == cryptoki.ErrDeviceMemory
		if !errors.Is(err, core.ErrUnsupported) || strings.Contains(err.Error(), noRoom) != full {
			t.Errorf("%v: %v", result, err)
		}
		report, err := token.Probe(t.Context())
		if err != nil || strings.Count(report.String(), noRoom) > 0 != full {
			t.Errorf("%v: %v\n%s", result, err, report)
		}
		if _, err := token.GenerateKEK(t.Context(), "kek", kekGCM); err == nil || strings.Contains(err.Error(), noRoom) != full {
			t.Errorf("%v: %v", result, err)
		}
		f.fails("GenerateKeyPair", nil)
		f.fails("GenerateKey", nil)
		again, err := token.Probe(t.Context())
		if err != nil || again.Keys[0].State != Works || again.KEK[0].State != Works {
			t.Errorf("%v, afterwards: %v\n%s", result, err, again)
		}
		if _, err := token.Provider().GenerateKey(t.Context(), spec); err != nil {
			t.Errorf("%v, afterwards: %v", result, err)
		}
		f.fails("GenerateKeyPair", result) // of another key, when it is known that they work
		_, err = token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{2}, Algorithm: core.Ed25519, Use: core.UseSign})
		if err == nil || strings.Contains(err.Error(), noRoom) != full {
			t.Errorf("%v: %v", result, err)
		}
	}
	f := newFake(t)
	token := f.open()
	f.fails("GenerateKeyPair", cryptoki.ErrMechanismInvalid)
	f.fails("GenerateKey", cryptoki.ErrMechanismInvalid)
	for range 2 {
		if report, err := token.Probe(t.Context()); err != nil || report.Keys[0].State != Missing {
			t.Errorf("%v\n%s", err, report)
		}
		before := f.counts()
		if _, err := token.Provider().GenerateKey(t.Context(), spec); !errors.Is(err, ErrUnsupported) {
			t.Error(err)
		}
		if _, err := token.Probe(t.Context()); err != nil {
			t.Error(err)
		}
		f.is(before, map[string]int{"GenerateKeyPair": 0, "GenerateKey": 0})
	}
}

// A process that dies while it tries a token that has only keys that stay leaves some; the
// next one deletes them.
func TestTriedAndDied(t *testing.T) {
	f := newFake(t)
	f.stays = true
	f.put(cryptoki.ClassPublicKey, "other", "L")
	f.put(cryptoki.ClassSecretKey, "other", "L")
	dying, err := Open(t.Context(), Config{URI: f.uri("")})
	if err != nil {
		t.Fatal(err)
	}
	f.fails("Destroy", cryptoki.ErrFunctionNotSupported)
	if _, err := dying.Probe(t.Context()); err != nil || len(f.objects) < 6 {
		t.Fatalf("%v, %d objects", err, len(f.objects))
	}
	if err := dying.Close(); err != nil {
		t.Fatal(err)
	}
	f.fails("Destroy", nil)
	report, err := f.open().Probe(t.Context())
	if err != nil || report.Keys[0].State != Works || len(f.objects) != 2 {
		t.Errorf("%v, %d objects: %s\n%s", err, len(f.objects), f.there(), report)
	}
}

// Two processes try a token at once, and one deletes the key of the other.
func TestTriedAtOnce(t *testing.T) {
	f := newFake(t)
	f.stays = true
	token := f.open()
	f.next("Sign", answer{err: cryptoki.ErrKeyHandleInvalid}, answer{err: cryptoki.ErrObjectHandleInvalid})
	if _, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{1}, Algorithm: core.Ed25519, Use: core.UseSign}); err != nil {
		t.Error(err)
	}
}

// A key encryption key wraps nothing that it would not unwrap.
func TestKEKLongLabel(t *testing.T) {
	f := newFake(t)
	token := f.open()
	dek := core.NewSecret(bytes.Repeat([]byte{1}, maxDEK))
	refused := false
	for size := 3600; size < 4100; size += 10 {
		f.objects = nil
		uri, err := token.GenerateKEK(t.Context(), strings.Repeat("x", size), kekGCM)
		if err != nil {
			if refused = true; !errors.Is(err, ErrInvalidInput) || len(f.objects) != 0 {
				t.Errorf("%d: %v, %d objects", size, err, len(f.objects))
			}
			continue
		}
		w, err := token.Wrapper(t.Context(), uri)
		if err != nil {
			t.Fatal(err)
		}
		blob, err := w.Wrap(t.Context(), dek, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Unwrap(t.Context(), blob, nil); err != nil {
			t.Fatalf("%d: wrapped for good: %v", size, err)
		}
	}
	if !refused {
		t.Error("every label is short enough")
	}
}

// Another method is for a token that does not have the first, not for one that fails.
func TestKEKOtherMethod(t *testing.T) {
	f := newFake(t)
	token := f.open()
	if _, err := token.GenerateKEK(t.Context(), "kek", ""); err != nil {
		t.Fatal(err)
	}
	for result, other := range map[cryptoki.Error]bool{cryptoki.ErrGeneralError: false, cryptoki.ErrFunctionFailed: false, cryptoki.ErrMechanismInvalid: true} {
		f.fails("Encrypt", result)
		_, err := token.Wrapper(t.Context(), "pkcs11:object=kek")
		if err == nil || strings.Contains(err.Error(), kekKeyWrap) != other {
			t.Errorf("%v: %v", result, err)
		}
		made := f.count("GenerateKey")
		_, err = token.GenerateKEK(t.Context(), "another", "")
		if made = f.count("GenerateKey") - made; err == nil || made > 1 != other || len(f.objects) != 1 {
			t.Errorf("%v: %v, %d were made and %d are there", result, err, made, len(f.objects))
		}
		f.fails("Encrypt", nil)
	}
}

// What a token does not bind to what it is for is not wrapped by it.
func TestKEKWithoutAssociatedData(t *testing.T) {
	f := newFake(t)
	f.withoutAAD = true
	if _, err := f.open().GenerateKEK(t.Context(), "kek", kekGCM); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "associated data") || len(f.objects) != 0 {
		t.Errorf("%v, %d objects", err, len(f.objects))
	}
}

// A key that wants the PIN each time is refused when it is opened.
func TestPINEachTime(t *testing.T) {
	f := newFake(t)
	token := f.open()
	key := f.signer(token)
	for value, want := range map[byte]error{0: nil, 1: ErrUnsupported} {
		f.objects[1].attributes[cryptoki.CKAAlwaysAuthenticate] = []byte{value}
		_, err := token.Provider().OpenKey(t.Context(), key.Ref(), core.Secret{})
		if !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), "wants the PIN") {
			t.Errorf("%d: %v", value, err)
		}
	}
	f.objects, f.eachTime = nil, true
	_, err := token.Provider().GenerateKey(t.Context(), core.KeySpec{ID: [16]byte{1}, Algorithm: core.Ed25519, Use: core.UseSign})
	if !errors.Is(err, ErrUnsupported) || len(f.objects) != 0 {
		t.Errorf("a new one: %v, %d objects", err, len(f.objects))
	}
}
