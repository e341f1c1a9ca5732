// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
)

// PRP-3: a group that has one client twice, made by somebody who does not keep the
// rules, is not entered: whoever then removes that client removes one leaf of it, and
// the other reads on.
func TestGroupWithOneClientTwice(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]*member{
		"the same name": newMember(t, 1, "mallory", mls.DefaultConfig),
		"a certificate": certified(t, "mallory", "mallory/2"),
	} {
		mallory, bob, zoe := newMember(t, 1, "mallory", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig), newMember(t, 1, "zoe", mls.DefaultConfig)
		mallory.create("group", nil)
		_, pending, _, err := mls.ForgeCommit(t.Context(), mallory.env(), mallory.g(), addsOf(second, bob))
		if err != nil {
			t.Fatal(err)
		}
		b, err := pending.Bundle(t.Context(), mallory.env(), mallory.g())
		if err != nil {
			t.Fatal(err)
		}
		if err := bob.join(b.Welcome); !isRule(err, "PRP-3") || len(bob.stored) > 0 {
			t.Errorf("%s: by Welcome: %v", name, err)
		}
		if _, err := zoe.joinExternal(b.GroupInfo); !isRule(err, "PRP-3") {
			t.Errorf("%s: by external commit: %v", name, err)
		}
		if _, err := mls.Observe(bob.env(), parseInfo(t, b.GroupInfo), nil); !isRule(err, "PRP-3") {
			t.Errorf("%s: by looking on: %v", name, err)
		}
	}
}
