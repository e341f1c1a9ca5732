// SPDX-License-Identifier: Apache-2.0

package sdk_test

import (
	"github.com/conclave-mls/conclave/plugins/sdk"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// The main function of a plugin that offers a keystore, and two crypto providers.
func Example() {
	sdk.Serve(sdk.Plugin{
		Keystore:       memory.New(),
		CryptoProvider: pure.New(),
		Instances:      map[string]sdk.Plugin{"second": {CryptoProvider: pure.New()}},
	})
}
