// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
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

func (c Capabilities) supportsExtension(t ExtensionType) bool {
	return t.isDefault() || slices.Contains(c.Extensions, t)
}

func (c Capabilities) supportsProposal(t ProposalType) bool {
	return t.isDefault() || slices.Contains(c.Proposals, t)
}

// checkLists is the part of LEAF-6 that is ours alone: what we make lists the
// version and the suite that it is made for.
func (c Capabilities) checkLists(suite core.SuiteID) error {
	if !slices.Contains(c.Versions, MLS10) || !slices.Contains(c.Suites, suite) {
		return breach("LEAF-6", "own version or suite %v is not in the capabilities", suite)
	}
	return nil
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
	for _, e := range n.Extensions {
		if !n.Capabilities.supportsExtension(e.Type) {
			return breach("LEAF-5", "leaf extension 0x%04X is not in its capabilities", uint16(e.Type))
		}
		switch e.Type {
		case ExtensionRatchetTree, ExtensionRequiredCapabilities, ExtensionExternalPub, ExtensionExternalSenders:
			return breach("LEAF-5", "extension 0x%04X does not belong in a leaf", uint16(e.Type))
		}
	}
	if !slices.Contains(n.Capabilities.Credentials, n.Credential.Type) {
		return breach("CRD-4", "own credential type %d is not in the capabilities", n.Credential.Type)
	}
	return nil
}

// checkFits is what a leaf must fulfil in a group with this context.
// Whether it lists the group's suite is not asked: a key package of the suite says
// it as well, and there are peers that leave some of their suites out of the list.
func (n *LeafNode) checkFits(gc *GroupContext) error {
	if !slices.Contains(n.Capabilities.Versions, gc.Version) {
		return breach("LEAF-6", "the version of the group is not in the leaf's capabilities")
	}
	required, err := gc.Extensions.requiredCapabilities()
	if err != nil {
		return err
	}
	for _, t := range required.Extensions {
		if !n.Capabilities.supportsExtension(t) {
			return breach("LEAF-7", "required extension 0x%04X is not supported", uint16(t))
		}
	}
	for _, t := range required.Proposals {
		if !n.Capabilities.supportsProposal(t) {
			return breach("LEAF-7", "required proposal type 0x%04X is not supported", uint16(t))
		}
	}
	for _, t := range required.Credentials {
		if !slices.Contains(n.Capabilities.Credentials, t) {
			return breach("LEAF-7", "required credential type %d is not supported", t)
		}
	}
	for _, e := range gc.Extensions {
		if !n.Capabilities.supportsExtension(e.Type) {
			return breach("LEAF-8", "group extension 0x%04X is not supported", uint16(e.Type))
		}
	}
	return nil
}

// checkCredentialTypes is CRD-4 over a whole group: every leaf supports every
// credential type in use. The types in use are few, so this is linear.
func checkCredentialTypes(t *tree) error {
	var used []core.CredentialType
	for _, n := range t.leaves() {
		if !slices.Contains(used, n.Credential.Type) {
			used = append(used, n.Credential.Type)
		}
	}
	for i, n := range t.leaves() {
		for _, c := range used {
			if !slices.Contains(n.Capabilities.Credentials, c) {
				return breach("CRD-4", "leaf %d does not support credential type %d, which is in use", i, c)
			}
		}
	}
	return nil
}

// sameClient reports whether two credentials name one client as far as bytes
// can tell; the Authenticator decides about successors.
func sameClient(a, b core.Credential) bool {
	if a.Type == core.CredentialBasic && b.Type == core.CredentialBasic {
		return bytes.Equal(a.Identity, b.Identity)
	}
	return bytes.Equal(MarshalCredential(a), MarshalCredential(b))
}
