// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// private is a group of three with handshakes in PrivateMessages.
func private(t *testing.T, change func(*mls.Config)) (alice, bob, mallory *member, all party) {
	config := mls.DefaultConfig
	config.Handshake, config.SendWithProposals = mls.HandshakePrivate, true
	change(&config)
	return threesome(t, config, nil)
}

func generation(t *testing.T, g *mls.Group, message []byte) uint32 {
	t.Helper()
	_, n, err := mls.Generation(g, message)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// FS-1: the write set that comes with a ciphertext spends its generation: a process
// that dies between the write and the sending goes on with the next, in either ratchet.
func TestGenerationIsSpentWithTheWrite(t *testing.T) {
	t.Parallel()
	alice, bob, _, _ := private(t, func(*mls.Config) {})
	epoch := alice.g() // to read sender data of the epoch
	var last []byte
	for want := range uint32(3) {
		message, err := alice.send("lost") // written, never sent
		if err != nil {
			t.Fatal(err)
		}
		if got := generation(t, epoch, message); got != want {
			t.Errorf("application message %d has generation %d", want, got)
		}
		last = message
		if want == 0 {
			continue
		}
		for kind, send := range map[string]func() ([]byte, error){
			"proposal": func() ([]byte, error) { return alice.proposeUpdate(mls.LeafParams{}) },
			"commit": func() ([]byte, error) {
				b, err := alice.commit(mls.CommitParams{ForcePath: true})
				alice.stored.apply(alice.g().DropPending()) // it was not accepted
				return b.Commit, err
			},
		} {
			message, err := send()
			if err != nil {
				t.Fatal(err)
			}
			if got := generation(t, epoch, message); got != 2*(want-1) && got != 2*(want-1)+1 {
				t.Errorf("%s of round %d has generation %d", kind, want, got)
			}
		}
	}
	if _, err := bob.process(last); err != nil { // skips the lost ones
		t.Error(err)
	}
}

// FS-3: garbage under a true generation uses nothing up, whoever it says it is from:
// the messages of that generation, of those before and of those after it still open.
func TestGarbageUsesNothingUp(t *testing.T) {
	t.Parallel()
	for _, reload := range []bool{true, false} {
		alice, bob, mallory, _ := private(t, func(c *mls.Config) { c.OutOfOrder = 10 })
		alice.reload = reload
		var messages [][]byte
		for i := range 8 {
			message, err := bob.send(fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, message)
		}
		for _, i := range []int{0, 5, 3, 7, 6, 1, 4, 2} { // some ahead, some that were skipped
			forged, err := mls.ForgePrivate(mallory.g(), bob.g().OwnLeaf(), uint32(i))
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, fmt.Sprintf("garbage in the place of %d", i), alice, forged, "", mls.ErrAuthentication)
			if got, err := alice.process(messages[i]); err != nil || string(got.(*mls.ApplicationMessage).Data) != fmt.Sprint(i) {
				t.Errorf("reload %v, message %d: %v, %v", reload, i, got, err)
			}
		}
	}
}

// FS-4, mlspp/ratchet: both limits are the member's choice; what is beyond the forward
// one is refused before a key is derived for it, in the handshake ratchet as well.
func TestForwardLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ forward, window uint32 }{{0, 0}, {3, 1}, {20, 5}} {
		alice, bob, mallory, _ := private(t, func(config *mls.Config) { config.MaxForward, config.OutOfOrder = c.forward, c.window })
		r := &recorder{SuiteSource: provider}
		alice.suites = r
		leaf := bob.g().OwnLeaf()
		var messages [][]byte
		for range c.forward + 2 {
			message, err := bob.send("text")
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, message)
		}
		for _, far := range []uint32{c.forward + 1, 1 << 20, math.MaxInt32, math.MaxUint32} {
			forged, err := mls.ForgePrivate(mallory.g(), leaf, far)
			if err != nil {
				t.Fatal(err)
			}
			derived := len(r.all("secret"))
			wantRefusal(t, fmt.Sprintf("generation %d of %d", far, c.forward), alice, forged, "", mls.ErrTooFarAhead)
			if n := len(r.all("secret")); n != derived {
				t.Errorf("%d steps were made", n-derived)
			}
		}
		wantRefusal(t, "one beyond", alice, messages[c.forward+1], "", mls.ErrTooFarAhead)
		if _, err := alice.process(messages[c.forward]); err != nil {
			t.Errorf("at the limit: %v", err)
		}
		for i := range c.forward {
			_, err := alice.process(messages[i])
			if kept := c.forward-i < c.window; kept && err != nil || !kept && !errors.Is(err, mls.ErrTooOld) {
				t.Errorf("window of %d: generation %d behind %d: %v", c.window, i, c.forward, err)
			}
		}
		if _, err := alice.process(messages[c.forward+1]); err != nil {
			t.Errorf("now within the limit: %v", err)
		}
		proposal, err := bob.proposeUpdate(mls.LeafParams{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := alice.process(proposal); err != nil { // another ratchet
			t.Error(err)
		}
	}
}

// FS-9, FS-10: handshakes of another epoch are refused as such, past or future, in
// both forms; of application messages those of a future epoch are.
func TestOtherEpochs(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		alice, bob, carol, all := private(t, func(c *mls.Config) { c.Handshake = handshake })
		messages := func() map[string][]byte {
			t.Helper()
			text, err := carol.send("text")
			if err != nil {
				t.Fatal(err)
			}
			proposal, err := carol.propose(&mls.Remove{Removed: bob.g().OwnLeaf()})
			if err != nil {
				t.Fatal(err)
			}
			b, err := carol.commit(mls.CommitParams{})
			if err != nil {
				t.Fatal(err)
			}
			carol.stored.apply(carol.g().DropPending())
			return map[string][]byte{"text": text, "proposal": proposal, "commit": b.Commit}
		}
		old := messages()
		all.commitAll(t, bob, mls.CommitParams{ForcePath: true})
		party{bob, carol}.commitAll(t, bob, mls.CommitParams{ForcePath: true}) // alice stays behind
		future := messages()
		for _, what := range slices.Sorted(maps.Keys(future)) {
			var epochs *mls.EpochError
			_, err := alice.process(future[what])
			if wantRefusal(t, "future "+what, alice, future[what], "", mls.ErrWrongEpoch); !errors.As(err, &epochs) || epochs.Message != alice.g().Epoch()+1 || epochs.Group != alice.g().Epoch() {
				t.Errorf("future %s: %v", what, err)
			}
			if what == "text" {
				continue
			}
			_, err = alice.process(old[what])
			if wantRefusal(t, "past "+what, alice, old[what], "", mls.ErrWrongEpoch); !errors.As(err, &epochs) || epochs.Message != alice.g().Epoch()-1 {
				t.Errorf("past %s: %v", what, err)
			}
		}
		if _, err := alice.process(old["text"]); err != nil {
			t.Errorf("a late text: %v", err)
		}
	}
}

// FS-12, FR-8: who goes on from an old copy of the store uses generations again, and
// under the same key each time another nonce. Who gets both takes the first and sees
// the second as a duplicate. A commit of the member ends it: everything is new.
func TestRestoredCopy(t *testing.T) {
	t.Parallel()
	alice, bob, carol, all := private(t, func(*mls.Config) {})
	all.talk(t)
	backup := records{}
	for kind, list := range alice.stored {
		backup[kind] = slices.Clone(list)
	}
	before, err := alice.send("before the restore")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.process(before); err != nil {
		t.Fatal(err)
	}
	alice.stored = backup
	after, err := alice.send("after the restore")
	if err != nil {
		t.Fatal(err)
	}
	if generation(t, alice.g(), before) != generation(t, alice.g(), after) {
		t.Fatal("nothing was restored")
	}
	if a, b := mls.ReuseGuard(alice.g(), before), mls.ReuseGuard(alice.g(), after); a == b {
		t.Errorf("the reuse guard is %x both times", a)
	}
	wantRefusal(t, "the generation again", bob, after, "", mls.ErrDuplicateMessage)
	if _, err := carol.process(after); err != nil { // who has not seen the first
		t.Error(err)
	}
	wantRefusal(t, "the first one, later", carol, before, "", mls.ErrDuplicateMessage)
	all.commitAll(t, alice, mls.CommitParams{ForcePath: true})
	all.talk(t)
	// A client that knows of the restore raises the floor instead.
	epoch, floors := alice.g().SentGenerations()
	if epoch != alice.g().Epoch() {
		t.Error("floors of another epoch")
	}
	g := alice.g().WithFloors(append(floors, mls.Floor{Context: alice.suite.Hash(groupContext(t, alice)), Application: true, Next: 40}))
	g, message, ws, err := g.Protect(t.Context(), alice.env(), []byte("raised"), nil)
	if err != nil {
		t.Fatal(err)
	}
	alice.set(g, ws)
	if got := generation(t, g, message); got != 40 {
		t.Errorf("generation %d, above a floor of 40", got)
	}
	if _, err := bob.process(message); err != nil {
		t.Error(err)
	}
}

func groupContext(t *testing.T, m *member) []byte {
	t.Helper()
	gc := groupInfo(t, m).GroupContext
	return gc.Marshal()
}

// TREE-3, FR-6, FR-9, mls-rs#286, openmls#2182, openmls#2186: indices from a peer
// that are beyond the tree, however far, are refused at once: senders, who is to be
// removed, who signed a GroupInfo.
func TestIndicesBeyondTheTree(t *testing.T) {
	t.Parallel()
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	for _, i := range []mls.LeafIndex{3, 4, 1 << 30, 1<<31 - 1, 1 << 31, 1<<31 + 1, math.MaxUint32} { // 3 is blank
		what := fmt.Sprintf("leaf %d", i)
		message, err := mls.ForgeMessage(t.Context(), mallory.env(), mallory.g(), mls.WirePublicMessage,
			mls.Sender{Type: mls.SenderMember, Leaf: i}, mallory.signer(), &mls.Remove{Removed: 0}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, what+" sends a proposal", bob, message, "FR-6", nil)
		message, err = mls.ForgeMessage(t.Context(), mallory.env(), mallory.g(), mls.WirePublicMessage,
			mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}, mallory.signer(), &mls.Remove{Removed: i}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, what+" is to be removed", bob, message, "PRP-4", nil)
		if message, err = mls.ForgePrivate(mallory.g(), i, 0); err != nil {
			t.Fatal(err)
		}
		rule := "FR-9"
		if i == 3 {
			rule = "FR-6"
		}
		wantRefusal(t, what+" sends a text", bob, message, rule, nil)
		info, err := mls.ForgeGroupInfo(t.Context(), alice.env(), alice.g(), alice.signer(), func(g *mls.GroupInfo) { g.Signer = i })
		if err != nil {
			t.Fatal(err)
		}
		zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
		var breached *mls.RuleError
		if _, err := zoe.joinExternal(info); !errors.As(err, &breached) || breached.Rule != "WEL-2" || !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s signs a GroupInfo: %v", what, err)
		}
	}
}
