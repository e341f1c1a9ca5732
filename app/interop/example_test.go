// SPDX-License-Identifier: Apache-2.0

package interop_test

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/conclave-mls/conclave/app/interop"
	"github.com/conclave-mls/conclave/app/interop/mlsclient"
)

// A driver has one server play alice, who creates a group.
func Example() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- interop.New().Serve(ctx, l) }()

	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	driver := mlsclient.NewMLSClientClient(conn)
	group, err := driver.CreateGroup(ctx, &mlsclient.CreateGroupRequest{
		GroupId: []byte("group"), CipherSuite: 1, Identity: []byte("alice"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	auth, err := driver.StateAuth(ctx, &mlsclient.StateAuthRequest{StateId: group.GetStateId()})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(auth.GetStateAuthSecret()), "bytes to compare with other members")

	_ = conn.Close()
	cancel()
	fmt.Println(<-served)
	// Output:
	// 32 bytes to compare with other members
	// <nil>
}
