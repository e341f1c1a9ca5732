// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// refuses gives damaged forms of a message to feed, which must refuse each with a
// typed error and leave the store as it was.
func refuses(t *testing.T, message []byte, m *member, feed func([]byte) error) {
	t.Helper()
	before := m.stored.dump()
	try := func(what string, i int, damaged []byte) {
		t.Helper()
		err := feed(damaged)
		switch {
		case err == nil:
			t.Fatalf("%s %d of %d: accepted", what, i, len(message))
		case !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrNotFound) && !errors.Is(err, core.ErrUnsupported):
			t.Fatalf("%s %d of %d: untyped error: %v", what, i, len(message), err)
		case m.stored.dump() != before:
			t.Fatalf("%s %d of %d: the store has changed", what, i, len(message))
		}
	}
	for i := range message {
		for _, bit := range []byte{0x01, 0x80} {
			damaged := bytes.Clone(message)
			damaged[i] ^= bit
			try("flip at", i, damaged)
		}
		try("cut at", i, message[:i])
	}
	try("one byte more than", len(message), append(bytes.Clone(message), 0))
}

func TestDamagedMessages(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		config := mls.DefaultConfig
		config.Handshake, config.PadTo, config.SendWithProposals = handshake, 0, true
		alice, bob := newMember(t, 1, "alice", config), newMember(t, 1, "bob", config)
		alice.create("g", nil)
		b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}})
		if err != nil {
			t.Fatal(err)
		}
		alice.merge()
		refuses(t, b.Welcome, bob, bob.join)
		if err := bob.join(b.Welcome); err != nil {
			t.Fatal(err)
		}
		process := func(message []byte) error { _, err := bob.process(message); return err }
		message, err := alice.send("hello")
		if err != nil {
			t.Fatal(err)
		}
		proposal, err := alice.proposeUpdate(mls.LeafParams{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range [][]byte{message, proposal} {
			refuses(t, m, bob, process)
			if err := process(m); err != nil {
				t.Fatalf("the message itself: %v", err)
			}
		}
		b, err = alice.commit(mls.CommitParams{ForcePath: true})
		if err != nil {
			t.Fatal(err)
		}
		refuses(t, b.Commit, bob, process)
		if err := process(b.Commit); err != nil {
			t.Fatal(err)
		}
		alice.merge()
		party{alice, bob}.agree(t)
		carol := newMember(t, 1, "carol", config)
		refuses(t, b.GroupInfo, carol, func(info []byte) error { _, err := carol.joinExternal(info); return err })
		commit, err := carol.joinExternal(b.GroupInfo)
		if err != nil {
			t.Fatal(err)
		}
		refuses(t, commit, bob, process)
		party{alice, bob}.deliver(t, nil, commit)
		party{alice, bob, carol}.agree(t)
	}
}

func TestOutOfPlaceMessages(t *testing.T) {
	t.Parallel()
	config := mls.DefaultConfig
	alice, bob := newMember(t, 1, "alice", config), newMember(t, 1, "bob", config)
	alice.create("g", nil)
	p := party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}}, bob)
	expect := func(message []byte, want error) {
		t.Helper()
		before := bob.stored.dump()
		if _, err := bob.process(message); !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
		if bob.stored.dump() != before {
			t.Fatal("the store has changed")
		}
	}
	send := func(m *member) []byte {
		t.Helper()
		message, err := m.send("text")
		if err != nil {
			t.Fatal(err)
		}
		return message
	}
	first := send(alice)
	if _, err := bob.process(first); err != nil {
		t.Fatal(err)
	}
	expect(first, mls.ErrDuplicateMessage) // FS-2, across a reload
	expect(send(bob), mls.ErrOwnMessage)   // FR-9
	stranger := newMember(t, 1, "stranger", config)
	stranger.create("another", nil)
	expect(send(stranger), mls.ErrWrongGroup) // FR-6

	late := send(alice)
	var old []byte
	for range config.MaxPastEpochs + 1 {
		b, err := alice.commit(mls.CommitParams{ForcePath: true})
		if err != nil {
			t.Fatal(err)
		}
		p.deliver(t, alice, b.Commit)
		alice.merge()
		if old == nil {
			old = b.Commit
			if _, err := bob.process(late); err != nil { // FS-7
				t.Fatalf("late message: %v", err)
			}
			expect(late, mls.ErrDuplicateMessage)
			late = send(alice) // of the first new epoch
		}
	}
	expect(old, mls.ErrWrongEpoch) // FS-9
	if _, err := bob.process(late); err != nil {
		t.Fatalf("message of the oldest kept epoch: %v", err)
	}
	b, err := alice.commit(mls.CommitParams{ForcePath: true})
	if err != nil {
		t.Fatal(err)
	}
	alice.merge()
	expect(send(alice), mls.ErrWrongEpoch) // FS-10: one epoch ahead
	if _, err := bob.process(b.Commit); err != nil {
		t.Fatal(err)
	}
	expect(first, mls.ErrTooOld)

	// FS-4: far ahead, refused without work
	for range config.MaxForward + 1 {
		send(alice)
	}
	send(alice)
	expect(send(alice), mls.ErrTooFarAhead)
}

// FS-7: the store is searched for secrets of an epoch that has left the window.
func TestForwardSecrecyInTheStore(t *testing.T) {
	t.Parallel()
	config := mls.DefaultConfig
	config.MaxPastEpochs = 1
	alice, bob := newMember(t, 1, "alice", config), newMember(t, 1, "bob", config)
	alice.create("g", nil)
	p := party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}}, bob)
	p.talk(t)
	kept := func() (values []record.Record) {
		for _, kind := range []record.Kind{mls.RecordRatchet, mls.RecordTreeNode, mls.RecordPathKeys} {
			values = append(values, bob.stored[kind]...)
		}
		return values
	}()
	for range 3 {
		p = p.commitAll(t, alice, mls.CommitParams{ForcePath: true})
		p = p.commitAll(t, bob, mls.CommitParams{ForcePath: true})
	}
	after := bob.stored.dump()
	for _, rec := range kept {
		if bytes.Contains([]byte(after), []byte(fmt.Sprintf("%x", rec.Value))) {
			t.Errorf("FS-7: a record of kind %d of an old epoch is still stored", rec.Kind)
		}
	}
	for kind, most := range map[record.Kind]int{mls.RecordPastEpoch: 1, mls.RecordPage: 2, mls.RecordPending: 0, mls.RecordProposal: 0} {
		if n := len(bob.stored[kind]); n > most {
			t.Errorf("%d records of kind %d", n, kind)
		}
	}
}
