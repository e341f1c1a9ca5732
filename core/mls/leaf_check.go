// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// What a leaf must be, apart from its place in the tree (RFC 9420 section 7.3).

// DefaultCapabilities lists the versions, the given suites, and both credential
// types of RFC 9420.
func DefaultCapabilities(suites []core.SuiteID) Capabilities {
	return Capabilities{
		Versions:    []ProtocolVersion{MLS10},
		Suites:      slices.Clone(suites),
		Credentials: []core.CredentialType{core.CredentialBasic, core.CredentialX509},
	}
}

// lackedExtension returns one of the types that is not supported, if there is one.
func (c Capabilities) lackedExtension(types []ExtensionType) (t ExtensionType, missing bool) {
	return firstMissing(slices.DeleteFunc(slices.Clone(types), ExtensionType.isDefault), c.Extensions)
}

// firstMissing returns the first code of need that have does not list. Both may
// be long and a peer's, so the time is linear in both (COD-9).
func firstMissing[T ~uint16](need, have []T) (code T, missing bool) {
	const few = 8
	if len(need) <= few {
		for _, n := range need {
			if !slices.Contains(have, n) {
				return n, true
			}
		}
		return 0, false
	}
	var set codeSet
	for _, h := range have {
		set.add(uint16(h))
	}
	for _, n := range need {
		if !set.has(uint16(n)) {
			return n, true
		}
	}
	return 0, false
}

// A codeSet has a bit for every code point, 8 KiB in all.
type codeSet [1 << 10]uint64

func (s *codeSet) add(code uint16)      { s[code>>6] |= 1 << (code & 63) }
func (s *codeSet) has(code uint16) bool { return s[code>>6]&(1<<(code&63)) != 0 }

// checkMade is what a leaf of our own must be, so that nobody is sent one to refuse.
// LEAF-6 asks more of it than of a received one: it lists the version and the suite
// that it is made for, and no default types. Peers are known that list those, and
// some of their suites not; that does no harm, so it is not held against them unless
// the Env is strict.
func (n *LeafNode) checkMade(suite core.Suite, source LeafNodeSource) error {
	c := n.Capabilities
	if !slices.Contains(c.Versions, MLS10) || !slices.Contains(c.Suites, suite.ID()) {
		return breach("LEAF-6", "own version or suite %v is not in the capabilities", suite.ID())
	}
	if err := c.checkNoDefaults(); err != nil {
		return err
	}
	return n.checkSelf(suite, source)
}

func (c Capabilities) checkNoDefaults() error {
	if slices.ContainsFunc(c.Extensions, ExtensionType.isDefault) || slices.ContainsFunc(c.Proposals, ProposalType.isDefault) {
		return breach("LEAF-6", "default types do not belong in capabilities")
	}
	return nil
}

// checkListed judges what a received leaf lists, if the Env is strict about it.
func (e *Env) checkListed(n *LeafNode) error {
	if !e.StrictCapabilities {
		return nil
	}
	return n.Capabilities.checkNoDefaults()
}

// checkSelf is what a leaf must fulfil whatever the group: keys valid, own
// credential and extensions covered by its own capabilities.
func (n *LeafNode) checkSelf(suite core.Suite, source LeafNodeSource) error {
	if n.Source != source {
		return breach("LEAF-2", "leaf source %d where %d belongs", n.Source, source)
	}
	return n.checkContent(suite)
}

func (n *LeafNode) checkContent(suite core.Suite) error {
	if err := suite.ValidatePublic(n.EncryptionKey); err != nil {
		return breach("CS-2", "leaf encryption key: %v", err)
	}
	if err := suite.ValidateSignaturePublic(n.SignatureKey); err != nil {
		return breach("CS-2", "leaf signature key: %v", err)
	}
	if err := n.Extensions.checkUnique(); err != nil {
		return err
	}
	if t, missing := n.Capabilities.lackedExtension(n.Extensions.types()); missing {
		return breach("LEAF-5", "leaf extension 0x%04X is not in its capabilities", uint16(t))
	}
	for _, e := range n.Extensions {
		switch e.Type {
		case ExtensionRatchetTree, ExtensionRequiredCapabilities, ExtensionExternalPub, ExtensionExternalSenders, ExtensionLastResort:
			return breach("LEAF-5", "extension 0x%04X does not belong in a leaf", uint16(e.Type))
		case ExtensionApplicationID: // it is for the application, but it is an opaque<V> (COD-5)
			if _, err := decode("application_id", e.Data, (*reader).opaque); err != nil {
				return err
			}
		}
	}
	if !slices.Contains(n.Capabilities.Credentials, n.Credential.Type) {
		return breach("CRD-4", "own credential type %d is not in the capabilities", n.Credential.Type)
	}
	return nil
}

// groupNeeds is what a GroupContext asks of a leaf: read once, however many leaves
// there are, each code once, however often it is listed (TREE-15).
type groupNeeds struct {
	version     ProtocolVersion
	present     []ExtensionType // of the group
	extensions  []ExtensionType // required ones
	proposals   []ProposalType
	credentials []core.CredentialType
}

func (gc *GroupContext) needs() (groupNeeds, error) {
	required, err := gc.Extensions.requiredCapabilities()
	if err != nil {
		return groupNeeds{}, err
	}
	return groupNeeds{
		version:     gc.Version,
		present:     distinct(gc.Extensions.types(), ExtensionType.isDefault),
		extensions:  distinct(required.Extensions, ExtensionType.isDefault),
		proposals:   distinct(required.Proposals, ProposalType.isDefault),
		credentials: distinct(required.Credentials, func(core.CredentialType) bool { return false }),
	}, nil
}

// distinct returns the codes that are not left out, in order.
func distinct[T ~uint16](codes []T, leaveOut func(T) bool) []T {
	codes = slices.DeleteFunc(slices.Clone(codes), leaveOut)
	slices.Sort(codes)
	return slices.Compact(codes)
}

// checkFits is what a leaf must fulfil in a group with this context. What else its
// capabilities list is ignored (LEAF-10).
func (n *LeafNode) checkFits(gc *GroupContext) error {
	needs, err := gc.needs()
	if err != nil {
		return err
	}
	return n.meets(needs)
}

// meets is checkFits for one of many leaves.
// Whether it lists the group's suite is not asked: a key package of the suite says
// it as well, and there are peers that leave some of their suites out of the list.
func (n *LeafNode) meets(needs groupNeeds) error {
	if !slices.Contains(n.Capabilities.Versions, needs.version) {
		return breach("LEAF-6", "the version of the group is not in the leaf's capabilities")
	}
	if t, missing := firstMissing(needs.extensions, n.Capabilities.Extensions); missing {
		return breach("LEAF-7", "required extension 0x%04X is not supported", uint16(t))
	}
	if t, missing := firstMissing(needs.proposals, n.Capabilities.Proposals); missing {
		return breach("LEAF-7", "required proposal type 0x%04X is not supported", uint16(t))
	}
	if t, missing := firstMissing(needs.credentials, n.Capabilities.Credentials); missing {
		return breach("LEAF-7", "required credential type %d is not supported", t)
	}
	if t, missing := firstMissing(needs.present, n.Capabilities.Extensions); missing {
		return breach("LEAF-8", "group extension 0x%04X is not supported", uint16(t))
	}
	return nil
}

// checkCredentialTypes is CRD-4 over a whole group: every leaf supports every
// credential type in use.
func checkCredentialTypes(t *tree) error {
	var used []core.CredentialType
	var known codeSet
	for _, n := range t.leaves() {
		if code := uint16(n.Credential.Type); !known.has(code) {
			known.add(code)
			used = append(used, n.Credential.Type)
		}
	}
	for i, n := range t.leaves() {
		if c, missing := firstMissing(used, n.Capabilities.Credentials); missing {
			return breach("CRD-4", "leaf %d does not support credential type %d, which is in use", i, c)
		}
	}
	return nil
}
