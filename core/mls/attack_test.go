// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
)

// threesome is a group of alice, bob and mallory.
func threesome(t *testing.T, config mls.Config, extensions mls.Extensions) (alice, bob, mallory *member, all party) {
	t.Helper()
	alice, bob, mallory = newMember(t, 1, "alice", config), newMember(t, 1, "bob", config), newMember(t, 1, "mallory", config)
	alice.create("group", extensions)
	all = party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{
		&mls.Add{KeyPackage: bob.keyPackage()}, &mls.Add{KeyPackage: mallory.keyPackage()},
	}}, bob, mallory)
	return alice, bob, mallory, all
}

// FS-7: a message of the epoch before a commit opens after it, however the commit
// came: what the commit used up of the epoch's secrets must not be missing.
func TestLateMessageAfterCommit(t *testing.T) {
	t.Parallel()
	for _, handshake := range []mls.HandshakePolicy{mls.HandshakePublic, mls.HandshakePrivate} {
		for _, reload := range []bool{true, false} {
			t.Run(fmt.Sprintf("handshake %d reload %v", handshake, reload), func(t *testing.T) {
				t.Parallel()
				config := mls.DefaultConfig
				config.Handshake = handshake
				alice, bob, mallory, all := threesome(t, config, nil)
				for _, m := range all {
					m.reload = reload
				}
				all = all.commitAll(t, bob, mls.CommitParams{ForcePath: true}) // an epoch that begins in memory
				var late [][]byte
				for _, m := range []*member{alice, mallory} {
					message, err := m.send("late")
					if err != nil {
						t.Fatal(err)
					}
					late = append(late, message)
				}
				all.commitAll(t, alice, mls.CommitParams{ForcePath: true})
				for _, message := range late {
					if _, err := bob.process(message); err != nil {
						t.Errorf("late message: %v", err)
					}
					if _, err := bob.process(message); !errors.Is(err, mls.ErrDuplicateMessage) {
						t.Errorf("late message again: %v", err)
					}
				}
			})
		}
	}
}
