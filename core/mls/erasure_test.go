// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// neverStored are secrets that no record ever holds, but for the joiner secret and
// the PSK in the record of a commit that waits for its acceptance: what opens its
// Welcome is made again from them.
var neverStored = []string{"extracted", "epoch", "welcome", "derived psk", "node", "path", "sealed", "opened", "external init", "exported"}

// wiped are secrets that are zero in memory once an operation is over and what it
// retired is wiped.
var wiped = []string{"extracted", "epoch", "welcome", "derived psk", "node", "path", "joiner", "external init"}

// A watch looks at what a member stores and holds, step by step.
type watch struct {
	t      *testing.T
	m      *member
	r      *recorder
	epoch  uint64
	before map[string][]byte            // header secrets of the epoch
	old    map[uint64]map[string][]byte // of past epochs
	marks  map[uint64]int               // how many secrets were known in an epoch, before a commit was made
}

func newWatch(t *testing.T, m *member, r *recorder) *watch {
	return &watch{t: t, m: m, r: r, old: map[uint64]map[string][]byte{}, marks: map[uint64]int{}}
}

// look comes after every step.
func (w *watch) look(step string) {
	t, m := w.t, w.m
	t.Helper()
	pending := len(m.stored[mls.RecordPending]) > 0
	for _, k := range w.r.all(append(neverStored, "joiner")...) {
		kinds := m.stored.holds(k.value)
		if k.label == "joiner" && pending || k.label == "extracted" && pending { // the PSK secret is extracted
			kinds = slices.DeleteFunc(kinds, func(k record.Kind) bool { return k == mls.RecordPending })
		}
		if len(kinds) > 0 {
			t.Errorf("%s, %s: the %s secret is in records of kind %v", m.name, step, k.label, kinds)
		}
	}
	for _, k := range w.r.all(wiped...) {
		// With reloads there are values that were replaced by the stored ones.
		if b := k.live.Bytes(); !bytes.Equal(b, make([]byte, len(b))) && !pending && !m.reload {
			t.Errorf("%s, %s: the %s secret is still in memory", m.name, step, k.label)
		}
	}
	g := m.g()
	if w.before != nil && g.Epoch() != w.epoch {
		w.old[w.epoch] = w.before
		if pending {
			t.Errorf("%s, %s: a commit of the epoch before is still stored", m.name, step)
		}
	}
	if !pending {
		w.marks[g.Epoch()] = len(w.r.known)
	}
	w.epoch, w.before = g.Epoch(), mls.EpochSecrets(g)
	for epoch, secrets := range w.old {
		for label, secret := range secrets {
			kept := label == "sender data" && g.Epoch()-epoch <= uint64(m.config.MaxPastEpochs) ||
				label == "resumption" && g.Epoch()-epoch <= uint64(m.config.ResumptionEpochs)
			if kinds := m.stored.holds(secret); (len(kinds) > 0) != kept {
				t.Errorf("%s, %s: the %s secret of epoch %d is in records of kind %v", m.name, step, label, epoch, kinds)
			}
			for _, k := range w.r.all(label) {
				if b := k.live.Bytes(); !kept && !m.reload && bytes.Equal(b, secret) {
					t.Errorf("%s, %s: the %s secret of epoch %d is still in memory", m.name, step, label, epoch)
				}
			}
		}
	}
	// Message secrets of an epoch that left the window.
	for epoch, mark := range w.marks {
		if g.Epoch()-epoch <= uint64(m.config.MaxPastEpochs) {
			continue
		}
		for _, k := range w.r.known[:mark] {
			if slices.Contains([]string{"encryption", "tree", "handshake", "application", "secret", "key", "nonce"}, k.label) {
				if kinds := m.stored.holds(k.value); len(kinds) > 0 {
					t.Errorf("%s, %s: a %s secret of epoch %d or before is in records of kind %v", m.name, step, k.label, epoch, kinds)
				}
			}
		}
	}
}

// FS-2, FS-7, FS-11, openmls#1846: whatever a member has known of an epoch is looked
// for in its records after each step, with a reload before it, and in memory.
func TestErasure(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		for _, past := range []uint32{0, 2} {
			for _, reload := range []bool{true, false} {
				t.Run(fmt.Sprintf("handshake %d past %d reload %v", handshake, past, reload), func(t *testing.T) {
					t.Parallel()
					config := mls.DefaultConfig
					config.Handshake, config.MaxPastEpochs = handshake, past
					lifeUnderWatch(t, config, reload)
				})
			}
		}
	}
}

func lifeUnderWatch(t *testing.T, config mls.Config, reload bool) {
	var all []*member
	var watches []*watch
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		m, r := recorded(t, 1, name, config)
		m.reload = reload
		m.psks["psk"] = []byte("a shared secret of some length")
		all, watches = append(all, m), append(watches, newWatch(t, m, r))
	}
	alice, bob, carol, dave := all[0], all[1], all[2], all[3]
	look := func(step string, p party) {
		t.Helper()
		for _, w := range watches {
			if slices.Contains(p, w.m) {
				w.look(step)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	alice.create("group", nil)
	p := party{alice}
	look("create", p)
	add := func(m *member) mls.Proposal { return &mls.Add{KeyPackage: m.keyPackage()} }
	commit := func(step string, by *member, params mls.CommitParams, joining ...*member) {
		t.Helper()
		b, err := by.commit(params)
		if err != nil {
			t.Fatal(err)
		}
		look(step+": made", p)
		p.deliver(t, by, b.Commit)
		by.merge()
		for _, m := range joining {
			if err := m.join(b.Welcome); err != nil {
				t.Fatal(err)
			}
			m.bundle = nil // its record goes with the join
		}
		p = append(p, joining...)
		look(step, p) // who was removed, too
		p = slices.DeleteFunc(slices.Clone(p), func(m *member) bool { return !m.g().Active() })
		p.agree(t)
	}
	say := func(step string) {
		t.Helper()
		p.talk(t)
		look(step, p)
	}
	commit("add without a path", alice, mls.CommitParams{Proposals: []mls.Proposal{add(bob)}}, bob)
	say("talk")
	commit("add with a path", bob, mls.CommitParams{Proposals: []mls.Proposal{add(carol)}, ForcePath: true}, carol)
	say("talk again")
	commit("PSKs", carol, mls.CommitParams{Proposals: []mls.Proposal{
		carol.g().NewExternalPSK([]byte("psk")), carol.g().NewResumptionPSK(carol.g().Epoch())}})
	message, err := bob.proposeUpdate(mls.LeafParams{})
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, bob, message)
	look("an Update", p)
	commit("the Update", alice, mls.CommitParams{})
	if reload { // a commit that loses; in memory its value is the caller's to forget
		if _, err := alice.commit(mls.CommitParams{ForcePath: true}); err != nil {
			t.Fatal(err)
		}
	}
	commit("another one wins", bob, mls.CommitParams{ForcePath: true})
	info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{})
	if err != nil {
		t.Fatal(err)
	}
	external, err := dave.joinExternal(info)
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, nil, external)
	p = append(p, dave)
	look("external commit", p)
	say("talk in four")
	for range config.MaxPastEpochs + 2 {
		commit("the end of old epochs", dave, mls.CommitParams{ForcePath: true})
	}
	commit("a Remove", dave, mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: alice.g().OwnLeaf()}}})
}

// FS-2, openmls#1846, mls-rs#228: a key is gone from the store with the message that
// it opened, and only it: those that were skipped open later, each once, and the next
// message follows.
func TestUsedKeysAreErased(t *testing.T) {
	t.Parallel()
	config := mls.DefaultConfig
	config.OutOfOrder = 4
	alice, bob := newMember(t, 1, "alice", config), newMember(t, 1, "bob", config)
	alice.create("group", nil)
	party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}}, bob)
	r := &recorder{SuiteSource: provider}
	bob.suites = r
	var messages [][]byte
	for i := range 6 {
		message, err := alice.send(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, message)
	}
	open := func(i, skipped int) {
		t.Helper()
		if got, err := bob.process(messages[i]); err != nil || string(got.(*mls.ApplicationMessage).Data) != fmt.Sprint(i) {
			t.Fatalf("message %d: %v, %v", i, got, err)
		}
		stored := map[string]bool{}
		for _, k := range r.all("key", "nonce", "secret", "encryption", "application") {
			if len(bob.stored.holds(k.value)) > 0 {
				stored[k.label+string(k.value)] = true
			}
		}
		// a key and a nonce for each that was skipped, and the ratchet's next secret
		if len(stored) != 2*skipped+1 {
			t.Errorf("after message %d: %d secrets are stored", i, len(stored))
		}
		before := bob.stored.dump()
		if _, err := bob.process(messages[i]); err == nil || bob.stored.dump() != before {
			t.Errorf("message %d again: %v", i, err)
		}
	}
	open(0, 0)
	open(3, 2)
	open(1, 1)
	open(4, 1)
	open(2, 0)
	open(5, 0)
}
