// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

func groupInfo(t *testing.T, m *member) *mls.GroupInfo {
	t.Helper()
	data, err := m.g().GroupInfo(t.Context(), m.env(), mls.GroupInfoParams{})
	if err != nil {
		t.Fatal(err)
	}
	message, err := mls.UnmarshalMLSMessage(data)
	if err != nil {
		t.Fatal(err)
	}
	return message.GroupInfo
}

// confirmedInput is ConfirmedTranscriptHashInput of a commit sent as PublicMessage.
func confirmedInput(t *testing.T, commit []byte) (input, tag []byte) {
	t.Helper()
	m, err := mls.UnmarshalMLSMessage(commit)
	if err != nil {
		t.Fatal(err)
	}
	a := mls.AuthenticatedContent{WireFormat: mls.WirePublicMessage, Content: m.PublicMessage.Content, Auth: m.PublicMessage.Auth}
	tag = a.Auth.ConfirmationTag
	return bytes.TrimSuffix(a.Marshal(), vlbytes.Append(nil, tag)), tag
}

// KS-2, KS-3: a group begins in epoch 0 with a random secret and an empty confirmed
// hash; the first commit goes on from the hash over the confirmation tag of epoch 0,
// and who joins goes on from the tag of its epoch.
func TestTranscriptFromCreation(t *testing.T) {
	t.Parallel()
	inSuites(t, []core.SuiteID{1, 2}, func(t *testing.T, suite core.SuiteID) {
		alice, bob := newMember(t, suite, "alice", mls.DefaultConfig), newMember(t, suite, "bob", mls.DefaultConfig)
		alice.create("group", nil)
		first := alice.g().EpochAuthenticator()
		alice.stored = records{}
		alice.create("group", nil)
		if bytes.Equal(first, alice.g().EpochAuthenticator()) {
			t.Error("two groups of the same id begin with the same secret")
		}
		info := groupInfo(t, alice)
		if info.GroupContext.Epoch != 0 || len(info.GroupContext.ConfirmedTranscriptHash) != 0 {
			t.Errorf("a new group is in epoch %d, with confirmed hash %x", info.GroupContext.Epoch, info.GroupContext.ConfirmedTranscriptHash)
		}
		confirmed, tag := []byte(nil), info.ConfirmationTag
		if !bytes.Equal(tag, alice.suite.MAC(core.NewSecret(mls.EpochSecrets(alice.g())["confirm"]), nil)) {
			t.Error("the tag of epoch 0 is not over an empty hash")
		}
		hash := alice.suite.Hash
		follow := func(by *member, commit []byte) {
			t.Helper()
			input, next := confirmedInput(t, commit)
			confirmed = hash(hash(confirmed, vlbytes.Append(nil, tag)), input)
			tag = next
			if !bytes.Equal(mls.ConfirmedHash(by.g()), confirmed) || !bytes.Equal(by.g().ConfirmationTag(), tag) {
				t.Errorf("epoch %d: another transcript", by.g().Epoch())
			}
		}
		b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}})
		if err != nil {
			t.Fatal(err)
		}
		alice.merge()
		follow(alice, b.Commit)
		if err := bob.join(b.Welcome); err != nil {
			t.Fatal(err)
		}
		for _, m := range []*member{bob, alice} {
			if b, err = m.commit(mls.CommitParams{ForcePath: true}); err != nil {
				t.Fatal(err)
			}
			party{alice, bob}.deliver(t, m, b.Commit)
			m.merge()
			party{alice, bob}.agree(t)
			follow(bob, b.Commit)
		}
	})
}

// KS-3: the wire format of a commit is in its transcript.
func TestTranscriptOfWireFormats(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		config := mls.DefaultConfig
		config.Handshake = handshake
		alice := newMember(t, 1, "alice", config)
		alice.create("group", nil)
		info := groupInfo(t, alice)
		if _, err := alice.commit(mls.CommitParams{ForcePath: true}); err != nil {
			t.Fatal(err)
		}
		a := alice.pending.Content()
		alice.merge()
		interim := alice.suite.Hash(nil, vlbytes.Append(nil, info.ConfirmationTag))
		want := alice.suite.Hash(interim, bytes.TrimSuffix(a.Marshal(), vlbytes.Append(nil, a.Auth.ConfirmationTag)))
		if int(a.WireFormat) != int(handshake) || !bytes.Equal(mls.ConfirmedHash(alice.g()), want) {
			t.Errorf("policy %d: wire format %d, another transcript", handshake, a.WireFormat)
		}
		a.WireFormat = 3 - a.WireFormat
		other := alice.suite.Hash(interim, bytes.TrimSuffix(a.Marshal(), vlbytes.Append(nil, a.Auth.ConfirmationTag)))
		if bytes.Equal(mls.ConfirmedHash(alice.g()), other) {
			t.Error("the wire format does not count")
		}
	}
}

// KS-4, KS-8: a commit signed in the context of the epoch that it ends, confirmed with
// the key and over the hash of the one that it begins, and tagged with the membership
// key of the old one is taken; one with any of these from the other epoch is not, and
// leaves the epoch as it was.
func TestOrderOfACommit(t *testing.T) {
	t.Parallel()
	for _, reload := range []bool{true, false} {
		alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
		bob.reload = reload
		if _, err := mallory.commit(mls.CommitParams{ForcePath: true, Proposals: []mls.Proposal{&mls.Remove{Removed: alice.g().OwnLeaf()}}}); err != nil {
			t.Fatal(err)
		}
		good, wrong, err := mls.ForgeOrders(t.Context(), mallory.g(), mallory.pending, mallory.signer())
		if err != nil {
			t.Fatal(err)
		}
		for what, message := range wrong {
			wantRefusal(t, what, bob, message, "", mls.ErrAuthentication)
		}
		if _, err := bob.process(good); err != nil {
			t.Error(err)
		}
		mallory.merge()
		party{bob, mallory}.agree(t)
	}
}

// KS-5, EXT-1, mls-rs#108: external_pub is that of the epoch that a GroupInfo is of,
// also of one that goes out with the commit which begins the epoch.
func TestExternalJoinRightAfterCommit(t *testing.T) {
	t.Parallel()
	inSuites(t, []core.SuiteID{1, 2}, func(t *testing.T, suite core.SuiteID) {
		alice, bob, carol := newMember(t, suite, "alice", mls.DefaultConfig), newMember(t, suite, "bob", mls.DefaultConfig), newMember(t, suite, "carol", mls.DefaultConfig)
		alice.create("group", nil)
		b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}})
		if err != nil {
			t.Fatal(err)
		}
		alice.merge()
		if err := bob.join(b.Welcome); err != nil {
			t.Fatal(err)
		}
		external := func(data []byte) []byte {
			m, err := mls.UnmarshalMLSMessage(data)
			if err != nil {
				t.Fatal(err)
			}
			e, _ := m.GroupInfo.Extensions.Find(mls.ExtensionExternalPub)
			return e
		}
		of := func(m *member) []byte {
			e, _ := groupInfo(t, m).Extensions.Find(mls.ExtensionExternalPub)
			return e
		}
		if e := external(b.GroupInfo); !bytes.Equal(e, of(alice)) || !bytes.Equal(e, of(bob)) {
			t.Error("external_pub is not the same for all")
		}
		if b, err = bob.commit(mls.CommitParams{ForcePath: true}); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(external(b.GroupInfo), of(bob)) {
			t.Error("external_pub is that of the old epoch")
		}
		party{alice}.deliver(t, bob, b.Commit)
		bob.merge()
		commit, err := carol.joinExternal(b.GroupInfo)
		if err != nil {
			t.Fatal(err)
		}
		party{alice, bob}.deliver(t, nil, commit)
		party{alice, bob, carol}.agree(t)
	})
}

// KS-6, KS-7: members of an epoch export the same and have the same authenticator,
// other epochs and other labels, contexts and lengths others; once the exporter secret
// is deleted nobody exports from the epoch any more, after a reload neither, and the
// next epoch exports again.
func TestExporterOfAGroup(t *testing.T) {
	t.Parallel()
	alice, bob, carol, all := threesome(t, mls.DefaultConfig, nil)
	seen, authenticators := map[string]bool{}, map[string]bool{}
	for range 3 {
		for _, c := range []struct {
			label, context string
			length         int
		}{{"label", "", 32}, {"label", "context", 32}, {"other", "", 32}, {"", "", 32}, {"label", "", 31}} {
			var first core.Secret
			for i, m := range all {
				s, err := m.g().Export(c.label, []byte(c.context), c.length)
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					first = s
				} else if !s.Equal(first) || s.Len() != c.length {
					t.Errorf("%s exports something else", m.name)
				}
				if nothing, err := m.g().Export(c.label, nil, c.length); err != nil || (c.context == "") != nothing.Equal(s) {
					t.Errorf("an empty context: %v", err)
				}
			}
			if seen[string(first.Bytes())] {
				t.Errorf("%+v: exported before", c)
			}
			seen[string(first.Bytes())] = true
		}
		for _, m := range all {
			authenticators[string(m.g().EpochAuthenticator())] = true
		}
		all.commitAll(t, bob, mls.CommitParams{ForcePath: true})
	}
	if len(authenticators) != 3 {
		t.Errorf("%d authenticators in three epochs", len(authenticators))
	}
	for _, reload := range []bool{true, false} {
		carol.reload = reload
		secret := mls.EpochSecrets(carol.g())["exporter"]
		carol.set(carol.g().DeleteExporter())
		if kinds := carol.stored.holds(secret); len(kinds) != 0 {
			t.Errorf("the exporter secret is still stored: %v", kinds)
		}
		if _, err := carol.g().Export("label", nil, 32); !errors.Is(err, core.ErrNotFound) {
			t.Errorf("after it was deleted: %v", err)
		}
		carol.set(carol.g().DeleteExporter())
		if _, err := alice.g().Export("label", nil, 32); err != nil {
			t.Error(err)
		}
		all.talk(t)
		all.commitAll(t, carol, mls.CommitParams{ForcePath: true})
		if _, err := carol.g().Export("label", nil, 32); err != nil {
			t.Errorf("in the next epoch: %v", err)
		}
	}
}

// KS-9: the init secret of an external commit comes from its ExternalInit:
// members in the epoch that it leaves agree with the joiner, and nobody who sits in
// another epoch or takes another kem_output does.
func TestExternalInitOfAGroup(t *testing.T) {
	t.Parallel()
	alice, bob, carol, _ := threesome(t, mls.DefaultConfig, nil)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	zoe.psks["psk"], alice.psks["psk"], carol.psks["psk"] = []byte("key"), []byte("key"), []byte("another key")
	info, err := mls.UnmarshalMLSMessage(mustInfo(t, alice))
	if err != nil {
		t.Fatal(err)
	}
	g, commit, ws, err := mls.JoinExternal(t.Context(), zoe.env(), mls.ExternalParams{
		GroupInfo: info.GroupInfo, Signer: zoe.signer(), Credential: core.BasicCredential("zoe"), Capabilities: zoe.capabilities(),
		PSKs: []mls.PreSharedKeyID{alice.g().NewExternalPSK([]byte("psk")).PSK}, Config: zoe.config,
	})
	if err != nil {
		t.Fatal(err)
	}
	zoe.set(g, ws)
	wantRefusal(t, "without the PSK", bob, commit, "", mls.ErrMissingPSK)
	wantRefusal(t, "with another PSK", carol, commit, "", mls.ErrAuthentication)
	if _, err := alice.commit(mls.CommitParams{ForcePath: true}); err != nil { // a commit of her own waits
		t.Fatal(err)
	}
	if _, err := alice.process(commit); err != nil {
		t.Fatal(err)
	}
	party{alice, zoe}.agree(t)
	party{alice, zoe}.talk(t)
}

func mustInfo(t *testing.T, m *member) []byte {
	t.Helper()
	info, err := m.g().GroupInfo(t.Context(), m.env(), mls.GroupInfoParams{})
	if err != nil {
		t.Fatal(err)
	}
	return info
}
