// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"errors"
	"math"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

type wiped struct{ done bool }

func (w *wiped) wipe() { w.done = true }

// What was used longest ago makes room, and numbers are used again only when free.
func TestHandles(t *testing.T) {
	t.Parallel()
	h := handles{held: map[uint32]*handle{}, last: math.MaxUint32 - 2}
	things := make([]*wiped, maxHandles+10)
	ids := map[uint32]bool{}
	first := uint32(0)
	for i := range things {
		things[i] = &wiped{}
		id := h.add(things[i])
		if id == 0 || ids[id] {
			t.Fatalf("number %d is given out again", id)
		}
		ids[id] = true
		if i == 0 {
			first = id
		}
		if _, err := find[*wiped](&h, first); err != nil {
			t.Fatalf("what is in use has made room: %v", err)
		}
	}
	if len(h.held) != maxHandles {
		t.Errorf("%d are held, want %d", len(h.held), maxHandles)
	}
	for i, thing := range things {
		if want := i >= 1 && i <= 10; thing.done != want {
			t.Errorf("thing %d: wiped %v, want %v", i, thing.done, want)
		}
	}
	if !h.drop(first) || !things[0].done || h.drop(first) {
		t.Error("what is dropped is wiped, once")
	}
}

func TestPSKBounds(t *testing.T) {
	t.Parallel()
	m := newMember(nil, nil, nil)
	for i := range maxPSKs {
		if err := m.storePSK([]byte{byte(i), byte(i >> 8)}, []byte("key")); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.storePSK([]byte("one more"), []byte("key")); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("one more: %v", err)
	}
	if err := m.storePSK([]byte{0, 0}, []byte("new")); err != nil {
		t.Errorf("again: %v", err)
	}
	other := newMember(nil, nil, nil)
	if err := other.storePSK([]byte("of its own"), []byte("key")); err != nil {
		t.Fatal(err)
	}
	if other.takePSKs(&m); len(other.psks) != maxPSKs {
		t.Errorf("%d keys, want %d", len(other.psks), maxPSKs)
	}
}
