// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"maps"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// CheapPassphrase is Passphrase with next to no work, for tests of all the rest.
func CheapPassphrase(pw core.Secret) core.KeyWrapper {
	return &passphrase{pw: pw, passes: 1, kib: 64, lanes: 1}
}

// DataKeys lists the generations that the store has keys of.
func DataKeys(s *Store) []uint32 { return slices.Sorted(maps.Keys(s.ring.Load().keys)) }

// GenerationOf is the data key that a stored value is sealed with.
var GenerationOf = generationOf
