// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// The outcomes that an application branches on. Each also matches the core sentinel that
// says what to do next.
var (
	// ErrClientID: the text is not a client id of the form that is asked for.
	ErrClientID = fmt.Errorf("e2ei: invalid client id: %w", core.ErrInvalid)
	// ErrHandle: the text is not a handle, or not one of the form that is asked for.
	ErrHandle = fmt.Errorf("e2ei: invalid handle: %w", core.ErrInvalid)
)
