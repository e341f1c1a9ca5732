// SPDX-License-Identifier: Apache-2.0

package mls

import "time"

// Lifetimes bind who makes a leaf and who proposes or commits an Add. Members whose
// clocks differ must not part over them, and a leaf may stay in the tree for longer:
// whoever only receives is lenient unless the Env is strict (LEAF-9, RFC 9420
// section 7.3).

// check refuses a lifetime that does not contain the time, unless that is zero, or
// whose range is longer than a maximum, unless that is zero.
func (l Lifetime) check(now time.Time, longest time.Duration) error {
	if !now.IsZero() && !l.Contains(now) {
		return breach("LEAF-9", "the lifetime has ended or has not begun")
	}
	if longest > 0 && l.NotBefore <= l.NotAfter && l.NotAfter-l.NotBefore > uint64(longest/time.Second) {
		return breach("LEAF-9", "a lifetime of %d seconds is too long", l.NotAfter-l.NotBefore)
	}
	return nil
}

// checkLifetime judges a leaf of source key_package; others have no lifetime.
func (e *Env) checkLifetime(n *LeafNode) error {
	if n.Source != LeafKeyPackage {
		return nil
	}
	return n.Lifetime.check(e.Now, e.MaxLifetime)
}
