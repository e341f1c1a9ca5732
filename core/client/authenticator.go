// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// Basic is the [core.Authenticator] of basic credentials: the identity is the
// client id, and who controls the delivery service decides whose key it is.
type Basic struct{}

var _ core.Authenticator = Basic{}

// Validate implements [core.Authenticator].
func (Basic) Validate(c core.Credential, _ []byte, _ time.Time, _ core.Purpose) (core.Identity, error) {
	if c.Type != core.CredentialBasic || len(c.Identity) == 0 {
		return core.Identity{}, fmt.Errorf("credential of type %d: %w", c.Type, core.ErrDenied)
	}
	return core.Identity{ClientID: core.ClientID(c.Identity)}, nil
}

// Successor implements [core.Authenticator].
func (Basic) Successor(before, after core.Identity) error {
	if before.ClientID != after.ClientID {
		return fmt.Errorf("a leaf may not change hands: %w", core.ErrDenied)
	}
	return nil
}
