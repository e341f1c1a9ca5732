// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// size counts what an environment holds, and checks that what it would be stored as is the same.
func size(t *testing.T, e *Environment) [3]int {
	t.Helper()
	anchors, intermediates, lists := e.Dump()
	return [3]int{len(anchors), len(intermediates), len(lists)}
}

func TestRemoveAnchor(t *testing.T) {
	t.Parallel()
	root, other := newRoot(t, "root"), newRoot(t, "other root")
	ca := root.newCA(t, "ca")
	below := ca.newCA(t, "below")
	others := other.newCA(t, "ca of the other")
	e := environment(t, root, ca, below)
	for _, add := range []func() (*Environment, *Item, error){
		func() (*Environment, *Item, error) { return e.AddAnchor(other.Raw, noon) },
		func() (*Environment, *Item, error) { return e.AddIntermediate(others.Raw, noon) },
	} {
		n, _, err := add()
		if err != nil {
			t.Fatal(err)
		}
		e = n
	}
	e = withCRL(t, e, below.newCRL(t, []int64{2}, withPoint(t)))
	e = withCRL(t, e, others.newCRL(t, []int64{2}, withPoint(t)))
	if _, _, err := e.RemoveAnchor(ca.Raw); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("an intermediate: %v", err)
	}
	n, gone, err := e.RemoveAnchor(root.Raw)
	if err != nil || size(t, n) != [3]int{1, 1, 1} || len(gone) != 4 {
		t.Fatalf("%v left, %d gone, %v", size(t, n), len(gone), err)
	}
	if size(t, e) != [3]int{2, 3, 2} {
		t.Error("the value itself has changed")
	}
	if l := leaf(t, below.newLeaf(t)); !errors.Is(n.Verify(l, noon), ErrNoPath) || errors.Is(e.Verify(l, noon), ErrNoPath) {
		t.Error(n.Verify(l, noon), e.Verify(l, noon))
	}
	if err := n.Verify(leaf(t, others.newLeaf(t)), noon); errors.Is(err, ErrNoPath) {
		t.Error(err)
	}
	// One that another anchor vouches for as well stays.
	crossed := other.newCA(t, "ca")
	if e, _, err = e.AddIntermediate(crossed.Raw, noon); err != nil {
		t.Fatal(err)
	}
	if n, _, err = e.RemoveAnchor(root.Raw); err != nil || size(t, n) != [3]int{1, 3, 2} {
		t.Errorf("%v, %v", size(t, n), err)
	}
}

func TestRemoveCRL(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	e := withCRL(t, environment(t, root), root.newCRL(t, []int64{2}, withPoint(t)))
	if _, _, err := e.RemoveCRL("http://crl.example.com/another"); !errors.Is(err, core.ErrNotFound) {
		t.Error(err)
	}
	n, gone, err := e.RemoveCRL(listURL)
	if err != nil || len(gone) != 1 || gone[0].Kind != ItemCRL || size(t, n) != [3]int{1, 0, 0} || size(t, e) != [3]int{1, 0, 1} {
		t.Errorf("%v, %+v, %v", size(t, n), gone, err)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	short := root.newCA(t, "short", func(c *x509.Certificate) { c.NotAfter = noon.Add(day) })
	below := short.newCA(t, "below")
	stays := root.newCA(t, "stays")
	e := environment(t, root, short, below, stays)
	e = withCRL(t, e, below.newCRL(t, nil, withPoint(t)))
	e = withCRL(t, e, stays.newCRL(t, nil, withPoint(t)))
	if n, gone := e.Prune(noon.Add(day)); len(gone) != 0 || size(t, n) != size(t, e) {
		t.Errorf("nothing has expired: %+v", gone)
	}
	n, gone := e.Prune(noon.Add(day + 1))
	if len(gone) != 3 || size(t, n) != [3]int{1, 1, 1} {
		t.Errorf("%v left, %d gone", size(t, n), len(gone))
	}
	if _, gone := e.Prune(noon.Add(1000 * day)); len(gone) != 6 {
		t.Errorf("%d gone", len(gone))
	}
}

// An environment that is full says so by an error of its own, and has room again.
func TestFull(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	e := environment(t, root)
	for i := range MaxIntermediates + 1 {
		ca := root.newCA(t, fmt.Sprint("ca ", i%2), func(c *x509.Certificate) {
			c.SerialNumber, c.SubjectKeyId, c.NotAfter = big.NewInt(int64(10+i)), fmt.Append(nil, i), noon.Add(day)
		})
		n, _, err := e.AddIntermediate(ca.Raw, noon)
		if i < MaxIntermediates {
			if err != nil {
				t.Fatal(err)
			}
			e = n
			continue
		}
		if !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	later := noon.Add(2 * day)
	e, gone := e.Prune(later)
	if len(gone) != MaxIntermediates {
		t.Errorf("%d gone", len(gone))
	}
	if _, _, err := e.AddIntermediate(root.newCA(t, "next").Raw, later); err != nil {
		t.Error(err)
	}
}
