// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// Whatever the bytes are: no panic, errors with a code, the input as it was, and what is
// read and written again is the same.

// reread checks that what was read from data is written in a form which is read as the same
// and written as the same bytes.
func reread[T any](t *testing.T, data []byte, read func([]byte) (T, error), write func(T) []byte) {
	copied := bytes.Clone(data)
	v, err := read(data)
	if !bytes.Equal(data, copied) {
		t.Fatal("the input was changed")
	}
	if err != nil {
		if !isTyped(err) && !errors.Is(err, core.ErrNotFound) {
			t.Fatalf("error without a code: %v", err)
		}
		return
	}
	written := write(v)
	again, err := read(append(bytes.Clone(written), "what follows"...))
	if err != nil {
		t.Fatalf("written as %x: %v", written, err)
	}
	if !bytes.Equal(write(again), written) {
		t.Fatalf("written as %x and then %x", written, write(again))
	}
}

func FuzzPreKey(f *testing.F) {
	f.Add(newDevice(f, seeded(40), 5).preKeys[5].Marshal())
	f.Fuzz(func(t *testing.T, data []byte) { reread(t, data, UnmarshalPreKey, (*PreKey).Marshal) })
}

func FuzzIdentity(f *testing.F) {
	f.Add(newDevice(f, seeded(41)).identity.Marshal())
	f.Fuzz(func(t *testing.T, data []byte) { reread(t, data, UnmarshalIdentity, (*IdentityKeyPair).Marshal) })
}

func FuzzIdentityFile(f *testing.F) {
	f.Add(append([]byte{1, 0xa1, 0}, newDevice(f, seeded(42)).identity.Marshal()...))
	f.Add([]byte{2, 0xa1, 0, 0xa1, 0, 0xa1, 0, 0x58, 32})
	f.Fuzz(func(t *testing.T, data []byte) {
		reread(t, data, UnmarshalIdentityFile, func(i *IdentityKeyPair) []byte { return append([]byte{1, 0xa1, 0}, i.Marshal()...) })
	})
}

func FuzzBundle(f *testing.F) {
	d := newDevice(f, seeded(43), 5)
	signed := d.preKeys[5].SignedBundle(d.identity)
	bare := *signed
	bare.bare = true
	for _, b := range []*PreKeyBundle{d.preKeys[5].Bundle(d.identity), signed, &bare} {
		f.Add(b.Marshal())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		reread(t, data, UnmarshalPreKeyBundle, (*PreKeyBundle).Marshal)
		b, err := UnmarshalPreKeyBundle(data)
		if err != nil {
			return
		}
		if again, err := UnmarshalPreKeyBundle(b.Marshal()); err != nil || !reflect.DeepEqual(again, b) {
			t.Fatalf("%+v is another than %+v", again, b)
		}
		if s, err := SessionFromPreKey(d.env(), b); err != nil && !isTyped(err) || err == nil && s.Remote() != b.Identity {
			t.Fatal(err)
		}
	})
}

// A message is fuzzed twice: as it is, and as the inside of an envelope whose MAC holds,
// which is what a peer can make.
func FuzzMessage(f *testing.F) {
	alice, bob, toBob, toAlice := talking(f, 44)
	toBob, m := sends(f, toBob, "in sync")
	f.Add(m)
	toAlice = bob.reads(f, toAlice, m, "in sync")
	toBob, late := sends(f, toBob, "late")
	toBob, m = sends(f, toBob, "read")
	toAlice = bob.reads(f, toAlice, m, "read")
	_, ahead := sends(f, skips(f, toBob, 3), "ahead")
	_, opens := sends(f, alice.opens(f, bob, 2), "opens")
	for _, m := range [][]byte{m, late, ahead, opens} {
		e, err := parseEnvelope(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m)
		f.Add(e.message)
	}
	before := inMemory(toAlice)
	receive := toAlice.states[0].state.receive[0]
	f.Fuzz(func(t *testing.T, data []byte) {
		inner := newEnvelope(make([]byte, 32), data)
		if e, err := parseEnvelope(inner); err == nil && e.cipher.ratchet == receive.ratchet && uint64(e.cipher.counter) >= receive.chain.index &&
			uint64(e.cipher.counter)-receive.chain.index <= maxGap+1 {
			chain := chainKey{receive.chain.key.Clone(), receive.chain.index}
			for chain.index < uint64(e.cipher.counter) {
				chain.step()
			}
			inner = newEnvelope(chain.messageKeys().authenticate(data), data)
		}
		for _, message := range [][]byte{data, inner} {
			copied := bytes.Clone(message)
			for _, s := range []*Session{nil, toAlice} {
				switch d, err := bob.decrypt(context.Background(), s, message); {
				case err != nil && (d != nil || !isTyped(err)):
					t.Fatalf("error without a code: %v", err)
				case err == nil:
					d.Session.Changes(s)
					if _, err := d.Session.Marshal(context.Background(), bob.env()); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !bytes.Equal(message, copied) || !bytes.Equal(before, inMemory(toAlice)) {
				t.Fatal("the input was changed, or the session")
			}
			e, err := parseEnvelope(message)
			if err != nil {
				continue
			}
			// It is written and read as the same, though the MAC holds for the bytes that were read.
			var pending *pendingPreKey
			var identity PublicKey
			if e.preKey != nil {
				pending, identity = &e.preKey.pendingPreKey, e.preKey.identity
			}
			again, err := parseEnvelope(newEnvelope(e.mac[:], newMessage(pending, identity, &e.cipher)))
			if err != nil && len(e.message) < maxBytes-200 {
				t.Fatal(err)
			}
			if err == nil && (again.mac != e.mac || !reflect.DeepEqual(again.preKey, e.preKey) || again.cipher.tag != e.cipher.tag || again.cipher.counter != e.cipher.counter ||
				again.cipher.previous != e.cipher.previous || again.cipher.ratchet != e.cipher.ratchet || !bytes.Equal(again.cipher.ciphertext, e.cipher.ciphertext)) {
				t.Fatalf("%+v is another than %+v", again, e)
			}
		}
	})
}

// uses does with a session of unknown origin what can be done with one.
func uses(t *testing.T, d *device, s *Session, messages [][]byte) {
	next, m, err := s.Encrypt([]byte("text"))
	if err != nil && !isTyped(err) {
		t.Fatal(err)
	}
	if err == nil {
		messages = append(messages, m)
		next.Changes(s)
	}
	for _, m := range messages {
		switch r, err := s.Decrypt(context.Background(), d.env(), m); {
		case err == nil:
			stored := new(records)
			stored.apply(r.Session.Changes(nil))
			w := new(Session).Changes(s)
			if len(s.states) > 0 && len(w.Dels) != 2*len(s.states) {
				t.Fatalf("%d deletions for %d states", len(w.Dels), len(s.states))
			}
		case !isTyped(err) && !errors.Is(err, core.ErrDamaged):
			t.Fatal(err)
		}
	}
}

func FuzzSession(f *testing.F) {
	alice, _, toBob, toAlice := talking(f, 45)
	local := alice.identity.Public()
	_, m := sends(f, skips(f, toAlice, 2), "ahead")
	f.Add(marshalled(f, toBob, nil))
	f.Add(marshalled(f, alice.reads(f, toBob, m, "ahead"), nil))
	f.Add(marshalled(f, alice.opens(f, newDevice(f, seeded(46), 1), 1), nil))
	_, m2 := sends(f, toAlice, "late")
	f.Fuzz(func(t *testing.T, data []byte) {
		read := func(b []byte) (*Session, error) { return UnmarshalSession(local, b) }
		reread(t, data, read, func(s *Session) []byte { return marshalled(t, s, nil) })
		if s, err := read(data); err == nil {
			uses(t, alice, s, [][]byte{m, m2})
		}
	})
}

// The records of a session: its head, one state, and a page of kept keys.
func FuzzRecords(f *testing.F) {
	alice, _, toBob, toAlice := talking(f, 47)
	_, m := sends(f, skips(f, toAlice, 2), "ahead")
	_, m2 := sends(f, toAlice, "late")
	alice.store(f, alice.reads(f, toBob, m, "ahead"))
	var key []byte
	values := map[record.Kind][]byte{}
	for _, r := range alice.stored.list {
		if values[r.Kind] = r.Value; r.Kind == RecordState {
			key = r.Key
		}
	}
	f.Add(values[RecordHead], values[RecordState], values[RecordKept])
	f.Fuzz(func(t *testing.T, head, state, page []byte) {
		fetch := func(_ context.Context, queries []record.Query) ([][]record.Record, error) {
			answers := make([][]record.Record, len(queries))
			for i, q := range queries {
				value := map[record.Kind][]byte{RecordHead: head, RecordState: state, RecordKept: page}[q.Kind]
				answers[i] = []record.Record{{Kind: q.Kind, Key: key, Value: bytes.Clone(value)}}
			}
			return answers, nil
		}
		s, err := LoadSession(context.Background(), fetch)
		if err != nil {
			if !errors.Is(err, core.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		d := &device{identity: alice.identity, random: alice.random}
		env := d.env()
		env.Fetch = fetch
		for _, m := range [][]byte{m, m2} {
			if _, err := s.Decrypt(context.Background(), env, m); err != nil && !isTyped(err) && !errors.Is(err, core.ErrDamaged) {
				t.Fatal(err)
			}
		}
		b, err := s.Marshal(context.Background(), env)
		if err != nil {
			if !isTyped(err) && !errors.Is(err, core.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		uses(t, d, s, nil)
		// What has two states or chains of one name, or keys beyond the last counter, is not read again.
		if s, err := UnmarshalSession(s.local, b); err == nil {
			marshalled(t, s, nil)
		} else if !isTyped(err) {
			t.Fatal(err)
		}
	})
}

// The list of the pages of a chain.
func FuzzKeptPages(f *testing.F) {
	f.Add(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 3<<32|1), 5<<32|0xffffffff))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &reader{rest: appendBytes(nil, data)}
		k := r.keptPages()
		if r.err != nil {
			if !isTyped(r.err) {
				t.Fatal(r.err)
			}
			return
		}
		var again []byte
		for i, p := range k {
			again = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(again, p.number), p.has)
			if p.has == 0 || i > 0 && k[i-1].number >= p.number {
				t.Fatal("pages out of order")
			}
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%x is read as %x", data, again)
		}
		for _, counter := range []uint32{0, 31, 96, 1<<32 - 1} {
			k.find(counter)
		}
	})
}
