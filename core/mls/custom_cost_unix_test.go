// SPDX-License-Identifier: Apache-2.0

//go:build unix

package mls_test

import (
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core/mls"
)

// COD-9, LEAF-11: which types of proposals a commit has is found out in linear time. Who
// is removed looks at none of them before, so that anybody can write down very many.
//
// Not beside other tests: what is compared is the time that the process has worked, which
// a busy machine does not change much.
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
			before := worked(t)
			if _, err := alice.process(message); !isRule(err, "LEAF-11") {
				t.Error(err)
			}
			least = min(least, worked(t)-before)
		}
		return least
	}
	few, many := fastest(10_000), fastest(160_000)
	if many > 100*few { // 16 times as many; the square of that is 256
		t.Errorf("10000 types take %v, 160000 take %v", few, many)
	}
}

func worked(t *testing.T) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
