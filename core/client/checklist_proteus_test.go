// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// wants runs f in a transaction and wants an error, or none if it is nil.
func (d *proteusDevice) wants(want error, f func(ctx context.Context, p client.Proteus) error) {
	d.Helper()
	if err := d.try(f); !errors.Is(err, want) {
		d.Errorf("%v, want %v", err, want)
	}
}

// has wants that there is a session, or that there is none.
func (d *proteusDevice) has(name string, want bool) {
	d.Helper()
	d.wants(nil, func(ctx context.Context, p client.Proteus) error {
		there, err := p.Exists(ctx, name)
		if there != want {
			d.Errorf("session %q: %v", name, there)
		}
		return err
	})
}

// prekeys are the ids of those that there are.
func (d *proteusDevice) prekeys() (ids []uint16) {
	d.Helper()
	d.wants(nil, func(ctx context.Context, p client.Proteus) (err error) { ids, err = p.PreKeys(ctx); return err })
	return ids
}

func (d *proteusDevice) fingerprint() (f string) {
	d.Helper()
	d.wants(nil, func(ctx context.Context, p client.Proteus) (err error) { f, err = p.Fingerprint(ctx); return err })
	return f
}

func (d *proteusDevice) fingerprints(name string) (local, remote string) {
	d.Helper()
	d.wants(nil, func(ctx context.Context, p client.Proteus) (err error) {
		local, remote, err = p.Fingerprints(ctx, name)
		return err
	})
	return local, remote
}

func methodProteusInit(t *testing.T) {
	t.Parallel()
	d := (&proteusDevice{TB: t, ks: memory.New()}).again()
	initialise := func(ctx context.Context, p client.Proteus) error { return p.Init(ctx) }
	d.wants(errOurs, func(ctx context.Context, p client.Proteus) error { return errors.Join(initialise(ctx, p), errOurs) })
	d.wants(client.ErrProteusNotInitialized, func(ctx context.Context, p client.Proteus) error {
		_, err := p.Fingerprint(ctx)
		return err
	})
	d.wants(nil, initialise)
	first := d.fingerprint()
	d = d.again()
	d.wants(nil, initialise)
	if again := d.fingerprint(); again != first {
		t.Errorf("%s, and then %s", first, again)
	}
	if ids := d.prekeys(); !slices.Equal(ids, []uint16{proteus.LastResortPreKeyID}) {
		t.Errorf("prekeys %d", ids)
	}
}

// Nothing is to be loaded again: what a transaction has undone is nowhere in memory.
func methodProteusReload(t *testing.T) {
	t.Parallel()
	alice, bob := talking(t, memory.New(), memory.New())
	message := alice.encrypt("bob", "hello")
	for range 2 {
		bob.wants(errOurs, func(ctx context.Context, p client.Proteus) error {
			_, err := p.Decrypt(ctx, "alice", message)
			return errors.Join(err, errOurs)
		})
	}
	bob.reads("alice", message, "hello")
}

func methodProteusFromPreKey(t *testing.T) {
	t.Parallel()
	alice, bob := talking(t, memory.New(), memory.New())
	identity, err := proteus.GenerateIdentity(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := proteus.GeneratePreKey(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	b := k.SignedBundle(identity)
	signed := b.Marshal()
	b.Signature[0] ^= 1
	alice.wants(proteus.ErrInvalidSignature, func(ctx context.Context, p client.Proteus) error {
		return p.SessionFromPreKey(ctx, "bob", b.Marshal())
	})
	bob.reads("alice", alice.encrypt("bob", "still here"), "still here")
	// It takes the place of what is there.
	alice.open("bob", signed)
	if _, remote := alice.fingerprints("bob"); remote != identity.Public().Fingerprint() {
		t.Errorf("the session is with %s", remote)
	}
	alice.refuses("bob", bob.encrypt("alice", "in the session before"), proteus.ErrInvalidMessage)
}

func methodProteusFromMessage(t *testing.T) {
	t.Parallel()
	_, bob := talking(t, memory.New(), memory.New())
	carol := newProteus(t, memory.New())
	carol.open("bob", bob.bundle())
	message := carol.encrypt("bob", "I am alice now")
	from := func(ctx context.Context, p client.Proteus) error {
		plaintext, err := p.SessionFromMessage(ctx, "alice", message)
		if err == nil && string(plaintext) != "I am alice now" {
			t.Errorf("%q", plaintext)
		}
		return err
	}
	bob.wants(nil, from) // in the place of what is there
	if _, remote := bob.fingerprints("alice"); remote != carol.fingerprint() {
		t.Errorf("the session is with %s", remote)
	}
	bob.wants(proteus.ErrPreKeyNotFound, from)
	carol.reads("bob", bob.encrypt("alice", "so you say"), "so you say")
}

func methodProteusDelete(t *testing.T) {
	t.Parallel()
	_, bob := talking(t, memory.New(), memory.New())
	for range 2 { // also if there is none
		bob.wants(nil, func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, "alice") })
		bob.has("alice", false)
		bob = bob.again()
	}
}

func methodProteusSession(t *testing.T) {
	t.Parallel()
	alice, bob := talking(t, memory.New(), memory.New())
	hello := alice.encrypt("bob", "hello")
	var left *client.ProteusSession
	var answer []byte
	bob.wants(nil, func(ctx context.Context, p client.Proteus) error {
		if s, there, err := p.Session(ctx, "nobody"); s != nil || there || err != nil {
			t.Errorf("nobody: %v, %v, %v", s, there, err)
		}
		if _, _, err := p.Session(ctx, ""); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("without a name: %v", err)
		}
		s, there, err := p.Session(ctx, "alice")
		if err != nil || !there || s.Name() != "alice" {
			t.Fatalf("alice: %v, %v, %v", s, there, err)
		}
		local, remote, err := s.Fingerprints(ctx)
		plaintext, err2 := s.Decrypt(ctx, hello)
		again, err3 := s.Encrypt(ctx, []byte("hello back"))
		answer, left = again, s
		if string(plaintext) != "hello" || remote != alice.fingerprint() || local == remote {
			t.Errorf("%q of %s to %s", plaintext, remote, local)
		}
		return errors.Join(err, err2, err3)
	})
	alice.reads("bob", answer, "hello back")
	if _, err := left.Encrypt(t.Context(), nil); !errors.Is(err, client.ErrInvalidTransaction) {
		t.Errorf("after its transaction: %v", err)
	}
	bob.wants(proteus.ErrSessionNotFound, func(ctx context.Context, p client.Proteus) error {
		s, _, err := p.Session(ctx, "alice")
		if err := errors.Join(err, p.Delete(ctx, "alice")); err != nil {
			return err
		}
		_, err = s.Encrypt(ctx, nil)
		return err
	})
}

func methodProteusExists(t *testing.T) {
	t.Parallel()
	_, bob := talking(t, memory.New(), memory.New())
	bob.has("alice", true)
	bob.again().has("alice", true)
	bob.has("bob", false)
}

// A message that opens a session may also come where there is one.
func methodProteusDecrypt(t *testing.T) {
	t.Parallel()
	alice, bob := talking(t, memory.New(), memory.New())
	alice.open("bob", bob.bundle())
	again := alice.encrypt("bob", "again")
	bob.wants(proteus.ErrSessionNotFound, func(ctx context.Context, p client.Proteus) error {
		_, err := p.Decrypt(ctx, "nobody", again)
		return err
	})
	for _, want := range []error{nil, proteus.ErrDuplicateMessage} {
		bob.wants(want, func(ctx context.Context, p client.Proteus) error {
			_, err := p.Decrypt(ctx, "alice", again)
			return err
		})
	}
	if ids := bob.prekeys(); !slices.Equal(ids, []uint16{proteus.LastResortPreKeyID}) {
		t.Errorf("prekeys %d", ids)
	}
	alice.reads("bob", bob.encrypt("alice", "in the new state"), "in the new state")
}

func methodProteusPreKeyAuto(t *testing.T) {
	t.Parallel()
	d := newProteus(t, memory.New())
	w := newWorld(t, clienttest.Options{})
	store, err := w.storeWith(d.ks, 0)
	w.must(err)
	const free = 40000
	var b seal.Batch // whose contents nobody asks for
	for id := uint16(1); id < proteus.LastResortPreKeyID; id++ {
		if id != free {
			b.Puts = append(b.Puts, seal.Put{Table: client.TablePreKey, Key: binary.BigEndian.AppendUint16([]byte{1}, id), Value: []byte{0}})
		}
	}
	_, err = store.Apply(t.Context(), b)
	w.must(err)
	for _, want := range []error{nil, client.ErrNoFreePreKey} {
		d.wants(want, func(ctx context.Context, p client.Proteus) error {
			id, _, err := p.NewPreKeyAuto(ctx)
			if err == nil && id != free {
				t.Errorf("id %d", id)
			}
			return err
		})
	}
}

func methodProteusFingerprints(t *testing.T) {
	t.Parallel()
	alice, bob := talking(t, memory.New(), memory.New())
	b, err := proteus.UnmarshalPreKeyBundle(bob.bundle())
	if err != nil {
		t.Fatal(err)
	}
	local, remote := alice.fingerprints("bob")
	if local != alice.fingerprint() || remote != bob.fingerprint() || remote != b.Identity.Fingerprint() || local == remote {
		t.Errorf("%s and %s", local, remote)
	}
	alice.wants(proteus.ErrSessionNotFound, func(ctx context.Context, p client.Proteus) error {
		_, _, err := p.Fingerprints(ctx, "nobody")
		return err
	})
}

// One session that cannot be read is in nobody's way.
func quirkProteusOneUnreadable(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	bob := newProteus(t, ks)
	carol, dave := newProteus(t, memory.New()), newProteus(t, memory.New())
	carol.open("bob", bob.bundle())
	bob.reads("carol", carol.encrypt("bob", "hello"), "hello")
	whole := photo(t, ks)
	dave.open("bob", bob.bundle())
	bob.reads("dave", dave.encrypt("bob", "hello"), "hello")
	for _, r := range photo(t, ks).Puts {
		if r.Table == client.TableSession && !slices.ContainsFunc(whole.Puts, func(p core.Put) bool { return bytes.Equal(p.Key, r.Key) }) {
			r.Value[len(r.Value)/2] ^= 1
			if err := ks.Apply(t.Context(), core.Batch{Puts: []core.Put{r}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	bob = bob.again()
	bob.wants(nil, func(ctx context.Context, p client.Proteus) error { return p.Init(ctx) })
	bob.wants(core.ErrDamaged, func(ctx context.Context, p client.Proteus) error {
		there, err := p.Exists(ctx, "dave")
		if there {
			t.Error("what cannot be read is there")
		}
		return err
	})
	carol.reads("bob", bob.encrypt("carol", "undisturbed"), "undisturbed")
}

// A store that is away is no answer.
func quirkProteusStoreAway(t *testing.T) {
	t.Parallel()
	store := &coretest.Faulty{Keystore: memory.New()}
	_, bob := talking(t, memory.New(), store)
	store.Break()
	bob.wants(core.ErrUnavailable, func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, "alice") })
	bob.wants(core.ErrUnavailable, func(ctx context.Context, p client.Proteus) error {
		there, err := p.Exists(ctx, "alice")
		if there {
			t.Error("there, says who cannot know")
		}
		return err
	})
	store.Mend()
	bob.has("alice", true)
	// Nor is it one that fails when all is to be written.
	store.Plan = coretest.At(store.Applies()+1, coretest.FaultBefore)
	bob.wants(core.ErrUnavailable, func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, "alice") })
	bob.has("alice", true)
}

func quirkProteusCode(t *testing.T) {
	t.Parallel()
	d := newProteus(t, memory.New())
	for _, f := range []func(ctx context.Context, p client.Proteus) error{
		func(ctx context.Context, p client.Proteus) error { return second(p.Encrypt(ctx, "nobody", nil)) },
		func(ctx context.Context, p client.Proteus) error { return second(p.Decrypt(ctx, "nobody", nil)) },
	} {
		err := d.try(f)
		if !errors.Is(err, proteus.ErrSessionNotFound) || proteus.CodeOf(err) != 102 {
			t.Errorf("%v, code %d", err, proteus.CodeOf(err))
		}
	}
}

// The prekey goes in the same write that brings the session, and that of last resort stays.
func dangerPreKeys(t *testing.T) {
	t.Parallel()
	store := &coretest.Faulty{Keystore: memory.New()}
	alice, bob := newProteus(t, memory.New()), newProteus(t, store)
	const last = proteus.LastResortPreKeyID
	alice.open("bob", bob.bundle())
	hello := alice.encrypt("bob", "hello")
	for _, fault := range []coretest.Fault{coretest.FaultBefore, coretest.FaultNone} {
		store.Plan = coretest.At(store.Applies()+1, fault)
		_, err := bob.decrypt("alice", hello)
		want := []uint16{last}
		if fault != coretest.FaultNone {
			want = []uint16{1, last}
		}
		bob.has("alice", err == nil)
		if ids := bob.prekeys(); (err == nil) != (fault == coretest.FaultNone) || !slices.Equal(ids, want) {
			t.Errorf("prekeys %d after %v", ids, err)
		}
	}
	bob.wants(nil, func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, "alice") })
	bob.wants(nil, func(ctx context.Context, p client.Proteus) error {
		bundle, err := p.LastResortPreKey(ctx)
		alice.open("bob", bundle)
		return err
	})
	bob.reads("alice", alice.encrypt("bob", "hello"), "hello")
	if ids := bob.prekeys(); !slices.Equal(ids, []uint16{last}) {
		t.Errorf("prekeys %d", ids)
	}
}
