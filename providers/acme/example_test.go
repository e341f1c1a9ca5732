// SPDX-License-Identifier: Apache-2.0

package acme_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/acme"
)

// An application is what has to answer: most of it is the user's session at the backend.
type application struct{ key core.Signer }

// enrol goes from need to need. A client stores each step before it goes on; see
// core/client, which has this loop.
func (a application) enrol(ctx context.Context, issuer core.CredentialIssuer, req core.IssueRequest) (*core.Issued, error) {
	step, err := issuer.Begin(ctx, req)
	for err == nil {
		var in core.Input
		switch need := step.Need; {
		case need.Done != nil:
			return need.Done, nil
		case need.Refused != nil:
			return nil, errors.New(need.Refused.Reason)
		case need.Sign != nil:
			in.Signature, err = a.key.Sign(ctx, need.Sign.Message)
		case need.Wait != nil:
			time.Sleep(need.Wait.After)
		case need.Visit != nil:
			in.RedirectQuery, err = a.browse(ctx, need.Visit.URL)
		case need.Call.Kind == "wire.nonce":
			in.Result, err = a.nonce(ctx, need.Call.Args["device"])
		case need.Call.Kind == "wire.access-token":
			in.Result, err = a.accessToken(ctx, need.Call.Args["target"], need.Call.Args["proof"])
		}
		if err == nil {
			step, err = issuer.Advance(ctx, step.State, in)
		}
	}
	return nil, err
}

// browse shows a login page, and waits for the redirect to Config.RedirectURI.
func (application) browse(_ context.Context, _ string) (query string, err error) {
	return "", core.ErrUnsupported
}

// nonce is HEAD of /clients/DEVICE/nonce: the header Replay-Nonce.
func (application) nonce(_ context.Context, _ string) ([]byte, error) {
	return nil, core.ErrUnsupported
}

// accessToken is POST to the target with the header DPoP: "token" of the reply.
func (application) accessToken(_ context.Context, _, _ string) ([]byte, error) {
	return nil, core.ErrUnsupported
}

func Example() {
	issuer, err := acme.New(acme.Config{
		Directory:   "https://ca.example.com/acme/wire/directory",
		RedirectURI: "http://127.0.0.1:8765/",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer issuer.Close()
	_ = application.enrol // with it as the issuer

	_, err = issuer.Begin(context.Background(), core.IssueRequest{
		Action: core.ActionIssue, ClientID: "alice/laptop", Algorithm: core.Ed25519,
	})
	fmt.Println(err)
	// Output: acme: begin: e2ei: invalid client id: invalid: "alice/laptop"
}
