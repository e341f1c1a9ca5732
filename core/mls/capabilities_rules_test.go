// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// TREE-15, COD-9, openmls#2224: what all members support is compared with what all
// use in one pass over them, however many they are and whatever they list.
func TestCredentialTypesOfManyMembers(t *testing.T) {
	t.Parallel()
	const n = 30_000
	tree := newTree(testSuite(t, 1)).edit()
	var all []core.CredentialType
	for i := range 20 {
		all = append(all, core.CredentialType(0xF000+i))
	}
	for i := range n {
		leaf := wideLeaf(i)
		leaf.Credential = core.Credential{Type: all[i%len(all)]}
		leaf.Capabilities.Credentials = all
		tree.addLeaf(leaf)
	}
	start := time.Now()
	if err := checkCredentialTypes(tree); err != nil {
		t.Error(err)
	}
	// Each with each would be 900 million comparisons.
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	last := wideLeaf(n)
	last.Credential, last.Capabilities.Credentials = core.Credential{Type: all[0]}, all[1:]
	tree.addLeaf(last)
	wantRule(t, "the last one lacks one", "CRD-4", checkCredentialTypes(tree))
}
