// SPDX-License-Identifier: Apache-2.0

package mlsclient_test

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-mls/conclave/app/interop/mlsclient"
)

// What a driver sends, as it is on the wire: field 1, a number; field 2, bytes.
func Example() {
	wire, err := proto.Marshal(&mlsclient.CreateKeyPackageRequest{CipherSuite: 7, Identity: []byte("bob")})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%x\n", wire)
	// Output: 08071203626f62
}
