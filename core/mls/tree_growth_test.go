// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
)

// TREE-4, TREE-8: a group that was loaded has the tree hash of one that was not, across
// every doubling of the tree and every halving.
func TestGrowthOfLoadedGroups(t *testing.T) {
	t.Parallel()
	stored, kept := newMember(t, 1, "stored", mls.DefaultConfig), newMember(t, 1, "kept", mls.DefaultConfig)
	kept.reload = false
	stored.create("group", nil)
	both := party{stored}.commitAll(t, stored, mls.CommitParams{Proposals: []mls.Proposal{adding(kept)}}, kept)
	size, seq := 2, 0
	resize := func(to int) {
		t.Helper()
		var list []mls.Proposal
		for ; size < to; size++ {
			seq++
			list = append(list, adding(newMember(t, 1, fmt.Sprint("member ", seq), mls.DefaultConfig)))
		}
		for ; size > to; size-- {
			list = append(list, &mls.Remove{Removed: mls.LeafIndex(size - 1)})
		}
		for _, by := range both {
			both = both.commitAll(t, by, mls.CommitParams{Proposals: list, ForcePath: true})
			list = nil
		}
		data, err := stored.g().RatchetTree(t.Context(), stored.env())
		if err != nil {
			t.Fatal(err)
		}
		nodes, err := mls.UnmarshalRatchetTree(data)
		if err != nil {
			t.Fatal(err)
		}
		if _, hash, err := mls.TreeOf(stored.suite, nodes); err != nil || !bytes.Equal(hash, stored.g().TreeHash()) {
			t.Fatalf("%d members: the tree hash is %x, %v", size, stored.g().TreeHash(), err)
		}
	}
	powers := []int{2, 4, 8, 16, 32, 64}
	if !testing.Short() {
		powers = append(powers, 128, 256)
	}
	for _, n := range powers {
		resize(n)
		resize(n + 1)
	}
	for i := len(powers) - 1; i >= 0; i-- {
		resize(powers[i] + 1)
		resize(powers[i])
	}
}
