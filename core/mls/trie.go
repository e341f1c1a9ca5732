// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"iter"
	"math/bits"
)

// A trie is an immutable map from uint32. A change copies the path to the key
// and shares the rest, so that two values of a group that differ in one ratchet
// cost one path more than one value does. The zero trie is empty.
type trie[V any] struct {
	root  *trieNode[V]
	depth int // levels of four bits; keys beyond are absent
}

// A trieNode holds the children that exist, in order, and at the last level a value.
type trieNode[V any] struct {
	present  uint16
	children []*trieNode[V]
	value    V
}

// child tells where the child of a digit is, or would be.
func (n *trieNode[V]) child(digit uint32) (at int, ok bool) {
	bit := uint16(1) << digit
	return bits.OnesCount16(n.present & (bit - 1)), n.present&bit != 0
}

func (t trie[V]) holds(key uint32) bool { return t.root != nil && uint64(key) < 1<<(4*t.depth) }

// Get returns the value of a key.
func (t trie[V]) Get(key uint32) (value V, ok bool) {
	if !t.holds(key) {
		return value, false
	}
	n := t.root
	for level := t.depth - 1; level >= 0; level-- {
		at, ok := n.child(key >> (4 * level) & 15)
		if !ok {
			return value, false
		}
		n = n.children[at]
	}
	return n.value, true
}

// With returns a trie in which the key has the value.
func (t trie[V]) With(key uint32, value V) trie[V] {
	if t.root == nil {
		t = trie[V]{root: &trieNode[V]{}, depth: (bits.Len32(key|1) + 3) / 4}
	}
	for uint64(key) >= 1<<(4*t.depth) {
		t = trie[V]{root: &trieNode[V]{present: 1, children: []*trieNode[V]{t.root}}, depth: t.depth + 1}
	}
	t.root = t.root.with(t.depth, key, value)
	return t
}

func (n *trieNode[V]) with(level int, key uint32, value V) *trieNode[V] {
	if level == 0 {
		return &trieNode[V]{value: value}
	}
	level--
	digit := key >> (4 * level) & 15
	at, ok := n.child(digit)
	size, skip := len(n.children)+1, at
	old := &trieNode[V]{}
	if ok {
		size, skip, old = len(n.children), at+1, n.children[at]
	}
	next := &trieNode[V]{present: n.present | 1<<digit, children: make([]*trieNode[V], size)}
	copy(next.children, n.children[:at])
	next.children[at] = old.with(level, key, value)
	copy(next.children[at+1:], n.children[skip:])
	return next
}

// Without returns a trie that lacks the key.
func (t trie[V]) Without(key uint32) trie[V] {
	if _, ok := t.Get(key); !ok {
		return t
	}
	if t.root = t.root.without(t.depth, key); t.root == nil {
		return trie[V]{}
	}
	return t
}

// without requires that the key is there; it returns nil for a node that would be empty.
func (n *trieNode[V]) without(level int, key uint32) *trieNode[V] {
	if level == 0 {
		return nil
	}
	level--
	digit := key >> (4 * level) & 15
	at, _ := n.child(digit)
	child := n.children[at].without(level, key)
	if child == nil && len(n.children) == 1 {
		return nil
	}
	next := &trieNode[V]{present: n.present}
	next.children = append(next.children, n.children[:at]...)
	if child != nil {
		next.children = append(next.children, child)
	} else {
		next.present &^= 1 << digit
	}
	next.children = append(next.children, n.children[at+1:]...)
	return next
}

// All yields all keys, ascending, and their values.
func (t trie[V]) All() iter.Seq2[uint32, V] {
	return func(yield func(uint32, V) bool) {
		if t.root != nil {
			t.root.all(t.depth, 0, yield)
		}
	}
}

func (n *trieNode[V]) all(level int, prefix uint32, yield func(uint32, V) bool) bool {
	if level == 0 {
		return yield(prefix, n.value)
	}
	for digit := range uint32(16) {
		if at, ok := n.child(digit); ok && !n.children[at].all(level-1, prefix<<4|digit, yield) {
			return false
		}
	}
	return true
}
