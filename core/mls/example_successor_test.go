// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A group moves to another cipher suite: a commit with a ReInit ends it, then one
// member makes the group that follows and the others join that by its Welcome.
func ExampleGroup_Reinitialize() {
	const before, after = core.SuiteX25519AES128Ed25519, core.SuiteX25519ChaChaEd25519
	alice, bob := newPerson("alice"), newPerson("bob")
	bundle := bob.keyPackage(before)
	hers, sent := alice.commit(alice.create(before, "garden"), &mls.Add{KeyPackage: bundle.KeyPackage})
	his, _ := bob.join(sent.Welcome, bundle, nil)

	hers, sent = alice.commit(hers, &mls.ReInit{GroupID: []byte("garden 2"), Version: mls.MLS10, Suite: after})
	his, _ = bob.process(his, sent.Commit)
	fmt.Println("still active:", hers.Active(), his.Active())

	// Key packages are of the new suite. A signature key may stay if the suite can use it.
	bundle = bob.keyPackage(after)
	next, pending, _, err := hers.Reinitialize(context.Background(), alice.env, mls.SuccessorParams{
		KeyPackages: []*mls.KeyPackage{bundle.KeyPackage},
		Signer:      alice.key, Credential: core.BasicCredential("alice"), Capabilities: alice.able,
		Lifetime: alice.lifetime(), Config: mls.DefaultConfig,
	})
	check(err)
	next, sent = alice.merge(next, pending)
	his, joined := bob.join(sent.Welcome, bundle, his)
	fmt.Println("it follows by the ReInit:", joined.Follows.Usage == mls.ResumptionReInit)
	fmt.Printf("%s, epoch %d, suite %d\n", his.GroupID(), his.Epoch(), his.Suite())
	fmt.Println("the same state:", bytes.Equal(next.EpochAuthenticator(), his.EpochAuthenticator()))
	// Output:
	// still active: false false
	// it follows by the ReInit: true
	// garden 2, epoch 1, suite 3
	// the same state: true
}

// Alice takes Bob aside: the branch has the group's suite and some of its members,
// and the group goes on.
func ExampleGroup_Branch() {
	const suite = core.SuiteX25519AES128Ed25519
	alice, bob, carol := newPerson("alice"), newPerson("bob"), newPerson("carol")
	bundle := bob.keyPackage(suite)
	hers, sent := alice.commit(alice.create(suite, "garden"),
		&mls.Add{KeyPackage: bundle.KeyPackage}, &mls.Add{KeyPackage: carol.keyPackage(suite).KeyPackage})
	his, _ := bob.join(sent.Welcome, bundle, nil)

	bundle = bob.keyPackage(suite)
	aside, pending, _, err := hers.Branch(context.Background(), alice.env, mls.SuccessorParams{
		GroupID: []byte("shed"), KeyPackages: []*mls.KeyPackage{bundle.KeyPackage},
		Signer: alice.key, Credential: core.BasicCredential("alice"), Capabilities: alice.able,
		Lifetime: alice.lifetime(), Config: mls.DefaultConfig,
	})
	check(err)
	_, sent = alice.merge(aside, pending)
	branch, joined := bob.join(sent.Welcome, bundle, his)
	follows := joined.Follows // nobody who is no longer in the group can have made it
	fmt.Println("it branches off now:", follows.Usage == mls.ResumptionBranch && follows.Epoch == his.Epoch())
	for _, g := range []*mls.Group{his, branch} {
		members, err := g.Members(context.Background(), bob.env)
		check(err)
		fmt.Printf("%s has %d members\n", g.GroupID(), len(members))
	}
	// Output:
	// it branches off now: true
	// garden has 3 members
	// shed has 2 members
}
