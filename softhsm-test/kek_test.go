// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// kekMethods are those that the kinds of tokens have.
var kekMethods = map[string][]string{
	"softhsm": {"aes-gcm", "aes-kw", "aes-cbc-hmac"},
	"nss":     {"aes-kw", "aes-cbc-hmac"},
	"p11-kit": {},

	"opencryptoki": {"aes-cbc-hmac"},
}

// bestKEK is the method that a token takes by itself: "" for none, the oldest one is only
// for who asks for it.
func bestKEK(kind string) string {
	if all := kekMethods[kind]; len(all) > 0 && all[0] != "aes-cbc-hmac" {
		return all[0]
	}
	return ""
}

func generateKEK(t testing.TB, token *hsm.Token, label, method string) string {
	t.Helper()
	uri, err := token.GenerateKEK(t.Context(), label, method)
	if err != nil {
		t.Fatal(err)
	}
	return uri
}

func wrapper(t testing.TB, token *hsm.Token, uri string) core.KeyWrapper {
	t.Helper()
	w, err := token.Wrapper(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func wrap(t testing.TB, w core.KeyWrapper, dek []byte, aad string) []byte {
	t.Helper()
	blob, err := w.Wrap(t.Context(), core.NewSecret(bytes.Clone(dek)), []byte(aad))
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func unwraps(t testing.TB, w core.KeyWrapper, blob, dek []byte, aad string) {
	t.Helper()
	got, err := w.Unwrap(t.Context(), blob, []byte(aad))
	if err != nil || !bytes.Equal(got.Bytes(), dek) {
		t.Errorf("unwraps to another key, or %v", err)
	}
}

// refuses fails unless the error is what the contract says and of this kind.
func refuses(t testing.TB, what string, w core.KeyWrapper, blob []byte, aad string, kind error) {
	t.Helper()
	got, err := w.Unwrap(t.Context(), blob, []byte(aad))
	if !errors.Is(err, kind) || !errors.Is(err, core.ErrWrongKey) || !got.IsZero() {
		t.Errorf("%s: %v", what, err)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// attach uses the module of a token beside package hsm, which is logged in.
func attach(t testing.TB, k *softhsmtest.Token) bare {
	t.Helper()
	b := bare{Ctx: pkcs11.New(k.ModulePath)}
	if b.Ctx == nil {
		t.Fatal("no module")
	}
	t.Cleanup(b.Destroy)
	slots, err := b.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := b.GetTokenInfo(slot); err == nil && strings.TrimRight(info.Label, " \x00") == k.Label {
			b.slot = slot
		}
	}
	if b.session, err = b.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.CloseSession(b.session) })
	return b
}

// secret gives the handle of a secret key.
func (b bare) secret(t testing.TB, label string) pkcs11.ObjectHandle {
	t.Helper()
	err := b.FindObjectsInit(b.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	})
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := b.FindObjects(b.session, 2)
	if err := errors.Join(err, b.FindObjectsFinal(b.session)); err != nil || len(found) != 1 {
		t.Fatalf("%d keys with the label %s, %v", len(found), label, err)
	}
	return found[0]
}

// importSecret puts a key of known value on the token, for all uses, and kept. Of the given attributes
// it has the reverse.
func (b bare) importSecret(t testing.TB, label string, id []byte, keyType uint, value []byte, reversed ...uint) {
	t.Helper()
	a := func(attribute uint, value any) *pkcs11.Attribute {
		if slices.Contains(reversed, attribute) {
			value = value == false
		}
		return pkcs11.NewAttribute(attribute, value)
	}
	_, err := b.CreateObject(b.session, []*pkcs11.Attribute{
		a(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), a(pkcs11.CKA_KEY_TYPE, keyType), a(pkcs11.CKA_TOKEN, true), a(pkcs11.CKA_PRIVATE, true),
		a(pkcs11.CKA_SENSITIVE, true), a(pkcs11.CKA_EXTRACTABLE, false), a(pkcs11.CKA_LABEL, label), a(pkcs11.CKA_ID, id),
		a(pkcs11.CKA_ENCRYPT, true), a(pkcs11.CKA_DECRYPT, true), a(pkcs11.CKA_WRAP, true), a(pkcs11.CKA_UNWRAP, true),
		a(pkcs11.CKA_SIGN, true), a(pkcs11.CKA_VERIFY, true), a(pkcs11.CKA_VALUE, value),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestKEK: the conformance suite of key wrappers, by each method of each token.
func TestKEK(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			k := kind.make(t)
			token := open(t, k.URI())
			for _, method := range kekMethods[kind.name] {
				t.Run(method, func(t *testing.T) {
					uris := make([]string, 2)
					for i := range uris {
						uris[i] = generateKEK(t, token, fmt.Sprint(method, i), method)
					}
					coretest.TestKeyWrapper(t, func(t *testing.T, key int) core.KeyWrapper { return wrapper(t, token, uris[key]) })
				})
			}
			t.Run("the best", func(t *testing.T) {
				uri, err := token.GenerateKEK(t.Context(), "kek", "")
				if best := bestKEK(kind.name); best != "" {
					if u, e := hsm.ParseURI(uri); errors.Join(e, err) != nil || u.KEKMethod != best {
						t.Fatalf("%q, %v", uri, err)
					}
					// The method is found out where it is not said.
					if a, b := wrapper(t, token, uri), wrapper(t, token, "pkcs11:object=kek"); a.ID() != b.ID() {
						t.Errorf("%s is %s as well", a.ID(), b.ID())
					}
				} else if !errors.Is(err, hsm.ErrUnsupported) {
					t.Fatalf("a token without a method makes %q, error %v", uri, err)
				}
			})
			// Nothing is left behind, not by what failed either.
			want := 0
			for _, method := range kekMethods[kind.name] {
				want += map[string]int{"aes-gcm": 2, "aes-kw": 2, "aes-cbc-hmac": 4}[method]
			}
			if bestKEK(kind.name) != "" {
				want++
			}
			b := bare{}
			if kind.name == "p11-kit" { // whose client is another for everybody who loads it
				b = login(t, k.Local())
			} else {
				b = attach(t, k)
			}
			if found := b.find(t, pkcs11.CKO_SECRET_KEY); found != want {
				t.Errorf("there are %d secret keys, want %d", found, want)
			}
		})
	}
}

// What is forged with a right sum reaches the token, and no harm comes of it: no restart,
// no login, no object.
func TestKEKForged(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		if kind.name == "p11-kit" {
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			k := softhsmtest.Spy(t, kind.make(t))
			token := open(t, k.URI())
			for _, method := range kekMethods[kind.name] {
				w := wrapper(t, token, generateKEK(t, token, method, method))
				before := attach(t, k).find(t, pkcs11.CKO_SECRET_KEY)
				dek := random(32)
				blob := wrap(t, w, dek, "aad")
				calls := len(k.Calls(t, "C_Initialize", "C_Login"))
				forge := func(what string, blob []byte, kinds ...error) {
					t.Helper()
					sum := sha256.Sum256(blob)
					got, err := w.Unwrap(t.Context(), append(blob, sum[:4]...), []byte("aad"))
					if !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) }) || !errors.Is(err, core.ErrWrongKey) || !got.IsZero() {
						t.Errorf("%s, %s: %v", method, what, err)
					}
				}
				blob = blob[:len(blob)-4]
				for i := range blob {
					changed := bytes.Clone(blob)
					changed[i] ^= 1 << (i % 8)
					forge(fmt.Sprintf("byte %d of %d changed", i, len(blob)), changed, hsm.ErrWrapDamaged, hsm.ErrOtherKEK)
					forge(fmt.Sprintf("cut to %d bytes", i), bytes.Clone(blob[:i]), hsm.ErrWrapDamaged)
				}
				forge("longer", append(bytes.Clone(blob), random(32)...), hsm.ErrWrapDamaged)
				unwraps(t, w, wrap(t, w, dek, "aad"), dek, "aad")
				if now := len(k.Calls(t, "C_Initialize", "C_Login")); now != calls {
					t.Errorf("%s: %d restarts and logins", method, now-calls)
				}
				if now := attach(t, k).find(t, pkcs11.CKO_SECRET_KEY); now != before {
					t.Errorf("%s: %d secret keys, there were %d", method, now, before)
				}
			}
		})
	}
}

// A key of the same label on another token is another key, and it is said which.
func TestKEKOther(t *testing.T) {
	t.Parallel()
	for _, method := range kekMethods["softhsm"] {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			var w [2]core.KeyWrapper
			for i := range w {
				token := open(t, softhsmtest.New(t).URI())
				w[i] = wrapper(t, token, generateKEK(t, token, "same label", method))
			}
			dek := random(32)
			blob := wrap(t, w[0], dek, "aad")
			unwraps(t, w[0], blob, dek, "aad")
			if w[0].ID() == w[1].ID() {
				t.Error("two keys have one id")
			}
			_, err := w[1].Unwrap(t.Context(), blob, []byte("aad"))
			var e *hsm.Error
			if !errors.As(err, &e) || e.Kind != hsm.ErrOtherKEK || !strings.Contains(e.Detail, "object=same%20label") || !strings.Contains(e.Detail, "this is "+w[1].ID()) {
				t.Errorf("another key: %v", err)
			}
			refuses(t, "another purpose", w[0], blob, "other", hsm.ErrWrapDamaged)
			for i := range blob {
				changed := bytes.Clone(blob)
				changed[i]++
				refuses(t, fmt.Sprintf("damaged at %d", i), w[0], changed, "aad", hsm.ErrWrapDamaged)
				refuses(t, fmt.Sprintf("damaged at %d, another key", i), w[1], changed, "aad", hsm.ErrWrapDamaged)
			}
			for i, text := range []string{"", "\x03", "\x01conclave"} {
				refuses(t, fmt.Sprint("other bytes, ", i), w[0], []byte(text), "aad", hsm.ErrWrapDamaged)
			}
		})
	}
}

// The same key on two tokens, as a backup is: what one has wrapped the other unwraps,
// under another label too. And what was wrapped is opened here, by nothing but the key
// and the standards.
func TestKEKKnown(t *testing.T) {
	t.Parallel()
	for _, method := range kekMethods["softhsm"] {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			key, mac, dek := random(32), random(32), random(32)
			var w [2]core.KeyWrapper
			for i := range w {
				k := softhsmtest.New(t)
				token := open(t, k.URI())
				b, label := attach(t, k), fmt.Sprint("label ", i)
				b.importSecret(t, label, []byte{1}, pkcs11.CKK_AES, key)
				uri := fmt.Sprintf("pkcs11:object=label%%20%d?x-kek-method=%s", i, method)
				if method == "aes-cbc-hmac" {
					b.importSecret(t, "mac", []byte{2}, pkcs11.CKK_GENERIC_SECRET, mac)
					uri += "&x-hmac-key=mac"
				}
				w[i] = wrapper(t, token, uri)
			}
			if w[0].ID() != w[1].ID() || !strings.HasPrefix(w[0].ID(), "pkcs11:"+method+":") || len(w[0].ID()) != len("pkcs11::")+len(method)+16 {
				t.Errorf("one key has the ids %s and %s", w[0].ID(), w[1].ID())
			}
			blob := wrap(t, w[0], dek, "aad")
			unwraps(t, w[1], blob, dek, "aad")

			rest := blob[2:]
			name := int(binary.BigEndian.Uint16(rest) &^ 0x4000) // a vector of 64 bytes or more
			head := len(blob) - len(rest) + 2 + name + 8
			if got := string(rest[2 : 2+name]); !strings.Contains(got, "serial=") || !strings.Contains(got, ";id=%01;object=label%200") {
				t.Errorf("the key is named %s", got)
			}
			bound := append(bytes.Clone(blob[:head]), "aad"...)
			body := blob[head : len(blob)-4]
			if got := openKnown(t, method, key, mac, body, bound); !bytes.Equal(got, dek) {
				t.Error("by the standard it is another key")
			}
		})
	}
}

func openKnown(t testing.TB, method string, key, mac, body, bound []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	open := func(block cipher.Block, nonce, sealed []byte) []byte {
		aead, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		out, err := aead.Open(nil, nonce, sealed, bound)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	switch method {
	case "aes-gcm":
		return open(block, body[:12], body[12:])
	case "aes-kw": // RFC 3394, section 2.2.2
		r := bytes.Clone(body[:40])
		for j := 5; j >= 0; j-- {
			for i := 4; i >= 1; i-- {
				b := append(binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(r)^uint64(4*j+i)), r[8*i:8*i+8]...)
				block.Decrypt(b, b)
				copy(r, b[:8])
				copy(r[8*i:], b[8:])
			}
		}
		if !bytes.Equal(r[:8], bytes.Repeat([]byte{0xa6}, 8)) {
			t.Fatal("not AES key wrap")
		}
		once, err := aes.NewCipher(r[8:])
		if err != nil {
			t.Fatal(err)
		}
		return open(once, make([]byte, 12), body[40:])
	}
	end := len(body) - 32
	h := hmac.New(sha256.New, mac)
	h.Write([]byte("conclave kek mac\x00"))
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(end)))
	h.Write(body[:end])
	h.Write(bound)
	if !hmac.Equal(h.Sum(nil), body[end:]) {
		t.Fatal("another MAC")
	}
	out := bytes.Clone(body[16:end])
	cipher.NewCBCDecrypter(block, body[:16]).CryptBlocks(out, out)
	return out[:len(out)-int(out[len(out)-1])]
}

// A key that is made is for its method and for nothing else, and stays in the token.
func TestKEKTemplate(t *testing.T) {
	t.Parallel()
	all := map[uint]string{
		pkcs11.CKA_ENCRYPT: "encrypt", pkcs11.CKA_DECRYPT: "decrypt", pkcs11.CKA_WRAP: "wrap", pkcs11.CKA_UNWRAP: "unwrap",
		pkcs11.CKA_SIGN: "sign", pkcs11.CKA_VERIFY: "verify", pkcs11.CKA_DERIVE: "derive",
		pkcs11.CKA_EXTRACTABLE: "extractable", pkcs11.CKA_TOKEN: "token", pkcs11.CKA_PRIVATE: "private", pkcs11.CKA_SENSITIVE: "sensitive",
	}
	for _, kind := range kinds {
		if kind.name == "p11-kit" {
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			k := kind.make(t)
			token := open(t, k.URI())
			for _, method := range kekMethods[kind.name] {
				generateKEK(t, token, method, method)
			}
			b := attach(t, k)
			for label, uses := range map[string]string{
				"aes-gcm": "decrypt encrypt", "aes-kw": "unwrap wrap", "aes-cbc-hmac": "decrypt encrypt", "aes-cbc-hmac-hmac": "sign",
			} {
				if !slices.Contains(kekMethods[kind.name], strings.TrimSuffix(label, "-hmac")) && !slices.Contains(kekMethods[kind.name], label) {
					continue
				}
				o := b.secret(t, label)
				var is []string
				for a, name := range all {
					v, err := b.GetAttributeValue(b.session, o, []*pkcs11.Attribute{pkcs11.NewAttribute(a, nil)})
					if err != nil {
						t.Errorf("%s: %s: %v", label, name, err)
					} else if v[0].Value[0] != 0 {
						is = append(is, name)
					}
				}
				slices.Sort(is)
				want := append(strings.Fields(uses), "private", "sensitive", "token")
				slices.Sort(want)
				if !slices.Equal(is, want) {
					t.Errorf("%s is %v, want %v", label, is, want)
				}
				if v, err := b.GetAttributeValue(b.session, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)}); !errors.Is(err, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_SENSITIVE)) {
					t.Errorf("%s: the value is %d bytes, %v", label, len(v[0].Value), err)
				}
			}
		})
	}
}

func TestKEKRefused(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	token := open(t, k.URI())
	uri := generateKEK(t, token, "kek", "")
	b := attach(t, k)
	b.importSecret(t, "short", []byte{9}, pkcs11.CKK_AES, random(16))
	b.importSecret(t, "twice", []byte{10}, pkcs11.CKK_AES, random(32))
	b.importSecret(t, "twice", []byte{11}, pkcs11.CKK_AES, random(32))
	b.importSecret(t, "taken-hmac", []byte{12}, pkcs11.CKK_GENERIC_SECRET, random(32))
	// It can wrap, and not unwrap.
	b.importSecret(t, "encrypts", []byte{13}, pkcs11.CKK_AES, random(32), pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP)
	count := b.find(t, pkcs11.CKO_SECRET_KEY)
	for _, c := range []struct {
		label, method string
		want          error
	}{
		{"", "", core.ErrInvalid}, {"other", "aes", core.ErrInvalid}, {"kek", "", core.ErrConflict}, {"kek", "aes-kw", core.ErrConflict},
		{"twice", "", core.ErrConflict}, {"short", "aes-gcm", core.ErrConflict}, {"taken", "aes-cbc-hmac", core.ErrConflict},
	} {
		if made, err := token.GenerateKEK(t.Context(), c.label, c.method); !errors.Is(err, c.want) || made != "" {
			t.Errorf("generate %q %q: %q, %v", c.label, c.method, made, err)
		}
	}
	if now := b.find(t, pkcs11.CKO_SECRET_KEY); now != count {
		t.Errorf("what was refused changed the number of keys from %d to %d", count, now)
	}
	u, err := hsm.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]error{
		"pkcs11:object=kek;token=other":                                  core.ErrDenied,
		"pkcs11:object=kek;serial=1":                                     core.ErrDenied,
		"pkcs11:object=kek?module-path=" + softhsmtest.New(t).ModulePath: core.ErrDenied,
		"pkcs11:token=" + strings.ReplaceAll(k.Label, " ", "%20"):        hsm.ErrInvalidInput,
		"pkcs11:object=encrypts":                                         hsm.ErrUnsupported,
		"pkcs11:object=kek;type=private":                                 hsm.ErrInvalidInput,
		"pkcs11:object=kek?x-kek-method=aes-cbc-hmac":                    hsm.ErrInvalidInput,
		"pkcs11:object=kek?x-kek-method=aes-gcm&x-hmac-key=taken-hmac":   hsm.ErrInvalidInput,
		"pkcs11:object=kek;colour=blue":                                  core.ErrInvalid,
		"pkcs11:object=none":                                             hsm.ErrKeyNotFound,
		"pkcs11:object=kek;id=%01":                                       hsm.ErrKeyNotFound,
		"pkcs11:object=kek?x-hmac-key=none":                              hsm.ErrKeyNotFound,
		"pkcs11:object=twice":                                            hsm.ErrKeyAmbiguous,
		"pkcs11:object=short":                                            hsm.ErrUnsupported,
		"pkcs11:object=kek?x-kek-method=aes-kw":                          hsm.ErrUnsupported, // it may not
		"pkcs11:object=kek;type=secret-key?module-path=" + k.ModulePath:  nil,
		strings.Replace(uri, "serial=", "model="+u.Model+"x;serial=", 1): core.ErrDenied,
		"pkcs11:object=kek;slot-id=0":                                    core.ErrDenied,
		"pkcs11:object=twice;id=%0a?x-kek-method=aes-gcm":                nil,
		"pkcs11:object=twice;id=%0a?x-kek-method=aes-kw":                 nil,
		"pkcs11:object=twice;id=%0a?x-hmac-key=taken-hmac":               nil,
		"pkcs11:object=twice;id=%0b?x-hmac-key=short":                    hsm.ErrUnsupported,
	} {
		if _, err := token.Wrapper(t.Context(), text); !errors.Is(err, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	w := wrapper(t, token, uri)
	for _, n := range []int{0, 257} {
		if _, err := w.Wrap(t.Context(), core.NewSecret(make([]byte, n)), nil); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("a key of %d bytes: %v", n, err)
		}
	}
	for _, method := range kekMethods["softhsm"] {
		w := wrapper(t, token, generateKEK(t, token, method, method))
		for _, n := range []int{1, 15, 16, 17, 256} {
			dek := random(n)
			unwraps(t, w, wrap(t, w, dek, ""), dek, "")
		}
	}
}

// A key that the token would show is used, and it is said.
func TestKEKShown(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	var log bytes.Buffer
	token, err := hsm.Open(t.Context(), hsm.Config{URI: k.URI(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	b := attach(t, k)
	b.importSecret(t, "kept", []byte{1}, pkcs11.CKK_AES, random(32))
	b.importSecret(t, "shown", []byte{2}, pkcs11.CKK_AES, random(32), pkcs11.CKA_SENSITIVE, pkcs11.CKA_EXTRACTABLE)
	wrapper(t, token, "pkcs11:object=kept")
	if log.Len() != 0 {
		t.Error(log.String())
	}
	wrapper(t, token, "pkcs11:object=shown")
	if !strings.Contains(log.String(), "can leave the token") || !strings.Contains(log.String(), "object=shown") {
		t.Error("nothing is said: ", log.String())
	}
}

// The token goes and comes back, the key is deleted, another takes its name.
func TestKEKGone(t *testing.T) {
	t.Parallel()
	for _, method := range kekMethods["softhsm"] {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			k := softhsmtest.New(t)
			token := open(t, k.URI())
			uri := generateKEK(t, token, "kek", method)
			w := wrapper(t, token, uri)
			dek := random(32)
			blob := wrap(t, w, dek, "aad")
			k.Remove(t)
			if _, err := w.Unwrap(t.Context(), blob, []byte("aad")); !errors.Is(err, core.ErrUnavailable) {
				t.Errorf("without the token: %v", err)
			}
			if _, err := w.Wrap(t.Context(), core.NewSecret(bytes.Clone(dek)), nil); !errors.Is(err, core.ErrUnavailable) {
				t.Errorf("without the token: %v", err)
			}
			k.Restore(t)
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				got, err := w.Unwrap(t.Context(), blob, []byte("aad"))
				if err == nil && bytes.Equal(got.Bytes(), dek) {
					break
				}
				if time.Now().After(end) {
					t.Fatal("with the token again: ", err)
				}
			}
			wrap(t, w, dek, "aad")

			b := attach(t, k)
			if err := b.DestroyObject(b.session, b.secret(t, "kek")); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Unwrap(t.Context(), blob, []byte("aad")); !errors.Is(err, hsm.ErrKeyNotFound) {
				t.Errorf("without the key: %v", err)
			}
			u, err := hsm.ParseURI(uri)
			if err != nil {
				t.Fatal(err)
			}
			b.importSecret(t, "kek", u.ID, pkcs11.CKK_AES, random(32))
			if _, err := w.Unwrap(t.Context(), blob, []byte("aad")); !errors.Is(err, hsm.ErrKeyMismatch) {
				t.Errorf("with another key: %v", err)
			}
			if _, err := w.Wrap(t.Context(), core.NewSecret(bytes.Clone(dek)), nil); !errors.Is(err, hsm.ErrKeyMismatch) {
				t.Errorf("with another key: %v", err)
			}
		})
	}
}

// A keystore moves from a passphrase to a key in the token, to others there.
func TestKEKRotation(t *testing.T) {
	t.Parallel()
	token := open(t, softhsmtest.New(t).URI())
	other := open(t, softhsmtest.New(t).URI())
	passphrase, err := seal.Passphrase(core.NewSecret([]byte("correct horse")))
	if err != nil {
		t.Fatal(err)
	}
	keys := []core.KeyWrapper{
		passphrase,
		wrapper(t, token, generateKEK(t, token, "kek", "aes-gcm")),
		wrapper(t, token, generateKEK(t, token, "next", "aes-kw")),
		wrapper(t, other, generateKEK(t, other, "next", "aes-kw")),
		wrapper(t, token, generateKEK(t, token, "old", "aes-cbc-hmac")),
	}
	path := filepath.Join(t.TempDir(), "store")
	ks, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := seal.Open(t.Context(), ks, keys[0], "tenant")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), seal.Batch{Puts: []seal.Put{{Table: 1, Scope: []byte("scope"), Key: []byte("key"), Value: []byte("value")}}}); err != nil {
		t.Fatal(err)
	}
	for i, to := range keys[1:] {
		from := keys[i]
		if i > 0 {
			if err := s.Rewrap(t.Context(), to, from); !errors.Is(err, core.ErrWrongKey) {
				t.Errorf("rewrap from the wrong key: %v", err)
			}
		}
		if err := s.Rewrap(t.Context(), from, to); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Close(), ks.Close()); err != nil {
			t.Fatal(err)
		}
		if ks, err = sqlite.Open(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		for j, wrong := range keys {
			if wrong.ID() == to.ID() {
				continue
			}
			if _, err := seal.Open(t.Context(), ks, wrong, "tenant"); !errors.Is(err, core.ErrWrongKey) || !strings.Contains(err.Error(), to.ID()) || !strings.Contains(err.Error(), wrong.ID()) {
				t.Errorf("key %d opens what %d has: %v", j, i+1, err)
			}
		}
		if s, err = seal.Open(t.Context(), ks, to, "tenant"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Rotate(t.Context(), nil); err != nil {
			t.Error(err)
		}
		got, err := s.Read(t.Context(), []seal.Query{{Table: 1, Scope: []byte("scope")}})
		if err != nil || len(got[0]) != 1 || string(got[0][0].Value) != "value" {
			t.Fatalf("%v, %v", got, err)
		}
	}
	if err := errors.Join(s.Close(), ks.Close()); err != nil {
		t.Error(err)
	}
}
