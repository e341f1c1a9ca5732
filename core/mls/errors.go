// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// The outcomes that an application branches on. Each also matches the core
// sentinel that says what to do next.
var (
	// ErrMalformed: the bytes are not an encoding of the structure.
	ErrMalformed = fmt.Errorf("mls: malformed: %w", core.ErrInvalid)
	// ErrAuthentication: a signature, tag or ciphertext does not hold. Which one is not told.
	ErrAuthentication = fmt.Errorf("mls: authentication failed: %w", core.ErrInvalid)
	// ErrWrongGroup: the message is for another group.
	ErrWrongGroup = fmt.Errorf("mls: wrong group: %w", core.ErrInvalid)
	// ErrWrongEpoch: the message is of an epoch that cannot be processed now.
	// See [EpochError] for which.
	ErrWrongEpoch = fmt.Errorf("mls: wrong epoch: %w", core.ErrInvalid)
	// ErrDuplicateMessage: the key of this message was used already, or it is a
	// proposal that waits already.
	ErrDuplicateMessage = fmt.Errorf("mls: duplicate message: %w", core.ErrInvalid)
	// ErrTooOld: the key of this message was dropped: its generation lies outside
	// the out-of-order window or its epoch is no longer kept.
	ErrTooOld = fmt.Errorf("mls: too old: %w", core.ErrInvalid)
	// ErrTooFarAhead: the generation is further ahead than the limit: messages were lost.
	ErrTooFarAhead = fmt.Errorf("mls: generation too far ahead: %w", core.ErrInvalid)
	// ErrOwnMessage: the message is our own, coming back. A commit of ours is merged,
	// not processed; a PublicMessage of one without a path can be processed as well.
	ErrOwnMessage = fmt.Errorf("mls: own message: %w", core.ErrInvalid)
	// ErrMissingProposal: a commit names a proposal that was not received.
	ErrMissingProposal = fmt.Errorf("mls: unknown proposal reference: %w", core.ErrNotFound)
	// ErrMissingPSK: a pre-shared key is not at hand.
	ErrMissingPSK = fmt.Errorf("mls: pre-shared key not at hand: %w", core.ErrNotFound)
	// ErrMissingTree: neither the GroupInfo nor the caller has the ratchet tree.
	ErrMissingTree = fmt.Errorf("mls: ratchet tree not at hand: %w", core.ErrNotFound)
	// ErrNoKeyPackage: a Welcome is for none of our key packages.
	ErrNoKeyPackage = fmt.Errorf("mls: no matching key package: %w", core.ErrNotFound)
	// ErrPendingProposals: application data may not be sent while proposals wait (RFC 9420 section 12.4).
	ErrPendingProposals = fmt.Errorf("mls: proposals wait to be committed: %w", core.ErrUnavailable)
	// ErrInactive: we are no longer a member, or the group was re-initialised.
	ErrInactive = fmt.Errorf("mls: group is no longer active: %w", core.ErrDenied)
	// ErrExhausted: a ratchet is at its end; commit to enter a new epoch.
	ErrExhausted = fmt.Errorf("mls: ratchet exhausted: %w", core.ErrUnavailable)
)

// An EpochError tells the epoch of a message and of the group. It matches [ErrWrongEpoch].
type EpochError struct {
	Message, Group uint64
}

func (e *EpochError) Error() string {
	return fmt.Sprintf("mls: message of epoch %d, group in epoch %d", e.Message, e.Group)
}

// Is makes the error match [ErrWrongEpoch] and [core.ErrInvalid].
func (e *EpochError) Is(target error) bool {
	return target == ErrWrongEpoch || target == core.ErrInvalid
}

// A RuleError is a breach of a numbered rule of RFC 9420 as our conformance list
// names it: the input is refused. It matches [core.ErrInvalid].
type RuleError struct {
	Rule   string // "LEAF-4", "PRP-3", ...
	Detail string
}

func (e *RuleError) Error() string { return "mls: " + e.Rule + ": " + e.Detail }

// Is makes the error match [core.ErrInvalid].
func (e *RuleError) Is(target error) bool { return target == core.ErrInvalid }

func breach(rule, format string, args ...any) error {
	return &RuleError{Rule: rule, Detail: fmt.Sprintf(format, args...)}
}
