// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"fmt"

	"github.com/conclave-mls/conclave/hsm"
)

// A URI chooses the module, the token and the source of the PIN; the name of a key that is
// stored has none of that but the token.
func ExampleParseURI() {
	u, err := hsm.ParseURI("pkcs11:token=acme-mls;object=alice;id=%01%A2?module-name=softhsm2&pin-value=1234")
	if err != nil {
		panic(err)
	}
	fmt.Println(u)
	fmt.Println(u.Reference())
	// Output:
	// pkcs11:token=acme-mls;id=%01%A2;object=alice?module-name=softhsm2&pin-value=<redacted>
	// pkcs11:token=acme-mls;id=%01%A2;object=alice
}
