// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// A Floor says that generations of our own ratchet below Next were burnt: keys
// that left the process in a value that was then dropped. The hash of the
// GroupContext tells epochs of different histories apart.
type Floor struct {
	Context     []byte
	Application bool
	Next        uint32
}

// SentGenerations are the floors that dropping this value would need: the
// current epoch and where our own ratchets stand in it.
func (g *Group) SentGenerations() (epoch uint64, floors []Floor) {
	hash := g.suite.Hash(g.contextBytes)
	for _, kind := range []ratchetKind{handshakeRatchet, applicationRatchet} {
		if next := g.messages.ownGeneration(g.own, kind); next > 0 {
			floors = append(floors, Floor{Context: hash, Application: kind == applicationRatchet, Next: next})
		}
	}
	return g.context.Epoch, floors
}

// ownGeneration is the generation that our ratchet would use next, as far as this
// value knows: 0 if it has not sent.
func (t *secretTree) ownGeneration(own LeafIndex, kind ratchetKind) uint32 {
	if r, ok := t.ratchets.Get(ratchetID(own, kind)); ok {
		return uint32(min(r.next, math.MaxUint32))
	}
	return 0
}

// WithFloors returns the group with its own ratchets of this epoch raised to the
// floors that concern it.
func (g *Group) WithFloors(floors []Floor) *Group {
	next := *g
	hash := g.suite.Hash(g.contextBytes)
	for _, f := range floors {
		if slices.Equal(f.Context, hash) {
			kind := handshakeRatchet
			if f.Application {
				kind = applicationRatchet
			}
			next.messages = next.messages.withFloor(kind, f.Next)
		}
	}
	return &next
}

// withStoredFloors reads the floors of the epoch once, before our first
// PrivateMessage in it.
func (g *Group) withStoredFloors(ctx context.Context, env *Env) (*Group, error) {
	if g.floored {
		return g, nil
	}
	data, err := env.Fetch.One(ctx, RecordFloors, epochKey(g.context.Epoch))
	if err != nil {
		return nil, err
	}
	floors, err := ParseFloors(data)
	if err != nil {
		return nil, err
	}
	next := g.WithFloors(floors)
	next.floored = true
	return next, nil
}

// ParseFloors decodes a RecordFloors value; nil holds none.
func ParseFloors(data []byte) (floors []Floor, err error) {
	if data == nil {
		return nil, nil
	}
	err = unmarshalRecord("floors", data, func(r *reader) {
		r.list(func(r *reader) {
			floors = append(floors, Floor{Context: r.opaque(), Application: r.present(), Next: r.u32()})
		})
	})
	return floors, err
}

// RaiseFloors returns the RecordFloors value that holds the floors of both: a
// floor is raised only.
func RaiseFloors(stored []byte, raised []Floor) ([]byte, error) {
	floors, err := ParseFloors(stored)
	if err != nil {
		return nil, fmt.Errorf("floors: %w", err)
	}
	for _, f := range raised {
		i := slices.IndexFunc(floors, func(o Floor) bool {
			return slices.Equal(o.Context, f.Context) && o.Application == f.Application
		})
		if i < 0 {
			floors = append(floors, f)
		} else {
			floors[i].Next = max(floors[i].Next, f.Next)
		}
	}
	return appendList([]byte{recordFormat}, floors, func(f Floor, b []byte) []byte {
		return appendU32(appendPresent(appendOpaque(b, f.Context), f.Application), f.Next)
	}), nil
}
