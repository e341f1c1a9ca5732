// SPDX-License-Identifier: Apache-2.0

package seal

import "github.com/conclave-mls/conclave/core"

// CheapPassphrase is Passphrase with next to no work, for tests of all the rest.
func CheapPassphrase(pw core.Secret) core.KeyWrapper {
	return &passphrase{pw: pw, passes: 1, kib: 64, lanes: 1}
}
