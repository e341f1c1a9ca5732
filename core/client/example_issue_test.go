// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/providers/basic"
)

// An issuer vouches for a signature key. What is open after a crash, or because somebody has
// to log in first, is found and goes on.
func ExampleClient_Issue() {
	ctx := context.Background()
	alice := alone(ctx, "alice", client.Config{})
	check(alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.BeginIssue(ctx, client.IssueParams{Issuer: "basic", Handle: "alice_1", DisplayName: "Alice"})
		return err
	}))

	answer := func(_ context.Context, need core.Need) (core.Input, error) {
		if need.Visit != nil {
			fmt.Println("open", need.Visit.URL)
		}
		return core.Input{}, errors.New("nobody is here") // Issue gives it back, and the issue stays open
	}
	open, err := alice.OpenIssues(ctx)
	check(err)
	for _, o := range open {
		done, err := alice.Issue(ctx, o.Handle, basic.New(), answer) // an issuer that needs nothing
		check(err)
		fmt.Println("issued by", o.Issuer+":", string(done.Credential.Credential.Identity), done.Credential.Ref)
	}
	open, err = alice.OpenIssues(ctx)
	check(err)
	fmt.Println(len(open), "are open")
	// Output:
	// issued by basic: alice 2
	// 0 are open
}
