// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// Accept says whether MLS may take a credential into a group; nil: it may. A basic one always.
// An X.509 one if its first certificate can be read, is of the signature key beside it, and
// holds; without a trust anchor nobody asks whether it holds. One that is expired or revoked is
// taken too, if it has a path: it degrades the state of the conversation, and who is already
// in can go on to renew it. So is one that will be valid within a minute. Errors: those of
// [ParseLeaf] and [Environment.Verify], ErrWrongKey, core.ErrDenied for a credential of another
// type.
func (e *Environment) Accept(m Member, at time.Time) error {
	switch m.Credential.Type {
	case core.CredentialBasic:
		return nil
	case core.CredentialX509:
		l, err := leafOf(m)
		if err != nil {
			return err
		}
		return e.accept(m, l, at)
	}
	return fmt.Errorf("credential of type %d: %w", m.Credential.Type, core.ErrDenied)
}

func (e *Environment) accept(m Member, l *Leaf, at time.Time) error {
	err := e.verify(m, l, at)
	if errors.Is(err, ErrNotYetValid) {
		err = e.verify(m, l, at.Add(memberSkew))
	}
	for _, taken := range []error{ErrNotReady, ErrExpired, ErrRevoked, ErrRevocationUnknown} {
		if errors.Is(err, taken) {
			return nil
		}
	}
	return err
}

// verify is Verify of a member's leaf. If the environment has no path, the other certificates
// of the credential may be CAs that are not registered yet: they are believed as far as an
// anchor vouches for them.
func (e *Environment) verify(m Member, l *Leaf, at time.Time) error {
	err := e.Verify(l, at)
	if !errors.Is(err, ErrNoPath) && !errors.Is(err, ErrBadSignature) {
		return err
	}
	more, _ := e.with(m, at)
	return more.Verify(l, at)
}

// with has those of the CAs of a member's credential that an anchor vouches for, and says which
// are new, in the order in which they can be added.
func (e *Environment) with(m Member, at time.Time) (more *Environment, added [][]byte) {
	above := m.Credential.Certificates[1:]
	for _, der := range slices.Backward(above[:min(len(above), maxChain)]) {
		if n, item, err := e.AddIntermediate(der, at); err == nil && item != nil {
			e, added = n, append(added, item.DER)
		}
	}
	return e, added
}

// MissingCAs gives the CAs (DER) that are not registered and by way of which members hold: they
// are in the credentials of those, and needed for lists that they have signed. They are in the
// order in which [Environment.AddIntermediate] takes them, no more than ten; ask again for
// others. Half of MaxIntermediates is left to whoever registers more: members must
// not fill the environment.
func (e *Environment) MissingCAs(members iter.Seq[Member], at time.Time) (missing [][]byte) {
	if !e.Ready() {
		return nil
	}
	for m := range members {
		if m.Credential.Type != core.CredentialX509 || len(m.Credential.Certificates) < 2 {
			continue
		}
		l, err := leafOf(m)
		if err != nil {
			continue
		}
		if err := e.Verify(l, at); !errors.Is(err, ErrNoPath) && !errors.Is(err, ErrBadSignature) {
			continue
		}
		more, added := e.with(m, at)
		if err := more.Verify(l, at); err != nil && !errors.Is(err, ErrRevocationUnknown) {
			continue
		}
		if len(more.intermediates) <= MaxIntermediates/2 && len(missing)+len(added) <= maxChain {
			e, missing = more, append(missing, added...)
		}
	}
	return missing
}

// An Authenticator is the [core.Authenticator] of X.509 credentials: [Environment.Accept], and
// the client id of a basic credential or of a certificate. It holds one environment: make one
// for each value. The zero value has no trust anchor, and reads Wire's names.
type Authenticator struct {
	Environment *Environment
	// Identify reads the client id of a certificate whose key is that of the leaf node, by
	// its names alone: whether it holds is the environment's to say. An error, and an empty
	// client id, are ErrIdentity. Nil: Wire's client id, of a certificate that has all of
	// [Leaf.Identity].
	Identify func(*x509.Certificate) (core.ClientID, error)
}

var _ core.Authenticator = Authenticator{}

// Validate implements [core.Authenticator]. An X.509 credential that does not say
// whose it is, is refused. What is wrong with a refused one is in the error beside core.ErrDenied.
func (a Authenticator) Validate(c core.Credential, signatureKey []byte, at time.Time, p core.Purpose) (core.Identity, error) {
	m := Member{c, signatureKey}
	id, err := a.clientOf(m)
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

func (a Authenticator) clientOf(m Member) (core.ClientID, error) {
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
		id, _, err := a.read(l)
		return id, err
	}
	return "", errors.New("not of a type that names a client")
}

// read says whose a certificate is, and what else it says.
func (a Authenticator) read(l *Leaf) (core.ClientID, X509Identity, error) {
	x, err := l.Identity()
	if a.Identify == nil {
		return x.ClientID.Core(), x, err
	}
	if err != nil {
		x = l.described()
		if name, n := l.attribute(oidCommonName); n == 1 && validText(name) {
			x.DisplayName = name
		}
	}
	id, err := a.Identify(l.cert)
	if err == nil && id == "" {
		err = errors.New("the client id is empty")
	}
	if err != nil {
		return "", X509Identity{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return id, x, nil
}
