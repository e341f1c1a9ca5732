// SPDX-License-Identifier: Apache-2.0

package mls

import "slices"

// GREASE (RFC 9420 section 13.5): values that mean nothing, sent so that peers who
// choke on what they do not know are noticed. On receipt they are as unknown as any
// other value; only what our own leaf lists of them is never taken for support.

// isGrease reports whether a code point is 0x0A0A, 0x1A1A, ... 0xEAEA.
func isGrease[T ~uint16](code T) bool {
	return code&0x0F0F == 0x0A0A && code>>8 == code&0xFF && code != 0xFAFA
}

// greaseKinds is how many such values there are.
const greaseKinds = 15

// newGrease draws one that the list does not have yet; false if it has them all.
func newGrease[T ~uint16](list []T) (T, bool) {
	first := int(randomBytes(1)[0])
	for i := range greaseKinds {
		code := T(0x0A0A + 0x1010*((first+i)%greaseKinds))
		if !slices.Contains(list, code) {
			return code, true
		}
	}
	return 0, false
}

// withGrease returns the list with one more value, at any place.
func withGrease[T ~uint16](list []T) []T {
	code, ok := newGrease(list)
	if !ok {
		return list
	}
	return slices.Insert(slices.Clone(list), int(randomBytes(1)[0])%(len(list)+1), code)
}

func withoutGrease[T ~uint16](list []T) []T {
	return slices.DeleteFunc(slices.Clone(list), isGrease[T])
}

// withGrease returns the list with one more extension of up to 15 bytes.
func (l Extensions) withGrease() Extensions {
	code, ok := newGrease(l.types())
	if !ok {
		return l
	}
	random := randomBytes(17)
	e := Extension{Type: code, Data: random[2 : 2+random[0]%16]}
	return slices.Insert(slices.Clone(l), int(random[1])%(len(l)+1), e)
}

func (l Extensions) withoutGrease() Extensions {
	return slices.DeleteFunc(slices.Clone(l), func(e Extension) bool { return isGrease(e.Type) })
}

// withoutGrease is what our own capabilities are in every comparison (GRE-3), and
// what a new leaf of ours begins from, so that the values do not pile up.
func (c Capabilities) withoutGrease() Capabilities {
	return Capabilities{
		Versions:    c.Versions,
		Suites:      withoutGrease(c.Suites),
		Extensions:  withoutGrease(c.Extensions),
		Proposals:   withoutGrease(c.Proposals),
		Credentials: withoutGrease(c.Credentials),
	}
}

// withoutGrease is a leaf of our own for comparing; its signature is of the other.
func (n *LeafNode) withoutGrease() *LeafNode {
	leaf := *n
	leaf.Capabilities, leaf.Extensions = n.Capabilities.withoutGrease(), n.Extensions.withoutGrease()
	return &leaf
}

// grease adds values to a leaf that is to be signed: one in each list of its
// capabilities, and an extension, which is listed too (GRE-1). Versions and the
// type of the credential are never touched (GRE-2).
func (n *LeafNode) grease() {
	c := n.Capabilities
	n.Extensions = n.Extensions.withGrease()
	n.Capabilities = Capabilities{
		Versions:    c.Versions,
		Suites:      withGrease(c.Suites),
		Extensions:  listed(c.Extensions, n.Extensions),
		Proposals:   withGrease(c.Proposals),
		Credentials: withGrease(c.Credentials),
	}
}

// grease adds an extension to a key package that is to be signed; its leaf lists
// it (KP-9).
func (k *KeyPackage) grease() {
	k.LeafNode.grease()
	k.Extensions = k.Extensions.withGrease()
	k.LeafNode.Capabilities.Extensions = listed(k.LeafNode.Capabilities.Extensions, k.Extensions)
}

// listed returns the types with those that the list of extensions has beyond them.
func listed(types []ExtensionType, l Extensions) []ExtensionType {
	types = slices.Clip(types)
	for _, e := range l {
		if isGrease(e.Type) && !slices.Contains(types, e.Type) {
			types = append(types, e.Type)
		}
	}
	return types
}

// checkOwn is GRE-3 for our leaf in a tree that is about to be ours: what it lists
// as GREASE is no support for the group's extensions, for what the group requires
// or for the credential of somebody else.
func checkOwn(t *tree, gc *GroupContext, own LeafIndex) error {
	leaf := t.leaf(own)
	if leaf == nil {
		return nil // we are being removed, or only look on
	}
	leaf = leaf.withoutGrease()
	if err := leaf.checkFits(gc); err != nil {
		return err
	}
	for i, n := range t.leaves() {
		if !slices.Contains(leaf.Capabilities.Credentials, n.Credential.Type) {
			return breach("CRD-4", "we do not support credential type %d of leaf %d", n.Credential.Type, i)
		}
	}
	return nil
}

// greaseOf is the GREASE of a new GroupInfo.
func greaseOf(env *Env) Extensions {
	if !env.Grease {
		return nil
	}
	return Extensions{}.withGrease()
}
