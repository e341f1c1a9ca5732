// SPDX-License-Identifier: Apache-2.0

package pure_test

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/pure"
)

// A signature key lives on in what its owner stores: reference and material.
func Example() {
	ctx, provider := context.Background(), pure.New()
	key, err := provider.GenerateKey(ctx, core.KeySpec{ID: [16]byte{1}, Algorithm: core.Ed25519, Use: core.UseSign})
	if err != nil {
		fmt.Println(err)
		return
	}
	ref, material := key.Ref(), key.(core.SoftwareKey).Material()

	again, err := provider.OpenKey(ctx, ref, material)
	if err != nil {
		fmt.Println(err)
		return
	}
	signature, err := again.(core.Signer).Sign(ctx, []byte("hello"))
	if err != nil {
		fmt.Println(err)
		return
	}
	suite, err := provider.Suite(core.SuiteX25519AES128Ed25519)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(again, material)
	fmt.Println(suite.Verify(key.Public(), []byte("hello"), signature))
	fmt.Println(suite.Verify(key.Public(), []byte("hallo"), signature))
	// Output:
	// pure.PrivateKey(Ed25519) Secret(32 bytes)
	// <nil>
	// pure: verify: signature: invalid
}

// Whoever has a public key can seal to it; the key may be anywhere.
func ExampleProvider_Suite() {
	ctx := context.Background()
	suite, err := pure.New().Suite(core.SuiteP256AES128P256)
	if err != nil {
		fmt.Println(err)
		return
	}
	key, err := suite.GenerateKeyPair()
	if err != nil {
		fmt.Println(err)
		return
	}
	sealed, err := suite.Sealer([]byte("info")).Seal(key.Public(), nil, []byte("plaintext"))
	if err != nil {
		fmt.Println(err)
		return
	}
	recipient, err := suite.Recipient(key)
	if err != nil {
		fmt.Println(err)
		return
	}
	plaintext, err := recipient.Open(ctx, []byte("info"), nil, sealed)
	fmt.Printf("%s %v\n", plaintext, err)
	// Output: plaintext <nil>
}
