// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// maxHandles is what is held at a time. A driver frees little of what it makes, so
// what was used longest ago makes room; no scenario comes near it.
const maxHandles = 4096

// The handles are what the driver knows by number: group states, pending key
// packages, ended groups and external signers, in one number space.
type handles struct {
	held  map[uint32]*handle
	last  uint32 // given out last; 0 is nothing's
	clock uint64 // counts uses
}

type handle struct {
	thing secretive
	used  uint64
}

// secretive things wipe what they hold when they are let go.
type secretive interface{ wipe() }

// add gives a thing its number.
func (h *handles) add(thing secretive) uint32 {
	if len(h.held) >= maxHandles {
		h.dropOldest()
	}
	for h.last++; h.last == 0 || h.held[h.last] != nil; h.last++ {
	}
	h.clock++
	h.held[h.last] = &handle{thing: thing, used: h.clock}
	return h.last
}

func (h *handles) dropOldest() {
	var oldest uint32
	for id, held := range h.held {
		if oldest == 0 || held.used < h.held[oldest].used {
			oldest = id
		}
	}
	h.drop(oldest)
}

// drop lets a thing go and says whether it was there.
func (h *handles) drop(id uint32) bool {
	held, ok := h.held[id]
	if ok {
		held.thing.wipe()
		delete(h.held, id)
	}
	return ok
}

// find returns the thing of a number; core.ErrNotFound if it is not there or
// something else.
func find[T secretive](h *handles, id uint32) (T, error) {
	if held, ok := h.held[id]; ok {
		if thing, ok := held.thing.(T); ok {
			h.clock++
			held.used = h.clock
			return thing, nil
		}
	}
	var none T
	return none, fmt.Errorf("handle %d: %w", id, core.ErrNotFound)
}
