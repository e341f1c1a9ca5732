// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
)

// WEL-10: one Welcome for all joiners or one for each, which nobody else can
// use; all are made again from what is stored.
func TestWelcomePerJoiner(t *testing.T) {
	t.Parallel()
	alice := newMember(t, 1, "alice", mls.DefaultConfig)
	alice.create("group", nil)
	p := party{alice}
	var adds []mls.Proposal
	joiners := []*member{newMember(t, 1, "bob", mls.DefaultConfig), newMember(t, 1, "carol", mls.DefaultConfig), newMember(t, 1, "dave", mls.DefaultConfig)}
	for _, m := range joiners {
		adds = append(adds, &mls.Add{KeyPackage: m.keyPackage()})
	}
	bundle, err := alice.commit(mls.CommitParams{Proposals: adds, ForcePath: true})
	if err != nil {
		t.Fatal(err)
	}
	list, err := alice.pending.Welcomes(t.Context(), alice.env(), alice.g())
	if err != nil || len(list) != len(joiners) {
		t.Fatalf("%d Welcomes, %v", len(list), err)
	}
	alice.merge()
	for i, m := range joiners {
		for k, welcome := range list {
			if k != i {
				if err := m.join(welcome); !errors.Is(err, mls.ErrNoKeyPackage) {
					t.Errorf("%s joins by another's Welcome: %v", m.name, err)
				}
			}
		}
		if len(list[i]) >= len(bundle.Welcome) {
			t.Errorf("a Welcome of %d bytes, of %d for all", len(list[i]), len(bundle.Welcome))
		}
		if err := m.join(list[i]); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
	}
	p = append(p, joiners...)
	p.agree(t)
	p.talk(t)
	for _, m := range joiners { // the one Welcome opens for each of them too
		m.stored = records{}
		if err := m.join(bundle.Welcome); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
	}
	if _, err := alice.commit(mls.CommitParams{}); err != nil {
		t.Fatal(err)
	}
	if list, err := alice.pending.Welcomes(t.Context(), alice.env(), alice.g()); err != nil || len(list) != 0 {
		t.Errorf("%d Welcomes of a commit that adds nobody (%v)", len(list), err)
	}
}
