// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest_test

import (
	"fmt"
	"testing"

	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// What is configured by a URI is tested with a new token each time.
func Example() {
	test := func(t *testing.T) {
		k := softhsmtest.New(t)
		fmt.Println(k.URI()) // for the program that is tested

		// Another program makes a key meanwhile.
		k.Run(t, "pkcs11-tool", "--module", k.ModulePath, "--token-label", k.Label, "--login", "--pin", k.PIN,
			"--keypairgen", "--key-type", "EC:prime256v1", "--label", "alice", "--usage-sign")

		k.Remove(t) // as if it were pulled out
		k.Restore(t)
	}
	_ = test // go test runs it
}
