// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// rebuilt compares what a member says of the group with what its tree holds when it
// is read anew, leaf by leaf.
func rebuilt(t *testing.T, m *member) {
	t.Helper()
	members, err := m.g().Members(t.Context(), m.env())
	if err != nil {
		t.Fatal(err)
	}
	own, err := m.g().OwnLeafNode(t.Context(), m.env())
	if err != nil {
		t.Fatal(err)
	}
	list := nodes(t, m)
	at := 0
	for n := 0; n < len(list); n += 2 {
		leaf := list[n].Leaf
		if leaf == nil {
			continue
		}
		if at >= len(members) {
			t.Fatalf("%s: %d members, and more leaves", m.name, len(members))
		}
		got := members[at]
		at++
		if int(got.Leaf) != n/2 || !bytes.Equal(got.SignatureKey, leaf.SignatureKey) || !bytes.Equal(got.Credential.Identity, leaf.Credential.Identity) {
			t.Errorf("%s: leaf %d is %q, and %q among the members", m.name, n/2, leaf.Credential.Identity, got.Credential.Identity)
		}
		if mine := string(leaf.Credential.Identity) == m.name; mine != (got.Leaf == m.g().OwnLeaf()) || mine != bytes.Equal(own.Marshal(), leaf.Marshal()) {
			t.Errorf("%s: leaf %d is ours: %v, our leaf is %d", m.name, n/2, mine, m.g().OwnLeaf())
		}
	}
	if at != len(members) {
		t.Errorf("%s: %d members, %d leaves", m.name, len(members), at)
	}
}

// TREE-13, mls-rs#339: there is no index; the members and our own leaf are at every
// time what the tree says, in memory and after a reload, through 200 random commits
// with changes of our own keys and of those of others.
func TestIndexEqualsTree(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 13))
			var all, in party
			for i := range 6 {
				m := newMember(t, 1, fmt.Sprint("member ", i), mls.DefaultConfig)
				m.reload = i%2 == 0
				all = append(all, m)
			}
			all[0].create("group", nil)
			in = all[:1]
			commits := 50
			if testing.Short() {
				commits = 10
			}
			for range commits {
				by := in[r.IntN(len(in))]
				params := mls.CommitParams{ForcePath: r.IntN(2) == 0}
				if r.IntN(3) == 0 {
					params.Leaf.SignatureKey = by.newSigner() // our own entry changes
				}
				var joining []*member
				switch out := slices.DeleteFunc(slices.Clone(all), func(m *member) bool { return slices.Contains(in, m) }); {
				case r.IntN(3) == 0 && len(in) > 1:
					if gone := in[r.IntN(len(in))]; gone != by {
						params.Proposals = append(params.Proposals, &mls.Remove{Removed: gone.g().OwnLeaf()})
					}
				case r.IntN(2) == 0 && len(out) > 0:
					joining = out[:1]
					params.Proposals = append(params.Proposals, &mls.Add{KeyPackage: out[0].keyPackage()})
				case r.IntN(2) == 0 && len(in) > 1:
					if o := in[r.IntN(len(in))]; o != by {
						message, err := o.proposeUpdate(mls.LeafParams{SignatureKey: o.newSigner()})
						if err != nil {
							t.Fatal(err)
						}
						in.deliver(t, o, message)
					}
				}
				in = in.commitAll(t, by, params, joining...)
				for _, m := range in {
					rebuilt(t, m)
				}
			}
		})
	}
}

// TREE-14, LEAF-4, mls-rs#328: a key that is in the group twice is refused whichever
// way it comes, by who has the tree in memory, by who has to load it, and by who joins
// by a Welcome or from outside.
func TestDuplicatesAreFoundByAll(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := some(t, 3, mls.DefaultConfig)
	p.fill(t)
	mallory, bob, carol := p[0], p[1], p[2]
	bob.reload, carol.reload = false, true
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	tree := nodes(t, bob)
	victim := tree[2].Leaf // bob's
	for what, change := range map[string]func(*mls.KeyPackage) core.Signer{
		"the encryption key of a leaf": func(kp *mls.KeyPackage) core.Signer {
			kp.LeafNode.EncryptionKey = victim.EncryptionKey
			return zoe.signer()
		},
		"the encryption key of a parent": func(kp *mls.KeyPackage) core.Signer {
			kp.LeafNode.EncryptionKey = tree[1].Parent.EncryptionKey
			return zoe.signer()
		},
		"the signature key of a leaf": func(kp *mls.KeyPackage) core.Signer {
			kp.LeafNode.SignatureKey = victim.SignatureKey
			return bob.signer()
		},
	} {
		kp := zoe.keyPackage()
		if err := mls.ForgeKeyPackage(ctx, change(kp), kp); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := mls.ForgeCommit(ctx, mallory.env(), mallory.g(), []mls.Proposal{&mls.Add{KeyPackage: kp}}); !isBreach(err, "LEAF-4") {
			t.Errorf("%s, in our own commit: %v", what, err)
		}
		commit := &mls.Commit{Proposals: []mls.ProposalOrRef{{Proposal: &mls.Add{KeyPackage: kp}}}}
		message, err := mls.ForgeMessage(ctx, mallory.env(), mallory.g(), mls.WirePublicMessage,
			mls.Sender{Type: mls.SenderMember, Leaf: mallory.g().OwnLeaf()}, mallory.signer(), nil, commit, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, what+", in memory", bob, message, "LEAF-4", nil)
		wantRefusal(t, what+", after a reload", carol, message, "LEAF-4", nil)

		// A group that holds the key already: who joins it sees it too.
		forged := func(i *mls.GroupInfo) {
			list := append(slices.Clone(tree), mls.Node{}, mls.Node{Leaf: kp.LeafNode})
			i.Extensions[slices.IndexFunc(i.Extensions, func(e mls.Extension) bool { return e.Type == mls.ExtensionRatchetTree })].Data = mls.MarshalRatchetTree(list)
			i.GroupContext.TreeHash = mls.TreeHashOf(t, mallory.suite, list)
		}
		info, err := mls.ForgeGroupInfo(ctx, mallory.env(), mallory.g(), mallory.signer(), forged)
		if err != nil {
			t.Fatal(err)
		}
		yves := newMember(t, 1, "yves", mls.DefaultConfig)
		if _, err := yves.joinExternal(info); !isBreach(err, "LEAF-4") {
			t.Errorf("%s, from outside: %v", what, err)
		}
		if _, err := mallory.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: yves.keyPackage()}}}); err != nil {
			t.Fatal(err)
		}
		welcome, err := mls.ForgeWelcome(ctx, mallory.env(), mallory.g(), mallory.pending, mallory.signer(), forged, func(b []byte) []byte { return b })
		if err != nil {
			t.Fatal(err)
		}
		if err := yves.join(welcome); !isBreach(err, "LEAF-4") || len(yves.stored) != 0 {
			t.Errorf("%s, by Welcome: %v", what, err)
		}
	}
}

func isBreach(err error, rule string) bool {
	var breached *mls.RuleError
	return errors.As(err, &breached) && breached.Rule == rule
}
