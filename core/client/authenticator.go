// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// Basic is a [core.Authenticator] of basic credentials alone: the identity is the
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

// checkAuthenticator refuses one that looks as if the environment of the store were in it, and
// into which the client cannot put that: it would believe every certificate.
func (cfg Config) checkAuthenticator() error {
	given, ours := cfg.Authenticator.(e2ei.Authenticator)
	_, like := cfg.Authenticator.(interface {
		State(iter.Seq[e2ei.Member], time.Time) e2ei.ConversationState
	})
	switch {
	case ours && given.Environment != nil:
		return fmt.Errorf("client: the environment of an e2ei.Authenticator is that of the store: %w", core.ErrInvalid)
	case like && !ours:
		return fmt.Errorf("client: %T is not an e2ei.Authenticator, and would have no environment: %w", cfg.Authenticator, core.ErrInvalid)
	}
	return nil
}

// An authenticator is the one of the configuration for one operation, with the PKI
// environment as the segment sees it. It is read when the first certificate is met: a
// conversation of basic credentials costs nothing.
type authenticator struct {
	ctx     context.Context // of the operation
	client  *Client
	segment *segment
}

// Validate implements [core.Authenticator]. What is wrong with the store is not the
// credential's fault; see [Blames].
func (a *authenticator) Validate(c core.Credential, signatureKey []byte, at time.Time, p core.Purpose) (core.Identity, error) {
	auth := a.client.auth
	if c.Type == core.CredentialX509 && p != core.PurposeIdentify {
		if _, ours := auth.(e2ei.Authenticator); ours {
			trusting, err := a.trusting()
			if err != nil {
				return core.Identity{}, err
			}
			auth = trusting
		}
	}
	return auth.Validate(c, signatureKey, at, p)
}

// Successor implements [core.Authenticator].
func (a *authenticator) Successor(before, after core.Identity) error {
	return a.client.auth.Successor(before, after)
}

// trusting is the authenticator of end-to-end identity, which an application with one of
// its own has beside that.
func (a *authenticator) trusting() (e2ei.Authenticator, error) {
	auth, _ := a.client.auth.(e2ei.Authenticator)
	env, err := a.client.environment(a.ctx, a.segment)
	auth.Environment = env
	return auth, err
}
