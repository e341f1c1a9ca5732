// SPDX-License-Identifier: Apache-2.0

package e2ei_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/pure"
)

func ExampleClientID() {
	id, err := e2ei.ParseClientIDURI("wireapp://SvPfLlwBQi-6oddVRrkqpw%214c7@example.com")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id)
	fmt.Println(id.Qualified())
	fmt.Println(id.URI())
	// Output:
	// 4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com
	// SvPfLlwBQi-6oddVRrkqpw:4c7@example.com
	// wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@example.com
}

// The first steps of an enrolment. A program would send each request and hand over what
// comes back, with the nonce of the last reply.
func ExampleNew() {
	key, err := pure.New().GenerateKey(context.Background(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	if err != nil {
		log.Fatal(err)
	}
	e, err := e2ei.New(e2ei.Config{
		ClientID:    e2ei.ClientID{User: [16]byte{1}, Device: 0x4c7, Domain: "example.com"},
		DisplayName: "Alice Smith", Handle: "alice_wire", Validity: 90 * 24 * time.Hour,
		Algorithm: key.Algorithm(), PublicKey: key.Public(), KeyRef: key.Ref(),
		Directory: "https://ca.example.com/acme/wire/directory",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer e.Wipe()
	fmt.Println("first:", e.Next())
	err = e.DirectoryResponse([]byte(`{"newNonce": "https://ca.example.com/acme/wire/new-nonce",
		"newAccount": "https://ca.example.com/acme/wire/new-account",
		"newOrder": "https://ca.example.com/acme/wire/new-order",
		"revokeCert": "https://ca.example.com/acme/wire/revoke-cert"}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("then:", e.Next())
	request, err := e.NewAccountRequest("bm9uY2U")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("POST", request.URL)
	_, err = e.NewOrderRequest(time.Now(), "bm9uY2U")
	fmt.Println(err)
	// Output:
	// first: directory
	// then: new account
	// POST https://ca.example.com/acme/wire/new-account
	// e2ei: out of order: invalid: new order needs new account first
}
