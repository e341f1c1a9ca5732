// SPDX-License-Identifier: Apache-2.0

package basic_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/basic"
)

func TestIssuer(t *testing.T) {
	coretest.TestCredentialIssuer(t, func(*testing.T) core.CredentialIssuer { return basic.New() })
}

func TestRenewalOfAnotherClient(t *testing.T) {
	for name, previous := range map[string]core.Credential{
		"none":           {},
		"another client": core.BasicCredential("bob"),
		"another type":   {Type: core.CredentialX509, Identity: []byte("alice")},
	} {
		_, err := basic.New().Begin(t.Context(), core.IssueRequest{
			Action: core.ActionRenew, ClientID: "alice", Algorithm: core.Ed25519, Previous: previous,
		})
		if !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func Example() {
	step, err := basic.New().Begin(context.Background(), core.IssueRequest{
		Action:    core.ActionIssue,
		ClientID:  "alice/laptop",
		Algorithm: core.Ed25519,
		PublicKey: make([]byte, 32),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", step.Need.Done.Credential.Identity)
	// Output: alice/laptop
}
