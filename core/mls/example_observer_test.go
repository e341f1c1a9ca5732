// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

// A server follows a group without being in it, and proposes to remove a member: the
// group names it as an external sender.
func ExampleObserver() {
	const suite = core.SuiteX25519AES128Ed25519
	ctx := context.Background()
	alice, bob, server := newPerson("alice"), newPerson("bob"), newPerson("server")
	hers := alice.create(suite, "garden", mls.ExternalSendersExtension([]mls.ExternalSender{
		{SignatureKey: server.key.Public(), Credential: core.BasicCredential("server")},
	}))
	hers, sent := alice.commit(hers, &mls.Add{KeyPackage: bob.keyPackage(suite).KeyPackage})

	// The GroupInfo comes with each commit. No key of any kind is needed to observe.
	env := &mls.Env{Suites: pure.New(), Auth: trusting{}}
	m, err := mls.UnmarshalMLSMessage(sent.GroupInfo)
	check(err)
	seen, err := mls.Observe(env, m.GroupInfo, nil)
	check(err)
	for _, member := range seen.Members() {
		fmt.Printf("epoch %d, leaf %d: %s\n", seen.Epoch(), member.Leaf, member.Credential.Identity)
	}

	proposal, err := mls.ProposeExternal(ctx, env, mls.ExternalProposalParams{
		Suite: seen.Suite(), GroupID: seen.GroupID(), Epoch: seen.Epoch(),
		Sender: mls.Sender{Type: mls.SenderExternal, Index: 0}, // the first external sender
		Signer: server.key, Proposal: &mls.Remove{Removed: 1},
	})
	check(err)
	hers, _ = alice.process(hers, proposal) // it waits in her group
	_, sent = alice.commit(hers)            // and is in her next commit

	// The commit names the proposal by its hash: the Observer needs both.
	for _, message := range [][]byte{proposal, sent.Commit} {
		m, err := mls.UnmarshalMLSMessage(message)
		check(err)
		var processed mls.Processed
		seen, processed, err = seen.Process(ctx, env, m)
		check(err)
		if commit, ok := processed.(*mls.ReceivedCommit); ok {
			fmt.Printf("epoch %d: %s removed %s\n", seen.Epoch(),
				commit.Committer.Credential.Identity, commit.Removed[0].Credential.Identity)
		}
	}
	// Output:
	// epoch 1, leaf 0: alice
	// epoch 1, leaf 1: bob
	// epoch 2: alice removed bob
}
