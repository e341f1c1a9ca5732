// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// TestCryptoProvider is the contract of core.CryptoProvider. Signatures and
// agreements are checked against the standard library; those of Ed448 and X448,
// which it lacks, for their form and consistency only.
//
// The provider is asked for keys of each algorithm it lists. One that keeps its
// keys is left with them unless it is a core.KeyDeleter.
func TestCryptoProvider(t *testing.T, open func(t *testing.T) core.CryptoProvider) {
	t.Helper()
	runChecks(t, providerChecks, open)
}

var providerChecks = []check[core.CryptoProvider]{
	{"lists its algorithms", checkAlgorithms},
	{"makes the keys it lists", checkGenerate},
	{"refuses other algorithms and uses", checkUnsupported},
	{"signs", checkSign},
	{"agrees", checkAgree},
	{"refuses invalid peers", checkBadPeers},
	{"one key for an ID if it keeps them", checkSameID},
	{"opens references again", checkReopen},
	{"opens material of that key only", checkMaterial},
	{"denies foreign references", checkForeignRef},
	{"deletes keys", checkDelete},
	{"imports keys", checkImport},
	{"neither keeps nor changes slices", checkSlices},
	{"prints no private key", checkRedaction},
	{"works concurrently", checkProviderConcurrency},
	{"heeds cancellation", checkCancellation},
}

func checkAlgorithms(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	algs := k.algorithms()
	if len(algs) == 0 {
		t.Error("no algorithms")
	}
	for i, alg := range algs {
		if alg == "" || slices.Contains(algs[:i], alg) {
			t.Errorf("algorithm %q is empty or listed twice", alg)
		}
	}
}

func checkGenerate(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	seen := map[string]bool{}
	k.forEach(everyAlgorithm, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		if key.Algorithm() != alg {
			t.Errorf("a %s key says it is %s", alg, key.Algorithm())
		}
		if want := publicSize(alg); want != 0 && len(key.Public()) != want {
			t.Errorf("%s: public key of %d bytes, want %d", alg, len(key.Public()), want)
		}
		if ref := key.Ref(); ref.Scheme() == "" || ref.Scheme() == string(ref) {
			t.Errorf("%s: reference %q has no scheme", alg, ref)
		}
		if seen[string(key.Ref())] || seen[string(key.Public())] {
			t.Errorf("%s: reference or public key met before", alg)
		}
		seen[string(key.Ref())], seen[string(key.Public())] = true, true
		k.works(key, key.Public())
		another := k.make(keySpec(alg))
		if bytes.Equal(another.Public(), key.Public()) || another.Ref() == key.Ref() {
			t.Errorf("%s: two IDs, one key", alg)
		}
	})
}

func checkUnsupported(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	refused := func(s core.KeySpec) {
		key, err := k.GenerateKey(k.ctx, s)
		if err == nil {
			k.forget(key)
		}
		if !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("GenerateKey(%q, use %d): %v, want ErrUnsupported", s.Algorithm, s.Use, err)
		}
	}
	refused(core.KeySpec{ID: [16]byte{1}, Algorithm: "no such algorithm", Use: core.UseSign})
	refused(core.KeySpec{ID: [16]byte{1}, Use: core.UseSign})
	for _, alg := range k.algorithms() {
		for _, use := range []core.KeyUse{0, core.UseSign, core.UseDecrypt, 3} {
			if s := keySpec(alg); s.Use != use {
				s.Use = use
				refused(s)
			}
		}
	}
}

func checkSign(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	k.forEach(isSignature, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		// Many, because the encoding of an integer depends on its value.
		for i := range 24 {
			message := bytes.Repeat([]byte{byte(i)}, i)
			if i == 23 {
				message = make([]byte, 100_000)
			}
			sig, err := k.signer(key).Sign(k.ctx, message)
			if err != nil {
				t.Fatalf("%s: %v", alg, err)
			}
			if err := verify(alg, key.Public(), message, sig); err != nil {
				t.Fatalf("%s: signature %x does not verify: %v", alg, sig, err)
			}
		}
	})
}

func checkAgree(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	k.forEach(isAgreement, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		other := k.agreer(k.make(keySpec(alg)))
		a, errA := k.agreer(key).Agree(k.ctx, other.Public())
		b, errB := other.Agree(k.ctx, key.Public())
		if errA != nil || errB != nil || !a.Equal(b) {
			t.Errorf("%s: the two sides differ (%v, %v)", alg, errA, errB)
		}
		if want := sharedSize(alg); a.Len() != want {
			t.Errorf("%s: %d shared bytes, want %d", alg, a.Len(), want)
		}
		k.works(key, key.Public())
		// A shared secret that begins with a zero byte keeps its length.
		if peer, want, err := peerWithLeadingZero(alg, key.Public()); err == nil {
			got, err := k.agreer(key).Agree(k.ctx, peer)
			if err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s: a secret with a leading zero has %d bytes (%v)", alg, got.Len(), err)
			}
		}
	})
}

func checkBadPeers(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	k.forEach(isAgreement, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		for name, peer := range badPublicKeys(alg, key.Public()) {
			if _, err := k.agreer(key).Agree(k.ctx, peer); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s: %s: %v, want ErrInvalid", alg, name, err)
			}
		}
		k.works(key, key.Public())
	})
}

func checkSameID(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	algs := k.algorithms()
	for i, alg := range algs {
		s := keySpec(alg)
		first, second := k.make(s), k.make(s)
		_, software := first.(core.SoftwareKey)
		same := bytes.Equal(first.Public(), second.Public())
		switch {
		case software && same:
			t.Errorf("%s: a software key came twice: is it kept?", alg)
		case !software && !same:
			t.Errorf("%s: the same ID gave two keys", alg)
		case !software && first.Ref() != second.Ref():
			t.Errorf("%s: one key, two references: %s, %s", alg, first.Ref(), second.Ref())
		}
		if other := algs[(i+1)%len(algs)]; !software && other != alg {
			s.Algorithm, s.Use = other, keySpec(other).Use
			if _, err := k.GenerateKey(k.ctx, s); !errors.Is(err, core.ErrConflict) {
				t.Errorf("%s for the ID of a %s key: %v, want ErrConflict", other, alg, err)
			}
			k.works(first, first.Public())
		}
	}
}

func checkReopen(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	k.forEach(everyAlgorithm, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		again, err := k.OpenKey(k.ctx, key.Ref(), material(key))
		if err != nil {
			t.Fatalf("%s: OpenKey: %v", alg, err)
		}
		if again.Ref() != key.Ref() || again.Algorithm() != alg || !bytes.Equal(again.Public(), key.Public()) {
			t.Errorf("%s: %s opened as %s key %s", alg, key.Ref(), again.Algorithm(), again.Ref())
		}
		k.works(again, key.Public())
		k.works(key, key.Public())
	})
}

func checkMaterial(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	k.forEach(everyAlgorithm, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		soft, ok := key.(core.SoftwareKey)
		if !ok {
			return
		}
		good := soft.Material()
		if want := materialSize(alg); want != 0 && good.Len() != want {
			t.Errorf("%s: material of %d bytes, want %d", alg, good.Len(), want)
		}
		other := k.make(keySpec(alg)).(core.SoftwareKey).Material()
		for name, bad := range map[string][]byte{
			"none":           nil,
			"one byte less":  good.Bytes()[1:],
			"one byte more":  append([]byte{0}, good.Bytes()...),
			"another key's":  other.Bytes(),
			"all bits set":   bytes.Repeat([]byte{0xff}, good.Len()),
			"all bits clear": make([]byte, good.Len()),
		} {
			if _, err := k.OpenKey(k.ctx, key.Ref(), core.NewSecret(bad)); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s: OpenKey with material: %s: %v, want ErrInvalid", alg, name, err)
			}
		}
		// Whoever stored the material wipes it.
		again, err := k.OpenKey(k.ctx, key.Ref(), good)
		if err != nil {
			t.Fatalf("%s: OpenKey: %v", alg, err)
		}
		good.Wipe()
		k.works(key, key.Public())
		k.works(again, key.Public())
		if m := again.(core.SoftwareKey).Material(); m.Equal(good) {
			t.Errorf("%s: wiping the material wiped the key", alg)
		}
	})
}

func checkForeignRef(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	for _, ref := range []core.KeyRef{"", "nonsense", ":", "no-such-scheme:key", "no-such-scheme:a=b;c=d"} {
		if _, err := k.OpenKey(k.ctx, ref, core.Secret{}); !errors.Is(err, core.ErrDenied) {
			t.Errorf("OpenKey(%q): %v, want ErrDenied", ref, err)
		}
	}
}

func checkDelete(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	d, ok := k.CryptoProvider.(core.KeyDeleter)
	if !ok {
		t.Log("this provider deletes no keys")
		return
	}
	k.forEach(everyAlgorithm, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		other := k.make(keySpec(alg))
		for range 2 { // deleting an absent key is not an error
			if err := d.DeleteKey(k.ctx, key.Ref()); err != nil {
				t.Errorf("%s: DeleteKey: %v", alg, err)
			}
		}
		if _, err := k.OpenKey(k.ctx, key.Ref(), material(key)); !errors.Is(err, core.ErrNotFound) {
			t.Errorf("%s: OpenKey of a deleted key: %v, want ErrNotFound", alg, err)
		}
		k.works(other, other.Public())
	})
}

func checkImport(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	importer, ok := k.CryptoProvider.(core.KeyImporter)
	if !ok {
		t.Log("this provider imports no keys")
		return
	}
	for _, alg := range k.algorithms() {
		secret, public := newMaterial(t, alg)
		if secret == nil {
			continue // no reference for the algorithm
		}
		s := keySpec(alg)
		given := core.NewSecret(bytes.Clone(secret))
		key, err := importer.ImportKey(k.ctx, s, given)
		if err != nil {
			t.Fatalf("%s: ImportKey: %v", alg, err)
		}
		k.forget(key)
		if key.Algorithm() != alg || !bytes.Equal(key.Public(), public) || !bytes.Equal(given.Bytes(), secret) {
			t.Errorf("%s: ImportKey gave another key or changed the material", alg)
		}
		given.Wipe()
		k.works(key, public)
		again, err := k.OpenKey(k.ctx, key.Ref(), material(key))
		if err != nil {
			t.Fatalf("%s: OpenKey of an imported key: %v", alg, err)
		}
		k.works(again, public)

		refused := func(what string, s core.KeySpec, secret []byte, want error) {
			key, err := importer.ImportKey(k.ctx, s, core.NewSecret(secret))
			if err == nil {
				k.forget(key)
			}
			if !errors.Is(err, want) {
				t.Errorf("%s: ImportKey of %s: %v, want %v", alg, what, err, want)
			}
		}
		refused("no bytes", s, nil, core.ErrInvalid)
		refused("a byte less", s, secret[1:], core.ErrInvalid)
		refused("a byte more", s, append(bytes.Clone(secret), 0), core.ErrInvalid)
		s.Use ^= core.UseSign ^ core.UseDecrypt
		refused("a key for the other use", s, secret, core.ErrUnsupported)
		s.Algorithm = "no such algorithm"
		refused("an unknown algorithm", s, secret, core.ErrUnsupported)
	}
}

func checkSlices(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	k.forEach(everyAlgorithm, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		m := material(key)
		before := m.Clone()
		if _, err := k.OpenKey(k.ctx, key.Ref(), m); err != nil || !m.Equal(before) {
			t.Errorf("%s: OpenKey changed the material (%v)", alg, err)
		}
		if isSignature(alg) {
			message := []byte("a message that stays")
			before := bytes.Clone(message)
			sig, err := k.signer(key).Sign(k.ctx, message)
			if err != nil || !bytes.Equal(message, before) {
				t.Errorf("%s: Sign changed the message (%v)", alg, err)
			}
			kept := bytes.Clone(sig)
			if _, err := k.signer(key).Sign(k.ctx, []byte("another")); err != nil || !bytes.Equal(sig, kept) {
				t.Errorf("%s: a second signature changed the first (%v)", alg, err)
			}
		} else if isAgreement(alg) {
			peer := k.make(keySpec(alg)).Public()
			before := bytes.Clone(peer)
			first, err := k.agreer(key).Agree(k.ctx, peer)
			if err != nil || !bytes.Equal(peer, before) {
				t.Errorf("%s: Agree changed the peer's key (%v)", alg, err)
			}
			first.Wipe() // as its owner may
			copy(peer, k.make(keySpec(alg)).Public())
			second, err := k.agreer(key).Agree(k.ctx, before)
			if err != nil || second.Equal(first) {
				t.Errorf("%s: wiping a shared secret changed the next (%v)", alg, err)
			}
			third, err := k.agreer(key).Agree(k.ctx, peer)
			if err != nil || third.Equal(second) {
				t.Errorf("%s: another peer in the same slice, the same secret (%v)", alg, err)
			}
		}
	})
}

func checkRedaction(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	k.forEach(everyAlgorithm, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		soft, ok := key.(core.SoftwareKey)
		if !ok {
			return
		}
		secret := soft.Material().Bytes()
		js, err := json.Marshal(key)
		if err != nil {
			js = nil // refusing is fine
		}
		printed := string(js)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			printed += fmt.Sprintf(verb, key) + fmt.Sprintf(verb, struct{ K core.PrivateKey }{key})
		}
		decimal := strings.Trim(fmt.Sprint(secret), "[]")
		for _, form := range []string{
			string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
			base64.StdEncoding.EncodeToString(secret), decimal, strings.ReplaceAll(decimal, " ", ", "),
		} {
			if strings.Contains(printed, form) {
				t.Errorf("%s: formatting the key shows its private part", alg)
			}
		}
	})
}

func checkProviderConcurrency(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	k.forEach(everyAlgorithm, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				defer caught(t)
				for j := range 4 {
					if err := useKey(k.ctx, key, fmt.Sprint(i, j)); err != nil {
						t.Errorf("%s: %v", alg, err)
					}
				}
				again, err := k.OpenKey(k.ctx, key.Ref(), material(key))
				if err != nil || !bytes.Equal(again.Public(), key.Public()) {
					t.Errorf("%s: OpenKey: %v", alg, err)
				}
			})
		}
		wg.Wait()
	})
	s := keySpec(k.algorithms()[0])
	publics := make([]string, 4)
	var wg sync.WaitGroup
	for i := range publics {
		wg.Go(func() {
			defer caught(t)
			key, err := k.GenerateKey(k.ctx, s)
			if err != nil {
				t.Errorf("GenerateKey: %v", err)
				return
			}
			publics[i] = string(key.Public())
			if _, software := key.(core.SoftwareKey); software {
				publics[i] = "" // a new one each time
			}
			k.forget(key)
		})
	}
	wg.Wait()
	if len(slices.Compact(publics)) != 1 {
		t.Error("one ID asked for at the same time gave several keys")
	}
}

func checkCancellation(t testing.TB, open func() core.CryptoProvider) {
	k := providerOf(t, open)
	ctx, cancel := context.WithCancel(k.ctx)
	cancel()
	cancelled := func(op string, err error) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s after cancellation: %v, want context.Canceled", op, err)
		}
	}
	_, err := k.Algorithms(ctx)
	cancelled("Algorithms", err)
	k.forEach(everyAlgorithm, func(alg core.KeyAlgorithm, key core.PrivateKey) {
		_, err := k.GenerateKey(ctx, keySpec(alg))
		cancelled("GenerateKey", err)
		_, err = k.OpenKey(ctx, key.Ref(), material(key))
		cancelled("OpenKey", err)
		if isSignature(alg) {
			_, err = k.signer(key).Sign(ctx, []byte("message"))
			cancelled("Sign", err)
		} else if isAgreement(alg) {
			_, err = k.agreer(key).Agree(ctx, key.Public())
			cancelled("Agree", err)
		}
		k.works(key, key.Public())
	})
}
