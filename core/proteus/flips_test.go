// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A flipCase is a message that a device can read, and the code of what comes of it with a
// MAC that is wrong.
type flipCase struct {
	name    string
	device  *device
	session *Session // nil: the message opens one
	message []byte
	badMAC  Code
	noState Code // with another tag
}

const flipText = "a message of which each bit is flipped"

func flipCases(t *testing.T) []flipCase {
	var cases []flipCase
	add := func(name string, d *device, s *Session, message []byte, badMAC, noState Code) {
		cases = append(cases, flipCase{name, d, s, message, badMAC, noState})
	}
	// Prekey messages: of a device that none has heard of, and within a session.
	random := seeded(1)
	alice, bob := newDevice(t, random), newDevice(t, random, 1, 2)
	toBob := alice.opens(t, bob, 1)
	_, first := sends(t, toBob, flipText)
	add("a prekey message, first", bob, nil, first, CodeBadMACInSync, CodeBadMACInSync)

	carol := newDevice(t, random, 1, 2)
	toCarol := alice.opens(t, carol, 1)
	toCarol, zero := sends(t, toCarol, "0")
	toCarol, late := sends(t, toCarol, flipText)
	toCarol, two := sends(t, toCarol, "2")
	toAlice := carol.reads(t, nil, zero, "0")
	toAlice = carol.reads(t, toAlice, two, "2")
	toCarol, next := sends(t, toCarol, flipText)
	add("a prekey message in sync", carol, toAlice, next, CodePreKeyNotFound, CodePreKeyNotFound)
	_, ahead := sends(t, skips(t, toCarol, 40), flipText)
	add("a prekey message ahead", carol, toAlice, ahead, CodePreKeyNotFound, CodePreKeyNotFound)
	add("a prekey message late", carol, toAlice, late, CodePreKeyNotFound, CodePreKeyNotFound)
	stored := *carol
	add("a prekey message late, from the store", &stored, stored.store(t, toAlice), late, CodePreKeyNotFound, CodePreKeyNotFound)
	_, again := sends(t, alice.opens(t, carol, 2), flipText)
	add("a prekey message of another state", carol, toAlice, again, CodeBadMACInSync, CodeBadMACInSync)

	// Cipher messages.
	alice, bob, toBob, toAlice = talking(t, 2)
	_, turned := sends(t, toBob, flipText)
	add("a cipher message of a new turn", bob, toAlice, turned, CodeBadMACInSync, CodeNoState)
	_, ahead = sends(t, skips(t, toBob, 50), flipText)
	add("a cipher message of a new turn, ahead", bob, toAlice, ahead, CodeBadMACAhead, CodeNoState)
	toAlice, zero = sends(t, toAlice, "0")
	toAlice, late = sends(t, toAlice, flipText)
	toAlice, two = sends(t, toAlice, "2")
	toBob = alice.reads(t, toBob, zero, "0")
	toBob = alice.reads(t, toBob, two, "2")
	toAlice, next = sends(t, toAlice, flipText)
	add("a cipher message in sync", alice, toBob, next, CodeBadMACInSync, CodeNoState)
	_, ahead = sends(t, skips(t, toAlice, 7), flipText)
	add("a cipher message ahead", alice, toBob, ahead, CodeBadMACAhead, CodeNoState)
	add("a cipher message late", alice, toBob, late, CodeBadMACBehind, CodeNoState)
	others := *alice
	add("a cipher message late, from the store", &others, others.store(t, toBob), late, CodeBadMACBehind, CodeNoState)
	_ = bob
	return cases
}

// A message with a flipped bit is refused with a code, and changes nothing: only the version
// is covered by nothing.
func TestFlippedMessages(t *testing.T) {
	t.Parallel()
	for _, c := range flipCases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before, preKeys := inMemory(c.session), len(c.device.preKeys)
			ciphertext := len(c.message) - len(flipText)
			e, err := parseEnvelope(c.message)
			if err != nil {
				t.Fatal(err)
			}
			tag := bytes.Index(c.message, append([]byte{0x50}, e.cipher.tag[:]...)) + 1
			accepted := 0
			flips(c.message, func(at int, flipped []byte) {
				d, err := c.device.decrypt(t.Context(), c.session, flipped)
				switch {
				case err == nil:
					accepted++
					if at != 2 || string(d.Plaintext) != flipText {
						t.Errorf("byte %d: read %q", at, d.Plaintext)
					}
				case d != nil || !isTyped(err):
					t.Errorf("byte %d: %v, %v", at, d, err)
				case at >= 8 && at < 40 || at >= ciphertext:
					refused(t, fmt.Sprintf("MAC or ciphertext, byte %d", at), err, c.badMAC)
				case at >= tag && at < tag+16:
					refused(t, fmt.Sprintf("tag, byte %d", at), err, c.noState)
				}
			})
			if accepted != 5 { // 0, 3, 5, 9, 17
				t.Errorf("%d messages with another version were accepted", accepted)
			}
			if !bytes.Equal(inMemory(c.session), before) || len(c.device.preKeys) != preKeys {
				t.Error("the session has changed")
			}
			// Cut short.
			for n := range c.message {
				if _, err := c.device.decrypt(t.Context(), c.session, c.message[:n]); CodeOf(err) != CodeMalformed {
					t.Errorf("the first %d bytes: %v", n, err)
				}
			}
			d, err := c.device.decrypt(t.Context(), c.session, c.message)
			if err != nil || string(d.Plaintext) != flipText {
				t.Errorf("afterwards the message is %q, %v", plaintextOf(d), err)
			}
		})
	}
}

// A bundle with a flipped bit opens no session in which a message can be read; with a
// signature it opens none at all. Nothing covers the version, and whether there is a
// signature. In an unsigned one the sign of x does not matter to an agreement: whose
// identity it is, the fingerprint says.
func TestFlippedBundles(t *testing.T) {
	t.Parallel()
	random := seeded(3)
	alice, bob := newDevice(t, random), newDevice(t, random, 1)
	signed := bob.preKeys[1].SignedBundle(bob.identity)
	bare := *signed
	bare.bare = true
	for name, bundle := range map[string]*PreKeyBundle{
		"unsigned": bob.preKeys[1].Bundle(bob.identity), "signed": signed, "signed, as TypeScript does": &bare,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := bundle.Marshal()
			same, opened := 0, 0
			flips(data, func(at int, flipped []byte) {
				b, err := UnmarshalPreKeyBundle(flipped)
				if err != nil {
					if !isTyped(err) || CodeOf(err) != CodeMalformed && CodeOf(err) != CodeLength {
						t.Errorf("byte %d: %v", at, err)
					}
					return
				}
				s, err := SessionFromPreKey(&Env{Identity: alice.identity, Random: seeded(4)}, b)
				if err != nil {
					code := CodeOf(err)
					if s != nil || !isTyped(err) || code != CodeBadPoint && code != CodeDegenerateKey && code != CodeBadSignature {
						t.Errorf("byte %d: %v", at, err)
					}
					return
				}
				_, message := sends(t, s, flipText)
				d, err := bob.decrypt(t.Context(), nil, message)
				switch {
				case err == nil:
					same++
					sign := len(bundle.Signature) == 0 && (at == 41 || at == 80)
					if string(d.Plaintext) != flipText || at != 2 && len(b.Signature) > 0 || (b.Key != bundle.Key || b.Identity != bundle.Identity) && !sign {
						t.Errorf("byte %d: read %q", at, d.Plaintext)
					}
				case b.ID != bundle.ID:
					refused(t, "another id", err, CodePreKeyNotFound)
				case len(bundle.Signature) > 0:
					t.Errorf("byte %d: opens a session", at)
				default:
					opened++
					refused(t, fmt.Sprintf("byte %d", at), err, CodeBadMACInSync)
				}
			})
			if len(bundle.Signature) > 0 && (same != 10 || opened != 0) || len(bundle.Signature) == 0 && (same != 13 || opened < 100) {
				t.Errorf("%d are as good, %d opened a session", same, opened)
			}
		})
	}
}

// flippedSession is a session of which every bit is flipped: two states, of which one has
// kept keys, in two turns. The last message begins a turn, which costs most: it is read after
// one flip of eight.
func flippedSession(t *testing.T) (d *device, s *Session, messages [][]byte) {
	t.Helper()
	alice, bob, toBob, toAlice := talking(t, 5)
	toAlice, zero := sends(t, toAlice, "0")
	toAlice, late := sends(t, toAlice, flipText)
	toAlice, two := sends(t, toAlice, "2")
	toBob = alice.reads(t, toBob, zero, "0")
	toBob = alice.reads(t, toBob, two, "2")
	_, next := sends(t, toAlice, flipText)
	// Alice turns, bob opens another state.
	_, message := sends(t, toBob, "turn")
	toAlice = bob.reads(t, toAlice, message, "turn")
	_, turned := sends(t, toAlice, flipText)
	_, opens := sends(t, bob.opens(t, alice, 1), "another")
	toBob = alice.reads(t, toBob, opens, "another")
	return alice, toBob, [][]byte{late, next, turned}
}

// works uses a session for what it can be used, and says how many of the messages it gave.
func works(t *testing.T, d *device, s *Session, messages [][]byte) (read int) {
	t.Helper()
	if next, _, err := s.Encrypt([]byte("of a damaged session")); err != nil && !isTyped(err) {
		t.Errorf("encrypt: %v", err)
	} else if err == nil && len(messages) > 2 {
		if _, err := next.Marshal(t.Context(), d.env()); err != nil && !isTyped(err) && !errors.Is(err, core.ErrDamaged) {
			t.Errorf("marshal: %v", err)
		}
	}
	for _, m := range messages {
		switch r, err := s.Decrypt(t.Context(), d.env(), m); {
		case err == nil && string(r.Plaintext) == flipText:
			read++
			r.Session.Changes(s)
		case err == nil: // of keys no MAC is there
		case !isTyped(err) && !errors.Is(err, core.ErrDamaged):
			t.Errorf("decrypt: %v", err)
		}
	}
	return read
}

// A stored session with a flipped bit is refused with a code, or works as far as it can.
func TestFlippedSession(t *testing.T) {
	t.Parallel()
	d, s, messages := flippedSession(t)
	data := marshalled(t, s, nil)
	local := d.identity.Public()
	s, err := UnmarshalSession(local, data)
	if err != nil || works(t, d, s, messages) != len(messages) {
		t.Fatal(err, "the session does not work")
	}
	refusals := map[Code]int{}
	var readable [4]int
	count := 0
	flips(data, func(at int, flipped []byte) {
		copied := bytes.Clone(flipped)
		s, err := UnmarshalSession(local, flipped)
		if !bytes.Equal(copied, flipped) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if refusals[CodeOf(err)]++; s != nil || !isTyped(err) {
				t.Errorf("byte %d: %v", at, err)
			}
			return
		}
		count++
		readable[works(t, d, s, messages[:2+(7+count)%8/7])]++
		if count%4 != 0 {
			return
		}
		again, err := s.Marshal(t.Context(), nil)
		if err != nil {
			t.Errorf("byte %d: %v", at, err)
			return
		}
		if s, err = UnmarshalSession(local, again); err != nil || !bytes.Equal(marshalled(t, s, nil), again) {
			t.Errorf("byte %d: written again it is another: %v", at, err)
		}
	})
	for _, code := range []Code{CodeMalformed, CodeLength, CodeBadPoint, CodeLocalIdentityChanged} {
		if refusals[code] < 8 {
			t.Errorf("only %d were refused with %d", refusals[code], code)
		}
	}
	if refusals[CodeLocalIdentityChanged] != 8*32 || readable[3] < 50 || readable[2] < 500 || readable[0] < 8 {
		t.Errorf("refused: %v, readable: %v", refusals, readable)
	}
	for n := range data {
		if _, err := UnmarshalSession(local, data[:n]); CodeOf(err) != CodeMalformed {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
}

// The same of our own records: they are damaged, or the session works as far as it can.
func TestFlippedRecords(t *testing.T) {
	t.Parallel()
	d, s, messages := flippedSession(t)
	s = d.store(t, s)
	if works(t, d, s, messages) != len(messages) {
		t.Fatal("the session does not work")
	}
	whole := slices.Clone(d.stored.list)
	kinds := map[record.Kind]int{}
	damaged, count, readable := 0, 0, [4]int{}
	for i, r := range whole {
		kinds[r.Kind]++
		try := func(what string, value []byte) {
			list := slices.Clone(whole)
			list[i].Value = value
			flipped := *d
			flipped.stored = &records{list}
			s, err := LoadSession(t.Context(), flipped.stored.fetch)
			if err != nil {
				if damaged++; s != nil || !errors.Is(err, core.ErrDamaged) {
					t.Errorf("%v, %s: %v", r, what, err)
				}
				return
			}
			if what == "format" && r.Kind != RecordKept {
				t.Errorf("%v of another format", r)
			}
			count++
			readable[works(t, &flipped, s, messages[:2+(7+count)%8/7])]++
			if r.Kind == RecordKept && what == "format" {
				if _, err := s.Decrypt(t.Context(), flipped.env(), messages[0]); !errors.Is(err, core.ErrDamaged) {
					t.Errorf("kept keys of another format: %v", err)
				}
			}
		}
		flips(r.Value, func(at int, flipped []byte) {
			what := fmt.Sprintf("byte %d", at)
			if at == 0 {
				what = "format"
			}
			try(what, flipped)
		})
		for n := range r.Value {
			try(fmt.Sprintf("the first %d bytes", n), r.Value[:n])
		}
	}
	if kinds[RecordHead] != 1 || kinds[RecordState] != 2 || kinds[RecordKept] != 1 || damaged < 1000 || readable[3] < 50 || readable[2] < 500 {
		t.Errorf("records %v, %d damaged, readable %v", kinds, damaged, readable)
	}
	// Without one of them.
	for i, r := range whole {
		list := slices.Delete(slices.Clone(whole), i, i+1)
		lost := *d
		lost.stored = &records{list}
		s, err := LoadSession(t.Context(), lost.stored.fetch)
		switch r.Kind {
		case RecordHead:
			refused(t, "no head", err, CodeSessionNotFound)
		case RecordState:
			if !errors.Is(err, core.ErrDamaged) {
				t.Errorf("no state: %v", err)
			}
		default:
			if err != nil {
				t.Fatal(err)
			}
			_, err := s.Decrypt(t.Context(), lost.env(), messages[0])
			_, other := s.Marshal(t.Context(), lost.env())
			if !errors.Is(err, core.ErrDamaged) || !errors.Is(other, core.ErrDamaged) {
				t.Errorf("no kept keys: %v, %v", err, other)
			}
			if _, err := s.Marshal(t.Context(), nil); !errors.Is(err, core.ErrDamaged) {
				t.Errorf("no environment: %v", err)
			}
			lost.stored = nil
			if _, err := s.Decrypt(t.Context(), lost.env(), messages[0]); !errors.Is(err, core.ErrDamaged) {
				t.Errorf("no store: %v", err)
			}
		}
	}
}

// Prekeys and identities: what a flipped bit makes of them is refused, or another.
func TestFlippedKeys(t *testing.T) {
	t.Parallel()
	d := newDevice(t, seeded(6), 7)
	file := append([]byte{1, 0xa1, 0}, d.identity.Marshal()...)
	type marshaler interface{ Marshal() []byte }
	for name, c := range map[string]struct {
		data []byte
		same int // the version, and the second half of the pair's public key
		read func([]byte) (marshaler, error)
	}{
		"prekey":        {d.preKeys[7].Marshal(), 0, func(b []byte) (marshaler, error) { return UnmarshalPreKey(b) }},
		"identity":      {d.identity.Marshal(), 0, func(b []byte) (marshaler, error) { return UnmarshalIdentity(b) }},
		"identity file": {file, 0, func(b []byte) (marshaler, error) { return UnmarshalIdentityFile(b) }},
	} {
		good, err := c.read(c.data)
		if err != nil {
			t.Fatal(err)
		}
		flips(c.data, func(at int, flipped []byte) {
			k, err := c.read(flipped)
			if err != nil {
				if !isTyped(err) && !(name == "identity file" && errors.Is(err, core.ErrNotFound)) {
					t.Errorf("%s, byte %d: %v", name, at, err)
				}
				return
			}
			// The secret key is covered by its second half.
			if seed := bytes.Index(c.data, good.Marshal()[8:40]); at >= seed && at < seed+64 && name != "prekey" {
				t.Errorf("%s, byte %d: a secret key was accepted", name, at)
			}
			if again, err := c.read(append(c.data[:len(c.data)-len(good.Marshal()):len(c.data)-len(good.Marshal())], k.Marshal()...)); err != nil || !bytes.Equal(again.Marshal(), k.Marshal()) {
				t.Errorf("%s, byte %d: written again it is another: %v", name, at, err)
			}
		})
		for n := range c.data {
			if _, err := c.read(c.data[:n]); CodeOf(err) != CodeMalformed {
				t.Errorf("%s: the first %d bytes: %v", name, n, err)
			}
		}
	}
	if _, err := UnmarshalIdentityFile([]byte{2, 0xa1, 0, 0xa0}); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("public identity file: %v", err)
	}
	refused(t, "identity file of kind 3", func() error { _, err := UnmarshalIdentityFile([]byte{3}); return err }(), CodeMalformed)
}
