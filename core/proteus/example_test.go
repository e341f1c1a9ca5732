// SPDX-License-Identifier: Apache-2.0

package proteus_test

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core/proteus"
)

// Alice opens a session by a prekey that bob has published, and both talk.
func Example() {
	ctx := context.Background()
	alice, _ := proteus.GenerateIdentity(nil)
	bob, _ := proteus.GenerateIdentity(nil)
	preKey, _ := proteus.GeneratePreKey(nil, 1)
	bundle, err := proteus.UnmarshalPreKeyBundle(preKey.Bundle(bob).Marshal()) // as it is published
	if err != nil {
		fmt.Println(err)
		return
	}

	toBob, err := proteus.SessionFromPreKey(&proteus.Env{Identity: alice}, bundle)
	if err != nil {
		fmt.Println(err)
		return
	}
	toBob, message, err := toBob.Encrypt([]byte("hello bob"))
	if err != nil {
		fmt.Println(err)
		return
	}

	d, err := proteus.SessionFromMessage(ctx, &proteus.Env{
		Identity: bob,
		PreKey:   func(context.Context, uint16) (*proteus.PreKey, error) { return preKey, nil },
	}, message)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s, by prekey %d\n", d.Plaintext, *d.UsedPreKey)
	_, message, err = d.Session.Encrypt([]byte("hello alice"))
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err = toBob.Decrypt(ctx, &proteus.Env{Identity: alice}, message)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", d.Plaintext)
	// Output:
	// hello bob, by prekey 1
	// hello alice
}
