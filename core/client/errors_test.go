// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// What may cost a message: its own faults, unless something of ours is wrong as well.
func TestBlames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		blamed bool
	}{
		{core.ErrInvalid, true}, {core.ErrDenied, true}, {core.ErrNotFound, true}, {core.ErrUnsupported, true}, {core.ErrTooLarge, true},
		{client.ErrRecovering, true},
		{nil, false}, {io.EOF, false}, {context.Canceled, false}, {context.DeadlineExceeded, false},
		{core.ErrUnavailable, false}, {core.ErrUnknownOutcome, false}, {core.ErrConflict, false}, {core.ErrDamaged, false},
		{core.ErrClosed, false}, {core.ErrWrongKey, false}, {core.ErrRolledBack, false},
	} {
		if got := client.Blames(c.err); got != c.blamed {
			t.Errorf("%v: blamed %v", c.err, got)
		}
		if c.err == nil || errors.Is(c.err, io.EOF) || errors.Is(c.err, client.ErrRecovering) {
			continue
		}
		if both := fmt.Errorf("message: %w", errors.Join(core.ErrInvalid, c.err)); client.Blames(both) != c.blamed {
			t.Errorf("%v: blamed %v", both, !c.blamed)
		}
	}
}
