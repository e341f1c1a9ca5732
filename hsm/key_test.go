// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// What the contract of core demands, on a fake token.
func TestProvider(t *testing.T) {
	f := newFake(t)
	coretest.TestCryptoProvider(t, func(*testing.T) core.CryptoProvider { return f.open().Provider() })
}

func TestSignatures(t *testing.T) {
	f := newFake(t)
	token := f.open()
	for algorithm, size := range map[core.KeyAlgorithm]int{core.Ed25519: 64, core.Ed448: 114, core.ECDSAP256: 64, core.ECDSAP384: 96, core.ECDSAP521: 132} {
		f.sign = nil
		key := f.key(token, algorithm).(core.Signer)
		f.signs(key)
		for name, c := range map[string]struct {
			sign func(out []byte) []byte
			want error
		}{
			"short":     {func(out []byte) []byte { return out[1:] }, ErrTokenUnavailable},
			"long":      {func(out []byte) []byte { return append(out, 0) }, ErrTokenUnavailable},
			"empty":     {func(out []byte) []byte { return nil }, ErrTokenUnavailable},
			"wrong":     {func(out []byte) []byte { out[size-1] ^= 1; return out }, ErrKeyMismatch},
			"zero r":    {func(out []byte) []byte { clear(out[:size/2]); return out }, nil},
			"zero s":    {func(out []byte) []byte { clear(out[size/2:]); return out }, nil},
			"all zeros": {func(out []byte) []byte { clear(out); return out }, nil},
		} {
			f.mu.Lock()
			f.sign = c.sign
			f.mu.Unlock()
			before := f.count("Finalize")
			out, err := key.Sign(t.Context(), []byte("m"))
			if err == nil || out != nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %x, %v", algorithm, name, out, err)
			}
			if f.count("Finalize") != before {
				t.Errorf("%s, %s: the module was restarted", algorithm, name)
			}
		}
	}
}

// The form is checked always; that a signature verifies, as long as a token is new.
func TestSignaturesAreVerifiedAtFirst(t *testing.T) {
	f := newFake(t)
	token := f.open()
	for _, algorithm := range []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256, core.Ed448} {
		key := f.key(token, algorithm).(core.Signer)
		for range verifiedSignatures {
			f.signs(key)
		}
		before := f.count("Verify")
		wrong := func(out []byte) []byte { out[40] ^= 1; return out }
		f.mu.Lock()
		f.sign = wrong
		f.mu.Unlock()
		if _, err := key.Sign(t.Context(), []byte("m")); err != nil || f.count("Verify") != before {
			t.Errorf("%s: verified for ever, %v", algorithm, err)
		}
		for _, half := range []int{0, 32} {
			f.mu.Lock()
			f.sign = func(out []byte) []byte { clear(out[half : half+32]); return out }
			f.mu.Unlock()
			if _, err := key.Sign(t.Context(), []byte("m")); algorithm == core.ECDSAP256 && err == nil {
				t.Errorf("%s: zero from byte %d", algorithm, half)
			}
		}
		f.mu.Lock()
		f.sign = nil
		f.mu.Unlock()
		f.foreignFinalize()
		f.signs(key)
		f.mu.Lock()
		f.sign = wrong
		f.mu.Unlock()
		if _, err := key.Sign(t.Context(), []byte("m")); !errors.Is(err, ErrKeyMismatch) {
			t.Errorf("%s: not verified after a restart: %v", algorithm, err)
		}
		f.mu.Lock()
		f.sign = nil
		f.mu.Unlock()
	}
}

// The encoding of RFC 9420 for ECDSA is minimal DER.
func TestSignatureIsDER(t *testing.T) {
	k := &signer{&key{t: &Token{}, curve: curveFor(core.ECDSAP256, core.UseSign)}}
	raw := make([]byte, 64)
	raw[31], raw[32] = 1, 0x80 // r is 1, s has its highest bit set
	got, err := k.encode(raw)
	want := append([]byte{0x30, 38, 2, 1, 1, 2, 33, 0, 0x80}, make([]byte, 31)...)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x, %v", got, err)
	}
}

// The token may go on with a call that nobody waits for: it must not see what the caller
// does with its memory then.
func TestLateCallHasItsOwnInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		key := f.signer(f.open())
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begun, release := f.hang("Sign")
		message := []byte("message")
		if _, err := key.Sign(ctx, message); err == nil {
			t.Fatal("it did not hang")
		}
		<-begun
		clear(message)
		sessions := len(f.sessions)
		release()
		synctest.Wait()
		// The signature is verified with the message of the call: it is a good one.
		if len(f.sessions) != sessions {
			t.Error("the session was closed, as after an error")
		}
	})
}

func TestSharedSecrets(t *testing.T) {
	f := newFake(t)
	token := f.open()
	for algorithm, c := range map[core.KeyAlgorithm]ecdh.Curve{core.X25519: ecdh.X25519(), core.ECDHP256: ecdh.P256(), core.ECDHP384: ecdh.P384(), core.ECDHP521: ecdh.P521()} {
		f.agree = nil
		key := f.key(token, algorithm).(core.Agreer)
		public, err := c.NewPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		own, err := c.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		want, err := own.ECDH(public)
		if err != nil {
			t.Fatal(err)
		}
		got, err := key.Agree(t.Context(), own.PublicKey().Bytes())
		if err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %v", algorithm, err)
		}
		for name, v := range map[string]struct {
			agree func([]byte) []byte
			want  []byte // nil: an error of the kind
			kind  error
		}{
			"without leading zeros": {func(b []byte) []byte { return b[2:] }, append([]byte{0, 0}, want[2:]...), nil},
			"longer":                {func(b []byte) []byte { return append([]byte{0}, b...) }, nil, ErrUnsupported},
			"zero":                  {func(b []byte) []byte { clear(b); return b }, nil, ErrInvalidInput},
			"empty":                 {func(b []byte) []byte { return b[:0] }, nil, ErrInvalidInput},
		} {
			f.agree = v.agree
			got, err := key.Agree(t.Context(), own.PublicKey().Bytes())
			if v.want != nil && (err != nil || !bytes.Equal(got.Bytes(), v.want)) || v.want == nil && (!errors.Is(err, v.kind) || !got.IsZero()) {
				t.Errorf("%s, %s: %v", algorithm, name, err)
			}
		}
		for _, o := range f.objects {
			if o.class() == cryptoki.ClassSecretKey {
				t.Errorf("%s: a shared secret stays on the token", algorithm)
			}
		}
	}
}

// What is no public key does not reach the token.
func TestBadPeers(t *testing.T) {
	f := newFake(t)
	token := f.open()
	for _, algorithm := range []core.KeyAlgorithm{core.X25519, core.ECDHP256} {
		key := f.key(token, algorithm).(core.Agreer)
		before := f.count("Derive")
		n := len(key.Public())
		off := bytes.Clone(key.Public())
		off[n-1] ^= 1
		if algorithm == core.X25519 {
			off = make([]byte, n)
			off[0] = 1 // of low order
		}
		for name, peer := range map[string][]byte{
			"nothing": nil, "short": key.Public()[1:], "long": append(key.Public(), 0), "zeros": make([]byte, n), "bad": off, "DER": wrapped(key.Public()),
		} {
			if _, err := key.Agree(t.Context(), peer); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s, %s: %v", algorithm, name, err)
			}
		}
		if f.count("Derive") != before {
			t.Errorf("%s: they reached the token", algorithm)
		}
	}
}

// The standard has it both ways; what a token takes is remembered.
func TestPeersAsDER(t *testing.T) {
	f := newFake(t)
	f.derPeers = true
	token := f.open()
	key := f.key(token, core.ECDHP256).(core.Agreer)
	before := f.counts()
	for range 3 {
		if _, err := key.Agree(t.Context(), peerOf(t, ecdh.P256())); err != nil {
			t.Fatal(err)
		}
	}
	f.is(before, map[string]int{"Derive": 3})

	other := newFake(t)
	key = other.key(other.open(), core.ECDHP256).(core.Agreer)
	before = other.counts()
	if _, err := key.Agree(t.Context(), peerOf(t, ecdh.P256())); err != nil {
		t.Fatal(err)
	}
	other.is(before, map[string]int{"Derive": 1})
}

// Failed agreements leave no goroutine, and hold no session.
func TestFailedAgreementsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		token, err := Open(context.Background(), Config{URI: f.uri("")})
		if err != nil {
			t.Fatal(err)
		}
		key := f.key(token, core.X25519).(core.Agreer)
		f.fails("Derive", cryptoki.ErrGeneralError)
		for range 5 {
			if _, err := key.Agree(t.Context(), peerOf(t, ecdh.X25519())); err == nil {
				t.Error("it did not fail")
			}
		}
		synctest.Wait()
		if n := goroutines("hsm.(*agreer)"); n != 0 {
			t.Errorf("%d goroutines stay until the token is closed", n)
		}
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The public key may be in an object of its own, in the private one, or in a certificate.
func TestWhereThePublicKeyIs(t *testing.T) {
	f := newFake(t)
	token := f.open()
	key := f.key(token, core.ECDSAP256).(core.Signer)
	open := func() (core.PrivateKey, error) {
		return token.Provider().OpenKey(t.Context(), key.Ref(), core.Secret{})
	}
	var public, private *object
	for _, o := range f.objects {
		if o.class() == cryptoki.ClassPublicKey {
			public = o
		} else {
			private = o
		}
	}
	is := func(where string) {
		t.Helper()
		got, err := open()
		if err != nil || !bytes.Equal(got.Public(), key.Public()) {
			t.Errorf("%s: %v", where, err)
		}
	}
	point := public.attributes[cryptoki.CKAECPoint]
	public.attributes[cryptoki.CKAECPoint] = key.Public()
	is("raw")
	public.attributes[cryptoki.CKAECPoint] = []byte("no point")
	if _, err := open(); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("nowhere: %v", err)
	}
	private.attributes[cryptoki.CKAECPoint] = point
	is("in the private key")
	delete(private.attributes, cryptoki.CKAECPoint)

	x, err := core.X509Signer(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, x.Public(), x)
	if err != nil {
		t.Fatal(err)
	}
	f.objects = []*object{private, {handle: 7000, attributes: map[cryptoki.Attribute][]byte{
		cryptoki.CKAClass: attributesOf(cryptoki.Template{{Attribute: 0, Value: cryptoki.ClassCertificate}})[0],
		cryptoki.CKAID:    private.attributes[cryptoki.CKAID], cryptoki.CKAValue: der,
	}}}
	is("in a certificate")
	digest := sha256.Sum256([]byte("m"))
	out, err := key.Sign(t.Context(), []byte("m"))
	parsed, _ := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), key.Public())
	if err != nil || !ecdsa.VerifyASN1(parsed, digest[:], out) {
		t.Errorf("a signature with the key of a certificate: %v", err)
	}

	// What the token has instead may be several keys, or one of no known kind.
	f.objects = append(f.objects, &object{handle: 7001, attributes: private.attributes, secret: private.secret})
	if _, err := open(); !errors.Is(err, ErrKeyAmbiguous) {
		t.Errorf("two of the same id: %v", err)
	}
	f.objects = f.objects[:2]
	private.attributes[cryptoki.CKASign] = []byte{0}
	if _, err := open(); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("a key without a use: %v", err)
	}
	private.attributes[cryptoki.CKAECParams] = []byte{6, 5, 0x2b, 0x81, 4, 0, 0x21}
	if _, err := open(); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("another curve: %v", err)
	}
	delete(private.attributes, cryptoki.CKAECParams)
	if _, err := open(); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("no curve: %v", err)
	}
}
