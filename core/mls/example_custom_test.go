// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A proposal of the application's own: a topic, of which each member says in its
// capabilities and in its Env that it knows the type.
func ExampleCustomProposal() {
	const (
		suite = core.SuiteX25519AES128Ed25519
		topic = mls.ProposalType(0xf001) // private use
	)
	alice, bob := newPerson("alice"), newPerson("bob")
	for _, p := range []*person{alice, bob} {
		p.able.Proposals = append(p.able.Proposals, topic)
		p.env.Custom = map[mls.ProposalType]mls.CustomProposal{topic: {
			Validate: func(c *mls.Custom, _ mls.Sender) error {
				if len(c.Body) == 0 {
					return fmt.Errorf("an empty topic: %w", core.ErrInvalid)
				}
				return nil
			},
		}}
	}
	bundle := bob.keyPackage(suite)
	hers, sent := alice.commit(alice.create(suite, "garden"), &mls.Add{KeyPackage: bundle.KeyPackage})
	his, _ := bob.join(sent.Welcome, bundle, nil)

	_, _, _, err := hers.Commit(context.Background(), alice.env, mls.CommitParams{
		Proposals: []mls.Proposal{&mls.Custom{ProposalType: topic}},
	})
	fmt.Println("refused:", err)
	_, sent = alice.commit(hers, &mls.Custom{ProposalType: topic, Body: []byte("roses")})
	_, processed := bob.process(his, sent.Commit)
	for _, p := range processed.(*mls.ReceivedCommit).Proposals {
		if c, ok := p.Proposal.(*mls.Custom); ok {
			fmt.Printf("the topic is %s\n", c.Body)
		}
	}
	// Output:
	// refused: mls: proposal of type 0xF001: denied: an empty topic: invalid
	// the topic is roses
}
