// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// A device is a side of a session in these tests.
type device struct {
	identity *IdentityKeyPair
	preKeys  map[uint16]*PreKey
	random   io.Reader
	stored   *records // of the session that env is for
}

// seeded gives the same bytes in every run.
func seeded(seed uint64) *rand.ChaCha8 {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
}

func newDevice(t testing.TB, random io.Reader, preKeys ...uint16) *device {
	t.Helper()
	identity, err := GenerateIdentity(random)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{identity: identity, preKeys: map[uint16]*PreKey{}, random: random}
	for _, id := range preKeys {
		if d.preKeys[id], err = GeneratePreKey(random, id); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d *device) env() *Env {
	env := &Env{Identity: d.identity, Random: d.random, PreKey: func(_ context.Context, id uint16) (*PreKey, error) {
		if k := d.preKeys[id]; k != nil {
			return k, nil
		}
		return nil, core.ErrNotFound
	}}
	if d.stored != nil {
		env.Fetch = d.stored.fetch
	}
	return env
}

// opens gives a session that d opens by a prekey of another device.
func (d *device) opens(t testing.TB, other *device, id uint16) *Session {
	t.Helper()
	s, err := SessionFromPreKey(d.env(), other.preKeys[id].Bundle(other.identity))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// store writes the session and reads it again: its kept keys are in the store only.
func (d *device) store(t testing.TB, s *Session) *Session {
	t.Helper()
	d.stored = new(records)
	d.stored.apply(s.Changes(nil))
	return d.load(t)
}

func (d *device) load(t testing.TB) *Session {
	t.Helper()
	s, err := LoadSession(t.Context(), d.stored.fetch)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// reads decrypts a message, with or without a session, and removes the prekey.
func (d *device) reads(t testing.TB, s *Session, message []byte, want string) *Session {
	t.Helper()
	next, err := d.decrypt(t.Context(), s, message)
	if err != nil || string(next.Plaintext) != want {
		t.Fatalf("read %q, %v, want %q", plaintextOf(next), err, want)
	}
	if next.UsedPreKey != nil && *next.UsedPreKey != LastResortPreKeyID {
		delete(d.preKeys, *next.UsedPreKey)
	}
	return next.Session
}

func (d *device) decrypt(ctx context.Context, s *Session, message []byte) (*Decrypted, error) {
	if s == nil {
		return SessionFromMessage(ctx, d.env(), message)
	}
	return s.Decrypt(ctx, d.env(), message)
}

func sends(t testing.TB, s *Session, plaintext string) (*Session, []byte) {
	t.Helper()
	s, message, err := s.Encrypt([]byte(plaintext))
	if err != nil {
		t.Fatal(err)
	}
	return s, message
}

// skips is the session after n messages that nobody gets.
func skips(t testing.TB, s *Session, n int) *Session {
	t.Helper()
	for range n {
		s, _ = sends(t, s, "")
	}
	return s
}

// talking are two devices that have read from one another: alice has turned once more.
// Bob keeps his prekeys 2 and 65535.
func talking(t testing.TB, seed uint64) (alice, bob *device, toBob, toAlice *Session) {
	t.Helper()
	random := seeded(seed)
	alice, bob = newDevice(t, random, 1), newDevice(t, random, 1, 2, LastResortPreKeyID)
	toBob, message := sends(t, alice.opens(t, bob, 1), "hello bob")
	toAlice = bob.reads(t, nil, message, "hello bob")
	toAlice, message = sends(t, toAlice, "hello alice")
	toBob = alice.reads(t, toBob, message, "hello alice")
	return alice, bob, toBob, toAlice
}

// inMemory is all that a session has in memory.
func inMemory(s *Session) []byte {
	if s == nil {
		return nil
	}
	b := s.head()
	for _, t := range s.states {
		b, _ = t.state.append(b, nil)
	}
	for _, secret := range s.secrets(nil) {
		b = append(b, secret.Bytes()...)
	}
	return b
}

// marshalled is the session as both implementations store it.
func marshalled(t testing.TB, s *Session, env *Env) []byte {
	t.Helper()
	b, err := s.Marshal(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// isTyped says whether it is an error with a code that has a class, and which.
func isTyped(err error) bool {
	var e *Error
	return errors.As(err, &e) && classes[e.Code] != nil && errors.Is(err, classes[e.Code])
}

// refused checks that an error has the code.
func refused(t testing.TB, what string, err error, code Code) {
	t.Helper()
	if CodeOf(err) != code || !isTyped(err) {
		t.Errorf("%s: error %v, want code %d", what, err, code)
	}
}

// flips calls f with every copy of data that has one other bit.
func flips(data []byte, f func(at int, flipped []byte)) {
	for i := range 8 * len(data) {
		flipped := bytes.Clone(data)
		flipped[i/8] ^= 1 << (i % 8)
		f(i/8, flipped)
	}
}
