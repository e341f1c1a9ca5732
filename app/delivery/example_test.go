// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"log"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A service on a loopback port, and a client that offers key packages.
func Example() {
	server, err := delivery.New(memory.New(), delivery.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	listener, err := delivery.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- server.Serve(ctx, listener) }()

	alice, err := delivery.Dial("http://"+listener.Addr().String(), delivery.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := alice.Register(ctx, "alice", core.NewSecret(random(32))); err != nil {
		log.Fatal(err)
	}
	waiting, err := alice.Upload(ctx, [][]byte{[]byte("a KeyPackage")}, []byte("the last resort"))
	fmt.Println(waiting, err)
	for range 3 {
		keyPackage, err := alice.Claim(ctx, "alice")
		fmt.Printf("%s %v\n", keyPackage, err)
	}
	_ = alice.Close()
	stop()
	fmt.Println(<-served)
	// Output:
	// 1 <nil>
	// a KeyPackage <nil>
	// the last resort <nil>
	// the last resort <nil>
	// <nil>
}
