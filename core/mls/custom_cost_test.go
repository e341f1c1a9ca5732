// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"math"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core/mls"
)

// COD-9, LEAF-11: which types of proposals a commit has is found out in linear time. Who
// is removed looks at none of them before, so that anybody can write down very many.
func TestManyCustomTypes(t *testing.T) {
	alice, _, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	fastest := func(types int) time.Duration {
		var list []mls.ProposalOrRef
		for i := range types {
			list = append(list, mls.ProposalOrRef{Proposal: &mls.Custom{ProposalType: mls.ProposalType(min(8+i, 60_000))}})
		}
		list = append(list, mls.ProposalOrRef{Proposal: &mls.Remove{Removed: alice.g().OwnLeaf()}})
		message := mallory.forgeCommit(nil, list...)
		least := time.Duration(math.MaxInt64)
		for range 5 {
			start := time.Now()
			if _, err := alice.process(message); !isRule(err, "LEAF-11") {
				t.Error(err)
			}
			least = min(least, time.Since(start))
		}
		return least
	}
	few, many := fastest(10_000), fastest(80_000)
	if many > 24*few { // 8 times as many; the square of that is 64
		t.Errorf("10000 types take %v, 80000 take %v", few, many)
	}
}
