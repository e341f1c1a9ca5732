// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// EXT-2, CRD-2: an external commit may replace only who joins. Whoever would be
// removed by somebody else refuses it like everybody else: there is no secret of
// the group in it that would prove anything.
func TestExternalCommitCannotRemoveOthers(t *testing.T) {
	t.Parallel()
	alice, bob := newMember(t, 1, "alice", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig)
	alice.create("group", nil)
	bundle, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}})
	if err != nil {
		t.Fatal(err)
	}
	alice.merge()
	if err := bob.join(bundle.Welcome); err != nil {
		t.Fatal(err)
	}
	mallory := newMember(t, 1, "mallory", mls.DefaultConfig)
	mallory.asks = &judge{successor: func(core.Identity, core.Identity) error { return nil }} // her own
	info, err := mls.UnmarshalMLSMessage(bundle.GroupInfo)
	if err != nil {
		t.Fatal(err)
	}
	_, commit, _, err := mls.JoinExternal(t.Context(), mallory.env(), mls.ExternalParams{
		GroupInfo: info.GroupInfo, Signer: mallory.signer(), Credential: core.BasicCredential("mallory"),
		Capabilities: mallory.capabilities(), Config: mls.DefaultConfig,
		Replace: func(m mls.Member) bool { return m.Leaf == bob.g().OwnLeaf() },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{alice, bob} {
		before := m.stored.dump()
		if _, err := m.process(commit); !errors.Is(err, core.ErrDenied) {
			t.Errorf("%s: %v", m.name, err)
		}
		if !m.g().Active() || m.stored.dump() != before {
			t.Errorf("%s: the commit changed something", m.name)
		}
	}
}
