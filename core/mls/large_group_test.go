// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A group of a thousand is made in one commit, is joined by
// Welcome and from outside, goes on by commits of several members, and shrinks to
// those few. The others have key packages and nothing else.
func TestLargeGroups(t *testing.T) {
	if testing.Short() {
		t.Skip("large groups are for the run without the race detector")
	}
	t.Parallel()
	for _, suite := range []core.SuiteID{1, 2, 3, 7} {
		t.Run(suite.String(), func(t *testing.T) { largeGroup(t, suite, 1000) })
	}
}

func largeGroup(t *testing.T, suite core.SuiteID, n int) {
	first := newMember(t, suite, "first", mls.DefaultConfig)
	first.create("large", nil)
	members := []*member{first}
	var adds []mls.Proposal
	for i := 1; i < n; i++ {
		m := newMember(t, suite, fmt.Sprintf("member %d", i), mls.DefaultConfig)
		members = append(members, m)
		adds = append(adds, &mls.Add{KeyPackage: m.keyPackage()})
	}
	// Those who are there: at the ends, in the middle and beside one another.
	joining := []*member{members[1], members[n/2], members[n-1]}
	p := party{first}.commitAll(t, first, mls.CommitParams{Proposals: adds}, joining...)
	if all, err := first.g().Members(t.Context(), first.env()); err != nil || len(all) != n {
		t.Fatalf("%d members, %v", len(all), err)
	}
	for _, m := range p {
		p = p.commitAll(t, m, mls.CommitParams{ForcePath: true})
	}
	p.talk(t)
	// an Update of one that another commits, with a new signature key
	update, err := p[1].proposeUpdate(mls.LeafParams{SignatureKey: p[1].newSigner()})
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, p[1], update)
	p = p.commitAll(t, p[2], mls.CommitParams{})
	late := newMember(t, suite, "late", mls.DefaultConfig)
	commit, err := late.joinExternal(first.groupInfo())
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, nil, commit)
	p = append(p, late)
	p.agree(t)
	p.talk(t)
	// half of those who are not there go, then the rest
	stay := map[mls.LeafIndex]bool{}
	for _, m := range p {
		stay[m.g().OwnLeaf()] = true
	}
	for _, every := range []int{2, 1} {
		var removes []mls.Proposal
		list, err := first.g().Members(t.Context(), first.env())
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range list {
			if i%every == 0 && !stay[m.Leaf] {
				removes = append(removes, &mls.Remove{Removed: m.Leaf})
			}
		}
		p = p.commitAll(t, p[len(p)-1], mls.CommitParams{Proposals: removes})
	}
	p.talk(t)
	if list, err := first.g().Members(t.Context(), first.env()); err != nil || len(list) != len(p) {
		t.Errorf("%d members are left, %v", len(list), err)
	}
	// the last leaf goes, and half of the tree with it, more than once
	p = p.commitAll(t, first, mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: late.g().OwnLeaf()}}})
	p = p.commitAll(t, first, mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: members[n-1].g().OwnLeaf()}}})
	p.talk(t)
	if tree, err := first.g().RatchetTree(t.Context(), first.env()); err != nil || len(tree) > 100*n {
		t.Errorf("a tree of %d bytes for %d members, %v", len(tree), len(p), err)
	}
}

// ENG-9: what one member of a large group takes in memory, with every node of the
// tree filled, beside the encoded tree.
func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		m := newMember(b, 1, "first", mls.DefaultConfig)
		m.reload = false
		m.create("large", nil)
		var adds []mls.Proposal
		for i := 1; i < n; i++ {
			other := newMember(b, 1, fmt.Sprintf("member %d", i), mls.DefaultConfig)
			adds = append(adds, &mls.Add{KeyPackage: other.keyPackage()})
		}
		if _, err := m.commit(mls.CommitParams{Proposals: adds, OmitTree: true}); err != nil {
			b.Fatal(err)
		}
		m.merge()
		m.set(mls.FillParents(m.group))
		tree, err := m.group.RatchetTree(b.Context(), m.env())
		if err != nil {
			b.Fatal(err)
		}
		encoded := len(tree)
		adds, tree = nil, nil
		// As it came out of the commits, with the epochs before it that are kept.
		live := heapOf(func() { m.group = nil })
		header := bytes.Clone(m.stored[mls.RecordHeader][0].Value)
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			for b.Loop() { // what is measured in time is loading all of it
				if m.group, err = mls.Load(provider, header); err != nil {
					b.Fatal(err)
				}
				if _, err := m.group.Members(b.Context(), m.env()); err != nil {
					b.Fatal(err)
				}
			}
			loaded := heapOf(func() { m.group = nil })
			b.ReportMetric(float64(encoded), "tree-B")
			b.ReportMetric(float64(live), "heap-B")
			b.ReportMetric(float64(live)/float64(n), "heap-B/member")
			b.ReportMetric(float64(loaded), "loaded-B")
			b.ReportMetric(float64(loaded)/float64(n), "loaded-B/member")
		})
	}
}

// heapOf is how many bytes are free once drop has forgotten them.
func heapOf(drop func()) int64 {
	read := func() int64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	before := read()
	drop()
	return before - read()
}
