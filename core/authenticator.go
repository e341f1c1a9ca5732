// SPDX-License-Identifier: Apache-2.0

package core

import "time"

// An Authenticator is the authentication service of RFC 9420 section 5.3.1:
// pure, no I/O. The engine calls it exactly once for each new credential.
type Authenticator interface {
	// Validate says whose credential this is, or ErrDenied.
	Validate(c Credential, signatureKey []byte, at time.Time, p Purpose) (Identity, error)
	// Successor says whether one identity may follow another in the same leaf;
	// ErrDenied if not.
	Successor(old, new Identity) error
}

// Purpose tells the Authenticator where a credential was met.
type Purpose uint8

// The purposes.
const (
	PurposeMember   Purpose = iota + 1 // a leaf that is in, or enters, the group
	PurposeExternal                    // an entry of external_senders
	// PurposeIdentify: a leaf of which only the client is asked, to compare it with
	// another or to name it. It is read, not judged: it may have expired.
	PurposeIdentify
)

// An Identity is what an Authenticator read from a credential.
type Identity struct {
	ClientID ClientID
}
