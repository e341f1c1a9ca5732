// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// A sentinel stays itself behind a ProviderError, and is no other.
func TestProviderErrorKeepsIdentity(t *testing.T) {
	sentinels := []error{
		core.ErrNotFound, core.ErrConflict, core.ErrUnsupported, core.ErrDenied, core.ErrUnavailable, core.ErrUnknownOutcome,
		core.ErrRolledBack, core.ErrTooLarge, core.ErrInvalid, core.ErrWrongKey, core.ErrDamaged, core.ErrClosed,
	}
	for i, want := range sentinels {
		err := fmt.Errorf("client: %w", &core.ProviderError{Provider: "pure", Op: "sign", Err: fmt.Errorf("key 7: %w", want)})
		for j, other := range sentinels {
			if errors.Is(err, other) != (i == j) {
				t.Errorf("%v is %v: %v", err, other, i != j)
			}
		}
		var pe *core.ProviderError
		if !errors.As(err, &pe) || pe.Provider != "pure" || pe.Op != "sign" {
			t.Errorf("%v: lost its provider", err)
		}
		if got := err.Error(); got != "client: pure: sign: key 7: "+want.Error() {
			t.Errorf("text %q", got)
		}
	}
}
