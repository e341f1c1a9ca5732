// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"crypto/hpke"
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// roundTrip proves that a private key opens what is sealed to its public key.
func roundTrip(t testing.TB, name string, s core.Suite, key core.PrivateKey) {
	t.Helper()
	r, err := s.Recipient(key)
	if err != nil {
		t.Fatalf("%s: Recipient: %v", name, err)
	}
	ct, err := s.Sealer([]byte("info")).Seal(key.Public(), nil, []byte("plaintext"))
	if err != nil {
		t.Fatalf("%s: Seal: %v", name, err)
	}
	if got, err := r.Open(t.Context(), []byte("info"), nil, ct); err != nil || string(got) != "plaintext" {
		t.Errorf("%s: Open: %q, %v", name, got, err)
	}
}

// A pair is a recipient and what is needed to seal to it.
type pair struct {
	core.Recipient
	key    core.SoftwareKey
	public []byte
}

func newPair(t testing.TB, s core.Suite) pair {
	t.Helper()
	key, err := s.GenerateKeyPair()
	if err != nil {
		t.Fatalf("suite %s: GenerateKeyPair: %v", s.ID(), err)
	}
	r, err := s.Recipient(key)
	if err != nil {
		t.Fatalf("suite %s: Recipient: %v", s.ID(), err)
	}
	return pair{r, key, key.Public()}
}

// reference is the standard library's HPKE for a suite.
type reference struct {
	kem  hpke.KEM
	kdf  hpke.KDF
	aead hpke.AEAD
}

func referenceHPKE(p core.SuiteParameters) (*reference, bool) {
	kem, err1 := hpke.NewKEM(p.KEM)
	kdf, err2 := hpke.NewKDF(p.KDF)
	aead, err3 := hpke.NewAEAD(p.AEAD)
	return &reference{kem, kdf, aead}, err1 == nil && err2 == nil && err3 == nil
}

func checkHPKE(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		p, r := s.Parameters(), newPair(t, s)
		for _, text := range [][3]string{{"info", "aad", "plaintext"}, {"", "", ""}, {"", "aad", string(make([]byte, 70_000))}} {
			info, aad, plaintext := []byte(text[0]), []byte(text[1]), []byte(text[2])
			ct, err := s.Sealer(info).Seal(r.public, aad, plaintext)
			if err != nil {
				t.Fatalf("%s: Seal: %v", name, err)
			}
			if len(ct.KEMOutput) != p.Nenc || len(ct.Ciphertext) != len(plaintext)+p.Nt {
				t.Errorf("%s: sealed to %d and %d bytes", name, len(ct.KEMOutput), len(ct.Ciphertext))
			}
			for range 2 {
				if got, err := r.Open(t.Context(), info, aad, ct); err != nil || !bytes.Equal(got, plaintext) {
					t.Errorf("%s: Open: %d bytes, %v", name, len(got), err)
				}
			}
			if again, err := s.Sealer(info).Seal(r.public, aad, plaintext); err != nil || bytes.Equal(again.KEMOutput, ct.KEMOutput) {
				t.Errorf("%s: sealed twice with one ephemeral key (%v)", name, err)
			}
			std, ok := referenceHPKE(p)
			if !ok {
				continue
			}
			public, err := std.kem.NewPublicKey(r.public)
			if err != nil {
				t.Fatalf("%s: public key: %v", name, err)
			}
			enc, sender, err := hpke.NewSender(public, std.kdf, std.aead, info)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := sender.Seal(aad, plaintext)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := r.Open(t.Context(), info, aad, core.HPKECiphertext{KEMOutput: enc, Ciphertext: theirs}); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%s: does not open what crypto/hpke sealed: %v", name, err)
			}
			priv, err := std.kem.NewPrivateKey(r.key.Material().Bytes())
			if err != nil {
				t.Fatalf("%s: material: %v", name, err)
			}
			recipient, err := hpke.NewRecipient(ct.KEMOutput, priv, std.kdf, std.aead, info)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got, err := recipient.Open(aad, ct.Ciphertext); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%s: crypto/hpke does not open it: %v", name, err)
			}
			ikm := secretOf(p.Nh)
			mine, err := s.DeriveKeyPair(ikm)
			if err != nil {
				t.Fatalf("%s: DeriveKeyPair: %v", name, err)
			}
			if want, err := std.kem.DeriveKeyPair(ikm.Bytes()); err != nil || !bytes.Equal(mine.Public(), want.PublicKey().Bytes()) {
				t.Errorf("%s: crypto/hpke derives another key pair (%v)", name, err)
			}
		}
	})
}

func checkHPKERefuses(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		r, other := newPair(t, s), newPair(t, s)
		info, aad := []byte("info"), []byte("aad")
		good, err := s.Sealer(info).Seal(r.public, aad, []byte("plaintext"))
		if err != nil {
			t.Fatalf("%s: Seal: %v", name, err)
		}
		refuse := func(what string, by core.Recipient, info, aad []byte, ct core.HPKECiphertext) {
			if got, err := by.Open(t.Context(), info, aad, ct); !errors.Is(err, core.ErrInvalid) || len(got) != 0 {
				t.Errorf("%s: Open: %s: %d bytes, %v, want ErrInvalid", name, what, len(got), err)
			}
		}
		refuse("another key", other, info, aad, good)
		refuse("another info", r, []byte("Info"), aad, good)
		refuse("other associated data", r, info, nil, good)
		for _, n := range []int{0, 1, s.Parameters().Nt - 1, len(good.Ciphertext) - 1} {
			refuse(fmt.Sprint("ciphertext cut to ", n), r, info, aad, core.HPKECiphertext{KEMOutput: good.KEMOutput, Ciphertext: good.Ciphertext[:n]})
		}
		for _, n := range []int{0, 1, len(good.KEMOutput) - 1} {
			refuse(fmt.Sprint("KEM output cut to ", n), r, info, aad, core.HPKECiphertext{KEMOutput: good.KEMOutput[:n], Ciphertext: good.Ciphertext})
		}
		refuse("KEM output with a byte more", r, info, aad, core.HPKECiphertext{KEMOutput: append(bytes.Clone(good.KEMOutput), 0), Ciphertext: good.Ciphertext})
		for i := range good.Ciphertext {
			ct := bytes.Clone(good.Ciphertext)
			ct[i] ^= 0x80
			refuse(fmt.Sprint("ciphertext flipped at ", i), r, info, aad, core.HPKECiphertext{KEMOutput: good.KEMOutput, Ciphertext: ct})
		}
		for i := range good.KEMOutput {
			enc := bytes.Clone(good.KEMOutput)
			enc[i] ^= 0x80 // also the bit that X25519 ignores: the key schedule does not
			refuse(fmt.Sprint("KEM output flipped at ", i), r, info, aad, core.HPKECiphertext{KEMOutput: enc, Ciphertext: good.Ciphertext})
		}
		for what, enc := range badPublicKeys(s.Parameters().KEMAlgorithm, r.public) {
			refuse("KEM output: "+what, r, info, aad, core.HPKECiphertext{KEMOutput: enc, Ciphertext: good.Ciphertext})
			if _, err := r.Setup(t.Context(), enc, info); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s: Setup: %s: %v, want ErrInvalid", name, what, err)
			}
		}
	})
}

func checkExport(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		p, r := s.Parameters(), newPair(t, s)
		for _, info := range [][]byte{nil, []byte("info")} {
			enc, sender, err := s.SetupSender(r.public, info)
			if err != nil {
				t.Fatalf("%s: SetupSender: %v", name, err)
			}
			receiver, err := r.Setup(t.Context(), enc, info)
			if err != nil {
				t.Fatalf("%s: Setup: %v", name, err)
			}
			a, errA := sender.Export([]byte("context"), p.Nh)
			b, errB := receiver.Export([]byte("context"), p.Nh)
			if errA != nil || errB != nil || a.Len() != p.Nh || !a.Equal(b) {
				t.Errorf("%s: the two sides export different secrets (%v, %v)", name, errA, errB)
			}
			if c, err := sender.Export([]byte("Context"), p.Nh); err != nil || c.Equal(a) {
				t.Errorf("%s: another context, the same export (%v)", name, err)
			}
			if c, err := receiver.Export(nil, 0); err != nil || c.Len() != 0 {
				t.Errorf("%s: export of no bytes: %d, %v", name, c.Len(), err)
			}
			if other, err := r.Setup(t.Context(), enc, []byte("other info")); err == nil {
				if c, err := other.Export([]byte("context"), p.Nh); err != nil || c.Equal(a) {
					t.Errorf("%s: another info, the same export (%v)", name, err)
				}
			}
			std, ok := referenceHPKE(p)
			if !ok {
				continue
			}
			priv, err := std.kem.NewPrivateKey(r.key.Material().Bytes())
			if err != nil {
				t.Fatalf("%s: material: %v", name, err)
			}
			recipient, err := hpke.NewRecipient(enc, priv, std.kdf, std.aead, info)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if want, err := recipient.Export("context", p.Nh); err != nil || !bytes.Equal(a.Bytes(), want) {
				t.Errorf("%s: crypto/hpke exports another secret (%v)", name, err)
			}
		}
	})
}

func checkExportLimits(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		r, limit := newPair(t, s), 255*s.Parameters().Nh
		enc, sender, err := s.SetupSender(r.public, nil)
		if err != nil {
			t.Fatalf("%s: SetupSender: %v", name, err)
		}
		receiver, err := r.Setup(t.Context(), enc, nil)
		if err != nil {
			t.Fatalf("%s: Setup: %v", name, err)
		}
		for _, side := range []core.Exporter{sender, receiver} {
			if out, err := side.Export(nil, limit); err != nil || out.Len() != limit {
				t.Errorf("%s: Export of 255*Nh: %d bytes, %v", name, out.Len(), err)
			}
			for length, want := range map[int]error{
				limit + 1: core.ErrTooLarge, 1 << 16: core.ErrTooLarge, 1<<16 + 32: core.ErrTooLarge, 1 << 40: core.ErrTooLarge,
				-1: core.ErrInvalid,
			} {
				if out, err := side.Export(nil, length); !errors.Is(err, want) || out.Len() != 0 {
					t.Errorf("%s: Export of %d: %d bytes, %v, want %v", name, length, out.Len(), err, want)
				}
			}
		}
	})
}

// remoteKey is an Agreer that is not the suite's: a token's, say.
type remoteKey struct {
	core.PrivateKey
	agree func(ctx context.Context, peer []byte) (core.Secret, error)
}

func (k remoteKey) Agree(ctx context.Context, peer []byte) (core.Secret, error) {
	return k.agree(ctx, peer)
}

type contextKey struct{}

func checkAgreer(t testing.TB, open func() core.SuiteSource) {
	forEachSuite(t, open, func(name string, s core.Suite) {
		p, r := s.Parameters(), newPair(t, s)
		own, ok := r.key.(core.Agreer)
		if !ok {
			return // a KEM of another kind
		}
		info, ctx := []byte("info"), context.WithValue(t.Context(), contextKey{}, name)
		ct, err := s.Sealer(info).Seal(r.public, nil, []byte("plaintext"))
		if err != nil {
			t.Fatalf("%s: Seal: %v", name, err)
		}
		remote := func(agree func(context.Context, []byte) (core.Secret, error)) core.Recipient {
			// The wrapper leaves nothing but PrivateKey and Agree.
			r, err := s.Recipient(remoteKey{struct{ core.PrivateKey }{r.key}, agree})
			if err != nil {
				t.Fatalf("%s: Recipient of an Agreer: %v", name, err)
			}
			return r
		}
		good := remote(func(ctx context.Context, peer []byte) (core.Secret, error) {
			if ctx.Value(contextKey{}) != name {
				t.Errorf("%s: Agree got another context", name)
			}
			return own.Agree(ctx, peer)
		})
		if got, err := good.Open(ctx, info, nil, ct); err != nil || string(got) != "plaintext" {
			t.Errorf("%s: Open with an Agreer: %q, %v", name, got, err)
		}
		enc, sender, err := s.SetupSender(r.public, info)
		if err != nil {
			t.Fatalf("%s: SetupSender: %v", name, err)
		}
		if receiver, err := good.Setup(ctx, enc, info); err != nil {
			t.Errorf("%s: Setup with an Agreer: %v", name, err)
		} else if a, err := receiver.Export(nil, p.Nh); err != nil {
			t.Errorf("%s: Export: %v", name, err)
		} else if b, err := sender.Export(nil, p.Nh); err != nil || !a.Equal(b) {
			t.Errorf("%s: the two sides export different secrets (%v)", name, err)
		}

		// A key that checks nothing is never asked to agree with a bad point.
		careless := remote(func(context.Context, []byte) (core.Secret, error) {
			return core.NewSecret(bytes.Repeat([]byte{1}, sharedSize(p.KEMAlgorithm))), nil
		})
		for what, bad := range badPublicKeys(p.KEMAlgorithm, r.public) {
			if _, err := careless.Setup(ctx, bad, nil); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s: Setup with a careless Agreer: %s: %v, want ErrInvalid", name, what, err)
			}
		}
		if p.KEMAlgorithm == core.X25519 || p.KEMAlgorithm == core.X448 {
			zero := remote(func(context.Context, []byte) (core.Secret, error) {
				return core.NewSecret(make([]byte, sharedSize(p.KEMAlgorithm))), nil
			})
			if _, err := zero.Setup(ctx, enc, info); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s: an all-zero shared secret: %v, want ErrInvalid", name, err)
			}
		}
		short := remote(func(ctx context.Context, peer []byte) (core.Secret, error) {
			secret, err := own.Agree(ctx, peer)
			if err != nil {
				return secret, err
			}
			return core.NewSecret(secret.Bytes()[1:]), nil
		})
		if _, err := short.Setup(ctx, enc, info); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: a short shared secret: %v, want ErrInvalid", name, err)
		}

		// The key's own failures come through.
		absent := remote(func(context.Context, []byte) (core.Secret, error) {
			return core.Secret{}, core.ErrUnavailable
		})
		if _, err := absent.Open(ctx, info, nil, ct); !errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: a key that is unavailable: %v, want ErrUnavailable", name, err)
		}
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		for _, r := range []core.Recipient{good, r} {
			if _, err := r.Open(cancelled, info, nil, ct); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: Open after cancellation: %v, want context.Canceled", name, err)
			}
			if _, err := r.Setup(cancelled, enc, info); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: Setup after cancellation: %v, want context.Canceled", name, err)
			}
		}

		// Neither a key that cannot agree nor one of another curve will do.
		if _, err := s.Recipient(struct{ core.PrivateKey }{r.key}); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("%s: a key that cannot agree: %v, want ErrUnsupported", name, err)
		}
		if _, err := s.Recipient(remoteKey{otherCurve{r.key}, own.Agree}); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("%s: a key of another curve: %v, want ErrUnsupported", name, err)
		}
		if _, err := s.Recipient(remoteKey{badPublic{r.key}, own.Agree}); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: a key with a public key that is none: %v, want ErrInvalid", name, err)
		}
	})
}

type otherCurve struct{ core.PrivateKey }

func (otherCurve) Algorithm() core.KeyAlgorithm { return "another curve" }

type badPublic struct{ core.PrivateKey }

func (k badPublic) Public() []byte { return k.PrivateKey.Public()[1:] }
