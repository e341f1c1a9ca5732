// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// A DeviceStatus says how a credential stands.
type DeviceStatus uint8

// The states of a device.
const (
	StatusValid   DeviceStatus = 1
	StatusExpired DeviceStatus = 2
	// StatusRevoked: revoked, or not to be believed for any other reason but its dates.
	StatusRevoked DeviceStatus = 3
)

func (s DeviceStatus) String() string { return name(s, "valid", "expired", "revoked") }

// A ConversationState says whether everybody in a conversation is who they say.
type ConversationState uint8

// The states of a conversation.
const (
	Verified    ConversationState = 1
	NotVerified ConversationState = 2
	// NotEnabled: no member has an X.509 credential.
	NotEnabled ConversationState = 3
)

func (s ConversationState) String() string {
	return name(s, "verified", "not verified", "not enabled")
}

func name[S ~uint8](s S, names ...string) string {
	if s < 1 || int(s) > len(names) {
		return fmt.Sprintf("state %d", uint8(s))
	}
	return names[s-1]
}

// Status is how a certificate stands. Without a trust anchor it is valid: nothing was asked
// for. That no revocation list is at hand does not change it.
func (e *Environment) Status(l *Leaf, at time.Time) DeviceStatus { return statusOf(e.Verify(l, at)) }

func statusOf(err error) DeviceStatus {
	switch {
	case err == nil, errors.Is(err, ErrNotReady), errors.Is(err, ErrRevocationUnknown):
		return StatusValid
	case errors.Is(err, ErrExpired):
		return StatusExpired
	}
	return StatusRevoked
}

// State is that of a conversation with these members, its own client included: of a group,
// or of the tree of a GroupInfo whose signatures were checked. Without a trust anchor nobody is
// verified: anybody can make certificates.
func (a Authenticator) State(members iter.Seq[Member], at time.Time) ConversationState {
	some, all := false, true
	for m := range members {
		some = some || m.Credential.Type == core.CredentialX509
		all = all && a.verified(m, at)
		if some && !all {
			return NotVerified
		}
	}
	if !some {
		return NotEnabled
	}
	return Verified
}

func (a Authenticator) verified(m Member, at time.Time) bool {
	if m.Credential.Type != core.CredentialX509 || !a.Environment.Ready() {
		return false
	}
	l, err := leafOf(m)
	if err != nil {
		return false
	}
	if _, _, err := a.read(l); err != nil {
		return false
	}
	return statusOf(a.Environment.verify(m, l, at)) == StatusValid
}
