// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// tooLarge is deferred by every operation that encodes: what does not fit a vector,
// of 2^30-1 bytes, is [core.ErrTooLarge]. It may be anything that was handed over, or
// the sum of what a group has gathered, so it is noticed where it is encoded.
// Operations work on values that are theirs until they return: nothing has changed.
func tooLarge(err *error) {
	switch r := recover().(type) {
	case nil:
	case vlbytes.LengthError:
		*err = fmt.Errorf("mls: %w: %w", r, core.ErrTooLarge)
	default:
		panic(r)
	}
}
