// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"errors"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// Accept says whether MLS may take a credential into a group; nil: it may. A basic one always.
// An X.509 one if its first certificate can be read, is of the signature key beside it, and
// holds; without a trust anchor nobody asks whether it holds. One that is expired or revoked is
// taken too, if it has a path: it degrades the state of the conversation, and who is already
// in can go on to renew it. Errors: those of [ParseLeaf] and [Environment.Verify], ErrWrongKey,
// core.ErrDenied for a credential of another type.
func (e *Environment) Accept(m Member, at time.Time) error {
	switch m.Credential.Type {
	case core.CredentialBasic:
		return nil
	case core.CredentialX509:
		l, err := leafOf(m)
		if err != nil {
			return err
		}
		return e.accept(l, at)
	}
	return fmt.Errorf("credential of type %d: %w", m.Credential.Type, core.ErrDenied)
}

func (e *Environment) accept(l *Leaf, at time.Time) error {
	err := e.Verify(l, at)
	for _, taken := range []error{ErrNotReady, ErrExpired, ErrRevoked, ErrRevocationUnknown} {
		if errors.Is(err, taken) {
			return nil
		}
	}
	return err
}

// An Authenticator is the [core.Authenticator] of Wire: [Environment.Accept], and the client id
// of a basic credential or of a certificate. It holds one environment: make one for each value.
type Authenticator struct{ Environment *Environment }

var _ core.Authenticator = Authenticator{}

// Validate implements [core.Authenticator]. An X.509 credential without a Wire identity is
// refused. What is wrong with a refused one is in the error beside core.ErrDenied.
func (a Authenticator) Validate(c core.Credential, signatureKey []byte, at time.Time, p core.Purpose) (core.Identity, error) {
	m := Member{c, signatureKey}
	id, err := clientOf(m)
	if err == nil && p != core.PurposeIdentify {
		err = a.Environment.Accept(m, at)
	}
	if err != nil {
		return core.Identity{}, fmt.Errorf("credential of type %d: %w: %w", c.Type, core.ErrDenied, err)
	}
	return core.Identity{ClientID: id}, nil
}

// Successor implements [core.Authenticator].
func (Authenticator) Successor(before, after core.Identity) error {
	if before.ClientID != after.ClientID {
		return fmt.Errorf("a leaf may not change hands: %w", core.ErrDenied)
	}
	return nil
}

func clientOf(m Member) (core.ClientID, error) {
	switch m.Credential.Type {
	case core.CredentialBasic:
		if len(m.Credential.Identity) == 0 {
			return "", errors.New("the identity is empty")
		}
		return core.ClientID(m.Credential.Identity), nil
	case core.CredentialX509:
		l, err := leafOf(m)
		if err != nil {
			return "", err
		}
		id, err := l.Identity()
		return id.ClientID.Core(), err
	}
	return "", errors.New("not of a type that names a client")
}
