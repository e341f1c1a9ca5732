// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core/mls"
)

// COD-9, LEAF-11: which types of proposals a commit has is found out in linear time. Who
// is removed looks at none of them before, so that anybody can write down very many.
func TestManyCustomTypes(t *testing.T) {
	t.Parallel()
	alice, _, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	var list []mls.ProposalOrRef
	for i := range 100_000 {
		list = append(list, mls.ProposalOrRef{Proposal: &mls.Custom{ProposalType: mls.ProposalType(min(8+i, 60_000))}})
	}
	list = append(list, mls.ProposalOrRef{Proposal: &mls.Remove{Removed: alice.g().OwnLeaf()}})
	message := mallory.forgeCommit(nil, list...)
	start := time.Now()
	if _, err := alice.process(message); !isRule(err, "LEAF-11") {
		t.Error(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("a commit of %d bytes took %v", len(message), took)
	}
}
