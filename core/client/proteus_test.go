// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A proteusDevice is a client that speaks Proteus, on a store that can be opened again.
type proteusDevice struct {
	testing.TB
	*clienttest.Device
	ks core.Keystore
}

func newProteus(t testing.TB, ks core.Keystore) *proteusDevice {
	d := (&proteusDevice{TB: t, ks: ks}).again()
	d.do(func(ctx context.Context, p client.Proteus) error { return p.Init(ctx) })
	return d
}

// again opens the store as another process does.
func (d *proteusDevice) again() *proteusDevice {
	w := newWorld(d.TB, clienttest.Options{})
	return &proteusDevice{d.TB, clienttest.NewDevice(w, w.service, "proteus", d.ks, config()), d.ks}
}

func (d *proteusDevice) try(f func(ctx context.Context, p client.Proteus) error) error {
	return d.Transaction(d.Context(), func(ctx context.Context, tx *client.Transaction) error { return f(ctx, tx.Proteus()) })
}

func (d *proteusDevice) do(f func(ctx context.Context, p client.Proteus) error) {
	d.Helper()
	if err := d.try(f); err != nil {
		d.Fatal(err)
	}
}

func (d *proteusDevice) bundle() (bundle []byte) {
	d.Helper()
	d.do(func(ctx context.Context, p client.Proteus) (err error) {
		_, bundle, err = p.NewPreKeyAuto(ctx)
		return err
	})
	return bundle
}

func (d *proteusDevice) open(name string, bundle []byte) {
	d.Helper()
	d.do(func(ctx context.Context, p client.Proteus) error { return p.SessionFromPreKey(ctx, name, bundle) })
}

func (d *proteusDevice) encrypt(name, text string) (message []byte) {
	d.Helper()
	d.do(func(ctx context.Context, p client.Proteus) (err error) {
		message, err = p.Encrypt(ctx, name, []byte(text))
		return err
	})
	return message
}

func (d *proteusDevice) decrypt(name string, message []byte) (text string, err error) {
	err = d.try(func(ctx context.Context, p client.Proteus) error {
		plaintext, err := p.DecryptSafe(ctx, name, message)
		text = string(plaintext)
		return err
	})
	return text, err
}

func (d *proteusDevice) reads(name string, message []byte, want string) {
	d.Helper()
	if got, err := d.decrypt(name, message); err != nil || got != want {
		d.Errorf("read %q, %v, want %q", got, err, want)
	}
}

func (d *proteusDevice) refuses(name string, message []byte, want error) {
	d.Helper()
	if got, err := d.decrypt(name, message); !errors.Is(err, want) {
		d.Errorf("read %q, %v, want %v", got, err, want)
	}
}

// talking gives two devices that have answered one another.
func talking(t testing.TB, of, with core.Keystore) (alice, bob *proteusDevice) {
	t.Helper()
	alice, bob = newProteus(t, of), newProteus(t, with)
	alice.open("bob", bob.bundle())
	bob.reads("alice", alice.encrypt("bob", "hello"), "hello")
	alice.reads("bob", bob.encrypt("alice", "hello back"), "hello back")
	return alice, bob
}

func TestProteusConversation(t *testing.T) {
	t.Parallel()
	alice, bob := talking(t, memory.New(), memory.New())
	for i := range 30 {
		text := fmt.Sprint("message ", i)
		late, next := alice.encrypt("bob", text+" late"), alice.encrypt("bob", text)
		bob.reads("alice", next, text)
		if i%3 == 0 {
			bob = bob.again()
		}
		bob.reads("alice", late, text+" late")
		bob.refuses("alice", late, proteus.ErrDuplicateMessage)
		if i%4 == 0 {
			alice = alice.again()
		}
		if i%5 == 0 {
			alice.reads("bob", bob.encrypt("alice", text), text)
		}
	}
	var ours, theirs, remote string
	alice.do(func(ctx context.Context, p client.Proteus) (err error) { ours, err = p.Fingerprint(ctx); return err })
	bob.do(func(ctx context.Context, p client.Proteus) (err error) {
		theirs, remote, err = p.Fingerprints(ctx, "alice")
		return err
	})
	if remote != ours || theirs == ours || len(theirs) != 64 {
		t.Errorf("alice is %s, for bob, who is %s, she is %s", ours, theirs, remote)
	}
}

// However many states a session has, and whatever keys it keeps, all of it is read.
func TestProteusManyStates(t *testing.T) {
	t.Parallel()
	alice, bob := newProteus(t, memory.New()), newProteus(t, memory.New())
	var sent [][]byte
	for i := range 5 {
		alice.open("bob", bob.bundle()) // anew, in place of the one before
		for n := range 4 {
			sent = append(sent, alice.encrypt("bob", fmt.Sprint(i, n)))
		}
		bob.reads("alice", sent[4*i+2], fmt.Sprint(i, 2))
		for j := range i + 1 {
			bob.refuses("alice", sent[4*j+2], proteus.ErrDuplicateMessage)
		}
	}
	for _, n := range []int{3, 1, 0} {
		for i := range 5 {
			bob.reads("alice", sent[4*i+n], fmt.Sprint(i, n))
		}
	}
}

func TestProteusPreKeys(t *testing.T) {
	t.Parallel()
	d := newProteus(t, memory.New())
	var ids []uint16
	for range 3 {
		d.do(func(ctx context.Context, p client.Proteus) error {
			id, _, err := p.NewPreKeyAuto(ctx)
			ids = append(ids, id)
			return err
		})
	}
	for _, c := range []struct {
		id   uint16
		want error
	}{{5, nil}, {0, nil}, {5, client.ErrPreKeyExists}, {2, client.ErrPreKeyExists}, {proteus.LastResortPreKeyID, core.ErrDenied}} {
		err := d.try(func(ctx context.Context, p client.Proteus) error { _, err := p.NewPreKey(ctx, c.id); return err })
		if !errors.Is(err, c.want) {
			t.Errorf("prekey %d: %v, want %v", c.id, err, c.want)
		}
	}
	var first, again []byte
	d.do(func(ctx context.Context, p client.Proteus) (err error) {
		first, err = p.LastResortPreKey(ctx)
		return err
	})
	d = d.again()
	d.do(func(ctx context.Context, p client.Proteus) error { return p.Init(ctx) })
	d.do(func(ctx context.Context, p client.Proteus) (err error) {
		again, err = p.LastResortPreKey(ctx)
		return err
	})
	if !bytes.Equal(first, again) {
		t.Error("the prekey of last resort has changed")
	}
	// One is used, and its id is the lowest that is free then.
	other := newProteus(t, memory.New())
	var bundle []byte
	d.do(func(ctx context.Context, p client.Proteus) (err error) { bundle, err = p.NewPreKey(ctx, 4); return err })
	other.open("d", bundle)
	message := other.encrypt("d", "hello")
	d.reads("other", message, "hello")
	d.do(func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, "other") })
	d.refuses("other", message, proteus.ErrPreKeyNotFound)
	d.do(func(ctx context.Context, p client.Proteus) error {
		id, _, err := p.NewPreKeyAuto(ctx)
		ids = append(ids, id)
		return err
	})
	if !slices.Equal(ids, []uint16{1, 2, 3, 4}) {
		t.Errorf("ids %d", ids)
	}
	// That of last resort is not used up.
	other.open("last", first)
	message = other.encrypt("last", "again")
	for _, name := range []string{"one", "two"} {
		d.reads(name, message, "again")
	}
	d.do(func(ctx context.Context, p client.Proteus) error {
		ids, err := p.PreKeys(ctx)
		if !slices.Equal(ids, []uint16{0, 1, 2, 3, 4, 5, proteus.LastResortPreKeyID}) {
			t.Errorf("prekeys %d", ids)
		}
		return err
	})
}

// What is not initialised, not there, or has no name.
func TestProteusRefusals(t *testing.T) {
	t.Parallel()
	nobody := (&proteusDevice{TB: t, ks: memory.New()}).again()
	alice, bob := talking(t, memory.New(), memory.New())
	bundle := bob.bundle()
	message := alice.encrypt("bob", "x")
	for name, f := range map[string]func(ctx context.Context, p client.Proteus) error{
		"fingerprint":  func(ctx context.Context, p client.Proteus) error { _, err := p.Fingerprint(ctx); return err },
		"prekey":       func(ctx context.Context, p client.Proteus) error { _, err := p.NewPreKey(ctx, 1); return err },
		"prekey, auto": func(ctx context.Context, p client.Proteus) error { _, _, err := p.NewPreKeyAuto(ctx); return err },
		"last resort":  func(ctx context.Context, p client.Proteus) error { _, err := p.LastResortPreKey(ctx); return err },
		"session":      func(ctx context.Context, p client.Proteus) error { return p.SessionFromPreKey(ctx, "a", bundle) },
		"from a message": func(ctx context.Context, p client.Proteus) error {
			_, err := p.SessionFromMessage(ctx, "a", message)
			return err
		},
	} {
		if err := nobody.try(f); !errors.Is(err, client.ErrProteusNotInitialized) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		want error
		f    func(ctx context.Context, p client.Proteus) error
	}{
		"encrypt": {proteus.ErrSessionNotFound, func(ctx context.Context, p client.Proteus) error { _, err := p.Encrypt(ctx, "nobody", nil); return err }},
		"decrypt": {proteus.ErrSessionNotFound, func(ctx context.Context, p client.Proteus) error {
			_, err := p.Decrypt(ctx, "nobody", message)
			return err
		}},
		"fingerprints": {proteus.ErrSessionNotFound, func(ctx context.Context, p client.Proteus) error {
			_, _, err := p.Fingerprints(ctx, "nobody")
			return err
		}},
		"no name":   {core.ErrInvalid, func(ctx context.Context, p client.Proteus) error { return p.SessionFromPreKey(ctx, "", bundle) }},
		"no bundle": {proteus.ErrMalformed, func(ctx context.Context, p client.Proteus) error { return p.SessionFromPreKey(ctx, "a", nil) }},
		"cipher first": {proteus.ErrInvalidMessage, func(ctx context.Context, p client.Proteus) error {
			_, err := p.SessionFromMessage(ctx, "a", message)
			return err
		}},
		"delete nobody": {nil, func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, "nobody") }},
	} {
		if err := bob.try(c.f); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	bob.reads("alice", message, "x")
	// Another device that answers for a session is for a person to judge.
	mallory := newProteus(t, memory.New())
	mallory.open("bob", bundle)
	_, err := bob.decrypt("alice", mallory.encrypt("bob", "it is me"))
	if !errors.Is(err, proteus.ErrRemoteIdentityChanged) || proteus.CodeOf(err) != 204 || client.Blames(err) {
		t.Errorf("another identity: %v", err)
	}
	bob.reads("mallory", mallory.encrypt("bob", "it is mallory"), "it is mallory") // with the same prekey
}

// errOurs has a transaction end for reasons of our own.
var errOurs = errors.New("ours")

// What a transaction does is undone with it, but for counters that were used.
func TestProteusAbort(t *testing.T) {
	t.Parallel()
	store := &coretest.Faulty{Keystore: memory.New()}
	alice, bob := talking(t, store, memory.New())
	bundle := bob.bundle()
	first := alice.encrypt("bob", "first")
	var escaped [][]byte
	var sizes []int // of all that is stored
	for range 3 {
		err := alice.try(func(ctx context.Context, p client.Proteus) error {
			for range 2 {
				m, err := p.Encrypt(ctx, "bob", []byte("escaped"))
				if err != nil {
					return err
				}
				escaped = append(escaped, m)
			}
			// What is in place of the session is undone as well.
			if err := p.SessionFromPreKey(ctx, "bob", bundle); err != nil {
				return err
			}
			if err := p.SessionFromPreKey(ctx, "new", bundle); err != nil {
				return err
			}
			if _, _, err := p.NewPreKeyAuto(ctx); err != nil {
				return err
			}
			return errOurs
		})
		if !errors.Is(err, errOurs) {
			t.Fatal(err)
		}
		alice = alice.again()
		sizes = append(sizes, 0)
		for _, put := range photo(t, alice.ks).Puts {
			sizes[len(sizes)-1] += len(put.Value)
		}
	}
	if sizes[2] != sizes[0] {
		t.Errorf("what is stored grows with each abort: %d", sizes)
	}
	applies := store.Applies()
	err := alice.try(func(ctx context.Context, p client.Proteus) error {
		_, err := p.Exists(ctx, "bob")
		return errors.Join(err, errOurs)
	})
	if !errors.Is(err, errOurs) || store.Applies() != applies {
		t.Errorf("who has only looked has written %d times: %v", store.Applies()-applies, err)
	}
	alice.do(func(ctx context.Context, p client.Proteus) error {
		names, err := p.Sessions(ctx)
		ids, err2 := p.PreKeys(ctx)
		if !slices.Equal(names, []string{"bob"}) || len(ids) != 1 {
			t.Errorf("sessions %q, prekeys %d", names, ids)
		}
		return errors.Join(err, err2)
	})
	second := alice.encrypt("bob", "second")
	for _, m := range append(slices.Clone(escaped), first, second) { // each has a key of its own
		if _, err := bob.decrypt("alice", m); err != nil {
			t.Error(err)
		}
	}
	// A message that was read in a transaction that was undone is read again.
	answer := bob.encrypt("alice", "answer")
	err = alice.try(func(ctx context.Context, p client.Proteus) error {
		_, err := p.Decrypt(ctx, "bob", answer)
		return errors.Join(err, errOurs)
	})
	if !errors.Is(err, errOurs) {
		t.Fatal(err)
	}
	alice.reads("bob", answer, "answer")
}

func TestProteusBatch(t *testing.T) {
	t.Parallel()
	const many = 200
	alice, bob := newProteus(t, memory.New()), newProteus(t, memory.New())
	var last []byte
	bob.do(func(ctx context.Context, p client.Proteus) (err error) {
		last, err = p.LastResortPreKey(ctx)
		return err
	})
	names := []string{"nobody"}
	alice.do(func(ctx context.Context, p client.Proteus) error {
		for i := range many {
			names = append(names, fmt.Sprint("session ", i))
			if err := p.SessionFromPreKey(ctx, names[i+1], last); err != nil {
				return err
			}
		}
		return nil
	})
	for round := range 2 {
		var messages map[string][]byte
		alice.do(func(ctx context.Context, p client.Proteus) (err error) {
			messages, err = p.EncryptBatched(ctx, append(names, names...), []byte("to all"))
			return err
		})
		if len(messages) != many || messages["nobody"] != nil {
			t.Fatalf("%d messages", len(messages))
		}
		for name, m := range messages {
			bob.reads(name, m, "to all")
		}
		if round == 0 {
			alice = alice.again()
		}
	}
	alice.do(func(ctx context.Context, p client.Proteus) error {
		for _, name := range names {
			if err := p.Delete(ctx, name); err != nil {
				return err
			}
		}
		left, err := p.Sessions(ctx)
		if len(left) > 0 {
			t.Errorf("%q are left", left)
		}
		return err
	})
}

// Two processes with one store read and write in one session, and no key is used twice.
func TestProteusProcesses(t *testing.T) {
	t.Parallel()
	alice, bob := talking(t, memory.New(), memory.New())
	processes := []*proteusDevice{alice, alice.again(), alice.again()}
	type result struct {
		message []byte
		err     error
	}
	results := make(chan result, 30)
	for i := range cap(results) {
		go func() {
			var r result
			r.err = processes[i%len(processes)].try(func(ctx context.Context, p client.Proteus) (err error) {
				r.message, err = p.Encrypt(ctx, "bob", fmt.Append(nil, i))
				return err
			})
			results <- r
		}()
	}
	for range cap(results) {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		if _, err := bob.decrypt("alice", r.message); err != nil {
			t.Error(err)
		}
	}
	// Of two that read the same message one is told that it was read.
	message := bob.encrypt("alice", "once")
	texts, refused := 0, 0
	for _, p := range processes {
		switch text, err := p.decrypt("bob", message); {
		case err == nil && text == "once":
			texts++
		case errors.Is(err, proteus.ErrDuplicateMessage):
			refused++
		default:
			t.Error(text, err)
		}
	}
	if texts != 1 || refused != 2 {
		t.Errorf("%d have read it, %d were told that it was read", texts, refused)
	}
}

// A store that fails at each point: the transaction happens whole or not at all, and no
// counter is used twice by what left.
func TestProteusFaults(t *testing.T) {
	t.Parallel()
	for _, fault := range []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate, coretest.FaultTooLate} {
		for n := 1; n <= 3; n++ {
			store := &coretest.Faulty{Keystore: memory.New()}
			alice, bob := talking(t, store, memory.New())
			store.Plan = coretest.At(store.Applies()+n, fault)
			var sent [][]byte
			for i := range 4 {
				err := alice.try(func(ctx context.Context, p client.Proteus) error {
					m, err := p.Encrypt(ctx, "bob", fmt.Append(nil, i))
					if err == nil {
						sent = append(sent, m)
					}
					return err
				})
				if err != nil && !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrUnknownOutcome) {
					t.Errorf("%v at %d: %v", fault, n, err)
				}
			}
			read := map[string]bool{}
			for _, m := range sent { // each that left, durable or not, has a key of its own
				text, err := bob.decrypt("alice", m)
				if err != nil {
					t.Errorf("%v at %d: %v", fault, n, err)
				}
				read[text] = true
			}
			if len(read) != 4 {
				t.Errorf("%v at %d: bob reads %v", fault, n, read)
			}
		}
	}
}

// begun is a transaction of another process that goes on when the others have had their
// turn.
func (d *proteusDevice) begun(f func(ctx context.Context, p client.Proteus) error) *client.Transaction {
	d.Helper()
	tx, err := d.again().Begin(d.Context())
	if err == nil {
		err = f(d.Context(), tx.Proteus())
	}
	if err != nil {
		d.Fatal(err)
	}
	return tx
}

// What another process does to a session meanwhile.
func TestProteusMeanwhile(t *testing.T) {
	t.Parallel()
	alice, bob := talking(t, memory.New(), memory.New())
	var first []byte
	encrypts := func(ctx context.Context, p client.Proteus) (err error) {
		first, err = p.Encrypt(ctx, "bob", []byte("first"))
		return err
	}
	slow := alice.begun(encrypts)
	second := alice.encrypt("bob", "second")
	if err := slow.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Fatalf("both have encrypted: %v", err)
	}
	if bytes.Equal(first, second) {
		t.Fatal("the test shows nothing")
	}
	bob.reads("alice", second, "second")

	// A prekey is used once, also where the sessions are there already.
	carol, dave := newProteus(t, memory.New()), newProteus(t, memory.New())
	for name, d := range map[string]*proteusDevice{"carol": carol, "dave": dave} {
		d.open("bob", bob.bundle())
		bob.reads(name, d.encrypt("bob", "hello"), "hello")
	}
	bundle := bob.bundle()
	carol.open("bob", bundle)
	dave.open("bob", bundle)
	hello := carol.encrypt("bob", "carol")
	slow = bob.begun(func(ctx context.Context, p client.Proteus) error {
		_, err := p.Decrypt(ctx, "carol", hello)
		return err
	})
	bob.reads("dave", dave.encrypt("bob", "dave"), "dave")
	if err := slow.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("the prekey was used twice: %v", err)
	}
	bob.refuses("carol", hello, proteus.ErrPreKeyNotFound)

	// So is its id, and a session's name.
	slow = bob.begun(func(ctx context.Context, p client.Proteus) error { _, _, err := p.NewPreKeyAuto(ctx); return err })
	bob.bundle()
	if err := slow.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("the id was used twice: %v", err)
	}
	slow = alice.begun(func(ctx context.Context, p client.Proteus) error { return p.SessionFromPreKey(ctx, "new", bundle) })
	alice.open("new", bundle)
	if err := slow.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("the name was used twice: %v", err)
	}

	// What is deleted stays so, whatever was burnt in it.
	slow = alice.begun(encrypts)
	alice.do(func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, "bob") })
	if err := slow.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	alice.do(func(ctx context.Context, p client.Proteus) error {
		there, err := p.Exists(ctx, "bob")
		if there {
			t.Error("the session is there again")
		}
		names, err2 := p.Sessions(ctx)
		if !slices.Equal(names, []string{"new"}) {
			t.Errorf("sessions %q", names)
		}
		return errors.Join(err, err2)
	})
}

// After the store was put back, sessions are read in and not written in until they are made
// again: their keys may have been used since. Prekeys are dropped, but that of last resort,
// which is not used up.
func TestProteusRecovery(t *testing.T) {
	t.Parallel()
	store := memory.New()
	alice, bob := talking(t, store, memory.New())
	alice.bundle()
	var last []byte
	alice.do(func(ctx context.Context, p client.Proteus) (err error) {
		last, err = p.LastResortPreKey(ctx)
		return err
	})
	past := photo(t, store)
	lost := alice.encrypt("bob", "of the lost hour")
	w := newWorld(t, clienttest.Options{})
	back := putBack(t, past)
	if _, err := openOn(t, back, config()); !errors.Is(err, core.ErrRolledBack) {
		t.Fatalf("opened without a word: %v", err)
	}
	alice = &proteusDevice{t, clienttest.NewDevice(w, w.service, "proteus", back, recovered()), back}
	alice.do(func(ctx context.Context, p client.Proteus) error {
		again, err := p.LastResortPreKey(ctx)
		if !bytes.Equal(again, last) {
			t.Error("another prekey of last resort")
		}
		ids, err2 := p.PreKeys(ctx)
		if !slices.Equal(ids, []uint16{proteus.LastResortPreKeyID}) {
			t.Errorf("prekeys %d", ids)
		}
		return errors.Join(err, err2)
	})
	refused := func() {
		t.Helper()
		for name, f := range map[string]func(ctx context.Context, p client.Proteus) error{
			"encrypt": func(ctx context.Context, p client.Proteus) error {
				_, err := p.Encrypt(ctx, "bob", nil)
				return err
			},
			"encrypt in a batch": func(ctx context.Context, p client.Proteus) error {
				_, err := p.EncryptBatched(ctx, []string{"bob"}, nil)
				return err
			},
		} {
			if err := alice.try(f); !errors.Is(err, client.ErrRecovering) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	refused()
	waiting := func(want ...string) {
		t.Helper()
		alice.do(func(ctx context.Context, p client.Proteus) error {
			names, err := p.Recovering(ctx)
			if !slices.Equal(names, want) {
				t.Errorf("waiting: %q, want %q", names, want)
			}
			return err
		})
	}
	alice.open("new", bob.bundle())
	waiting("bob")
	var toNew []byte
	alice.do(func(ctx context.Context, p client.Proteus) (err error) {
		for range 1001 { // which is more than the peer would pass over
			if _, err := p.EncryptBatched(ctx, []string{"bob", "new"}, nil); !errors.Is(err, client.ErrRecovering) {
				t.Errorf("a batch with one that waits: %v", err)
			}
		}
		toNew, err = p.Encrypt(ctx, "new", []byte("the first"))
		return err
	})
	bob.reads("new", toNew, "the first")
	bob.reads("alice", lost, "of the lost hour")
	alice.reads("bob", bob.encrypt("alice", "do you hear me"), "do you hear me")
	refused() // whatever was read
	waiting("bob")
	bundle := bob.bundle()
	err := alice.try(func(ctx context.Context, p client.Proteus) error {
		if err := p.SessionFromPreKey(ctx, "bob", bundle); err != nil {
			return err
		}
		names, err := p.Recovering(ctx)
		if len(names) > 0 {
			t.Errorf("within the transaction that has opened it again: %q", names)
		}
		return errors.Join(err, errOurs)
	})
	if !errors.Is(err, errOurs) {
		t.Error(err)
	}
	waiting("bob")
	alice.open("bob", bob.bundle())
	waiting()
	bob.reads("alice", alice.encrypt("bob", "I do"), "I do")
	alice.reads("bob", bob.encrypt("alice", "good"), "good")
}

// A session that is damaged in the store is refused, and is no other: it can be deleted or
// opened again, and the others are read as before.
func TestProteusDamaged(t *testing.T) {
	t.Parallel()
	for what, damage := range map[string]func(r core.Record) core.Batch{
		"changed": func(r core.Record) core.Batch {
			value := bytes.Clone(r.Value)
			value[len(value)/2] ^= 1
			return core.Batch{Puts: []core.Put{{Table: client.TableSession, Key: r.Key, Value: value, Version: r.Version}}}
		},
		"gone": func(r core.Record) core.Batch {
			return core.Batch{Dels: []core.Range{{Table: client.TableSession, Prefix: r.Key}}}
		},
	} {
		ks := memory.New()
		alice, bob := talking(t, ks, memory.New())
		bob.encrypt("alice", "lost")
		alice.reads("bob", bob.encrypt("alice", "late"), "late") // and a key is kept
		// What is stored of the session, but its head.
		answers, err := ks.Read(t.Context(), []core.Query{{Table: client.TableSession}})
		if err != nil {
			t.Fatal(err)
		}
		records := answers[0][1:]
		alice.open("other", bob.bundle())
		first := bob.encrypt("alice", "hello")
		spoil := func() {
			for _, r := range records {
				if err := ks.Apply(t.Context(), damage(r)); err != nil {
					t.Fatal(err)
				}
			}
		}
		spoil()
		for name, f := range map[string]func(ctx context.Context, p client.Proteus) error{
			"encrypt": func(ctx context.Context, p client.Proteus) error { _, err := p.Encrypt(ctx, "bob", nil); return err },
			"decrypt": func(ctx context.Context, p client.Proteus) error {
				_, err := p.DecryptSafe(ctx, "bob", first)
				return err
			},
			"exists": func(ctx context.Context, p client.Proteus) error { _, err := p.Exists(ctx, "bob"); return err },
			"in a batch": func(ctx context.Context, p client.Proteus) error {
				_, err := p.EncryptBatched(ctx, []string{"bob", "other"}, nil)
				return err
			},
			"a fingerprint": func(ctx context.Context, p client.Proteus) error { _, _, err := p.Fingerprints(ctx, "bob"); return err },
		} {
			if err := alice.try(f); !errors.Is(err, core.ErrDamaged) || !strings.Contains(err.Error(), `"bob"`) {
				t.Errorf("%s, %s: %v", what, name, err)
			}
		}
		bob.reads("other alice", alice.encrypt("other", "hello"), "hello")
		bundle := bob.bundle()
		var message []byte
		alice.do(func(ctx context.Context, p client.Proteus) error {
			err := p.SessionFromPreKey(ctx, "bob", bundle)
			if err == nil {
				message, err = p.Encrypt(ctx, "bob", []byte("anew"))
			}
			return err
		})
		bob.reads("alice anew", message, "anew")
		if answers, err = ks.Read(t.Context(), []core.Query{{Table: client.TableSession}}); err != nil || len(answers[0]) != 6 {
			t.Errorf("%s: two sessions have %d records, %v", what, len(answers[0]), err)
		}
		spoil()
		alice.do(func(ctx context.Context, p client.Proteus) error {
			err := p.Delete(ctx, "bob")
			names, err2 := p.Sessions(ctx)
			if !slices.Equal(names, []string{"other"}) {
				t.Errorf("sessions %q", names)
			}
			return errors.Join(err, err2)
		})
	}
}

// So is one whose head is damaged.
func TestProteusDamagedHead(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	alice, bob := newProteus(t, ks), newProteus(t, memory.New())
	head := func(name string) core.Record { // the first of the records that come with a session
		t.Helper()
		old, err := ks.Read(t.Context(), []core.Query{{Table: client.TableSession}})
		if err != nil {
			t.Fatal(err)
		}
		alice.open(name, bob.bundle())
		all, err := ks.Read(t.Context(), []core.Query{{Table: client.TableSession}})
		if err != nil {
			t.Fatal(err)
		}
		fresh := slices.DeleteFunc(all[0], func(r core.Record) bool {
			return slices.ContainsFunc(old[0], func(o core.Record) bool { return bytes.Equal(o.Key, r.Key) })
		})
		if len(fresh) == 0 {
			t.Fatal("no record is new")
		}
		return fresh[0]
	}
	head("first")
	r := head("new")
	head("last")
	value := bytes.Clone(r.Value)
	value[len(value)-1] ^= 1
	change := core.Batch{Puts: []core.Put{{Table: client.TableSession, Key: r.Key, Value: value, Version: r.Version}}}
	for _, remedy := range []func(ctx context.Context, p client.Proteus) error{
		func(ctx context.Context, p client.Proteus) error {
			return p.SessionFromPreKey(ctx, "new", bob.bundle())
		},
		func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, "new") },
	} {
		if err := ks.Apply(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		err := alice.try(func(ctx context.Context, p client.Proteus) error { _, err := p.Exists(ctx, "new"); return err })
		if !errors.Is(err, core.ErrDamaged) || !strings.Contains(err.Error(), `"new"`) {
			t.Errorf("it exists: %v", err)
		}
		alice.do(remedy)
		alice = alice.again()
	}
	alice.do(func(ctx context.Context, p client.Proteus) error {
		names, err := p.Sessions(ctx)
		if want := []string{"first", "last"}; !slices.Equal(names, want) {
			t.Errorf("left: %q", names)
		}
		return err
	})
	alice.encrypt("first", "as before")
}
