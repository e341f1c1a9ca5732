// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"maps"
	"slices"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// pathKeys are the private keys that a member holds for nodes of the tree: its own
// leaf's and those on its direct path that it learned. It is an immutable value;
// the zero value holds none. Keys are opened when first used.
type pathKeys struct {
	held map[NodeIndex]*heldKey
}

// A heldKey is shared by all values of pathKeys that hold it.
type heldKey struct {
	material core.Secret

	open      sync.Once
	key       core.SoftwareKey
	recipient core.Recipient
	err       error
}

// with returns the keys with one set or replaced.
func (k pathKeys) with(n NodeIndex, key core.SoftwareKey) pathKeys {
	held := maps.Clone(k.held)
	if held == nil {
		held = map[NodeIndex]*heldKey{}
	}
	held[n] = &heldKey{material: key.Material(), key: key}
	return pathKeys{held}
}

// drop returns the keys without those of the given nodes.
func (k pathKeys) drop(nodes ...NodeIndex) pathKeys {
	held := maps.Clone(k.held)
	for _, n := range nodes {
		delete(held, n)
	}
	return pathKeys{held}
}

// kept returns the keys of nodes that are not blank in a tree (PATH-10). It does
// not see that a key was replaced: who merges a path drops its nodes.
func (k pathKeys) kept(t *tree) pathKeys {
	held := maps.Clone(k.held)
	maps.DeleteFunc(held, func(n NodeIndex, _ *heldKey) bool { return t.isBlank(n) })
	return pathKeys{held}
}

// retired lists the secrets that next does not hold any more.
func (k pathKeys) retired(next pathKeys) (secrets []core.Secret) {
	for n, h := range k.held {
		if next.held[n] != h {
			secrets = append(secrets, h.material)
		}
	}
	return secrets
}

func (k pathKeys) holds(material core.Secret) bool {
	for _, h := range k.held {
		if h.material.Equal(material) {
			return true
		}
	}
	return false
}

// opened returns a key, ready for use, and its public key; nil if none is held.
func (k pathKeys) opened(suite core.Suite, n NodeIndex) (core.Recipient, []byte, error) {
	h := k.held[n]
	if h == nil {
		return nil, nil, nil
	}
	h.open.Do(func() {
		if h.key == nil {
			if h.key, h.err = suite.OpenKeyPair(h.material); h.err != nil {
				return
			}
		}
		h.recipient, h.err = suite.Recipient(h.key)
	})
	if h.err != nil {
		return nil, nil, h.err
	}
	return h.recipient, h.key.Public(), nil
}

// append encodes the keys in node order: node u32, material<V>. The result is secret.
func (k pathKeys) append(b []byte) []byte {
	return appendList(b, slices.Sorted(maps.Keys(k.held)), func(n NodeIndex, b []byte) []byte {
		return appendOpaque(appendU32(b, uint32(n)), k.held[n].material.Bytes())
	})
}

func readPathKeys(r *reader) pathKeys {
	held := map[NodeIndex]*heldKey{}
	r.list(func(r *reader) {
		n := NodeIndex(r.u32())
		held[n] = &heldKey{material: core.NewSecret(r.opaque()).Clone()}
	})
	return pathKeys{held}
}
