// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
)

// The outcomes that an application branches on, beside those of package mls. Each
// also matches the core sentinel that says what to do next.
var (
	// ErrInvalidTransaction: the transaction was finished or aborted.
	ErrInvalidTransaction = fmt.Errorf("client: the transaction has ended: %w", core.ErrClosed)
	// ErrNestedTransaction: a transaction was begun within a transaction, or used
	// while it waits for the delivery service.
	ErrNestedTransaction = fmt.Errorf("client: nested transaction: %w", core.ErrDenied)
	// ErrNotInitialized: the client has no identity yet; see InitMLS.
	ErrNotInitialized = fmt.Errorf("client: no identity yet: %w", core.ErrNotFound)
	// ErrInitialized: the client has an identity already.
	ErrInitialized = fmt.Errorf("client: has an identity already: %w", core.ErrDenied)
	// ErrNoTransport: the operation needs a delivery service and there is none.
	ErrNoTransport = fmt.Errorf("client: no transport: %w", core.ErrUnsupported)
	// ErrConversationNotFound: no such conversation, or we are no longer in it.
	ErrConversationNotFound = fmt.Errorf("client: conversation: %w", core.ErrNotFound)
	// ErrParentNotFound: the conversation that shall be the parent is not there. It is
	// an ErrConversationNotFound as well.
	ErrParentNotFound = fmt.Errorf("client: parent: %w", ErrConversationNotFound)
	// ErrConversationExists: we are in this conversation, or about to join it.
	ErrConversationExists = fmt.Errorf("client: conversation exists already: %w", core.ErrDenied)
	// ErrNoProvisionalIdentity: GenerateKeypairs has made no such key.
	ErrNoProvisionalIdentity = fmt.Errorf("client: key pair that waits for a client id: %w", core.ErrNotFound)
	// ErrTooManyIdentities: GenerateKeypairs has made more keys than were named.
	ErrTooManyIdentities = fmt.Errorf("client: more key pairs wait for a client id: %w", core.ErrInvalid)
	// ErrCredentialNotFound: no such credential, or none of the type for the
	// signature scheme.
	ErrCredentialNotFound = fmt.Errorf("client: credential: %w", core.ErrNotFound)
	// ErrEnrollmentNotDone: no X.509 credential for the signature scheme yet. It is an
	// ErrCredentialNotFound.
	ErrEnrollmentNotDone = fmt.Errorf("client: no certificate yet: %w", ErrCredentialNotFound)
	// ErrEnrollmentNotFound: no such enrolment, or it is over, or somebody else has taken it up.
	ErrEnrollmentNotFound = fmt.Errorf("client: enrolment: %w", core.ErrNotFound)
	// ErrCredentialExists: we have this credential for this signature key already.
	ErrCredentialExists = fmt.Errorf("client: credential exists already: %w", core.ErrDenied)
	// ErrCredentialInUse: one of our leaves or key packages has the credential.
	ErrCredentialInUse = fmt.Errorf("client: credential is in use: %w", core.ErrDenied)
	// ErrWrongCredential: the credential is another client's, or for another key or
	// another signature scheme.
	ErrWrongCredential = fmt.Errorf("client: wrong credential: %w", core.ErrDenied)
	// ErrClientNotFound: the client is not a member.
	ErrClientNotFound = fmt.Errorf("client: member: %w", core.ErrNotFound)
	// ErrNoExternalSender: nobody outside may propose anything in the conversation.
	ErrNoExternalSender = fmt.Errorf("client: external sender: %w", core.ErrNotFound)
	// ErrNotAdmitted: Config.Admit keeps somebody out; its own error is in the chain.
	ErrNotAdmitted = fmt.Errorf("client: not admitted: %w", core.ErrDenied)
	// ErrEmptyInput: there is nothing to do in what was given.
	ErrEmptyInput = fmt.Errorf("client: nothing to do: %w", core.ErrInvalid)
	// ErrOrphanWelcome: none of our key packages fits; join by external commit.
	ErrOrphanWelcome = fmt.Errorf("client: welcome for none of our key packages: %w", core.ErrNotFound)
	// ErrStaleCommit and ErrStaleProposal: the message is of an epoch that is over.
	ErrStaleCommit   = fmt.Errorf("client: commit of a past epoch: %w", core.ErrInvalid)
	ErrStaleProposal = fmt.Errorf("client: proposal of a past epoch: %w", core.ErrInvalid)
	// ErrCommitLost: other commits won every time. Nothing is pending.
	ErrCommitLost = fmt.Errorf("client: another commit was accepted: %w", core.ErrConflict)
	// ErrPendingUnresolved: a commit that was submitted more than once was refused
	// and did not come back. Discard it or join again: only a person can tell.
	ErrPendingUnresolved = errors.New("client: the pending commit cannot be resolved")
	// ErrHistoryClient: a history client only reads; see OpenHistory.
	ErrHistoryClient = fmt.Errorf("client: a history client only reads: %w", core.ErrDenied)
	// ErrRecovering: the store was put back to an older state, and the conversation has
	// not been joined again since: its keys may have been used. See AfterRollback. A
	// message is lost; process Welcomes that wait, as after ErrConversationNotFound.
	ErrRecovering = fmt.Errorf("client: the conversation has to be joined again: %w", core.ErrRolledBack)
	// ErrNoExternalPub: nobody can join the conversation from outside; a member has to
	// remove us and to add us again.
	ErrNoExternalPub = fmt.Errorf("client: the GroupInfo has no external_pub: %w", core.ErrUnsupported)
	// ErrLeafGone and ErrLeafMoves: see JoinConfig.
	ErrLeafGone  = fmt.Errorf("client: we are no longer a member: %w", core.ErrDenied)
	ErrLeafMoves = fmt.Errorf("client: our new leaf would be at another place than the old one: %w", core.ErrDenied)
	// ErrKeyGone: the provider of one of our signature keys does not have it any more.
	// Make another credential.
	ErrKeyGone = fmt.Errorf("client: private key of a signature key: %w", core.ErrNotFound)
	// ErrOtherKey: what the provider has under the name of one of our signature keys is
	// another key, as of a token that was swapped for one with the same label.
	ErrOtherKey = fmt.Errorf("client: another key has the name of a signature key: %w", core.ErrDenied)
	// ErrBufferFull: as many messages as may wait for another epoch wait already.
	ErrBufferFull = fmt.Errorf("client: buffer of a conversation is full: %w", core.ErrTooLarge)
)

// errGroupConfig: the caller has chosen a configuration that is none; see groupConfig.
var errGroupConfig = fmt.Errorf("client: a group's configuration without MaxForward or Handshake: %w", core.ErrInvalid)

// A RefusedError is the delivery service's final word; nothing is pending.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "client: refused by the delivery service: " + e.Reason }

// Is makes the error match [core.ErrDenied].
func (e *RefusedError) Is(target error) bool { return target == core.ErrDenied }

// Blames says that an error of a message that was to be processed is the message's
// fault, for good: it may be dropped. Every other error is our side's, an unknown one
// too, and must not cost the message.
//
// It is true of ErrConversationNotFound as well, which may be too early: of a message
// that has come before its Welcome, after which it could be read. So when
// [Transaction.DecryptMessage] says that, process the Welcomes that wait and try the
// message once more; what Blames says of the second error holds.
func Blames(err error) bool {
	is := func(target error) bool { return errors.Is(err, target) }
	if isKeyTrouble(err) || isStoreTrouble(err) || is(errGroupConfig) { // whatever the provider or the store calls it
		return false
	}
	if is(ErrRecovering) { // of an epoch that we have no way into
		return true
	}
	if is(proteus.ErrRemoteIdentityChanged) { // a person decides
		return false
	}
	switch core.Kind(err) {
	case core.ErrDenied, core.ErrTooLarge, core.ErrUnsupported, core.ErrInvalid, core.ErrNotFound: // and nothing graver
		return !is(context.Canceled) && !is(context.DeadlineExceeded)
	}
	return false
}

// storeTrouble is what the store says. It may be any error of core: see Blames.
type storeTrouble struct{ error }

func (e storeTrouble) Unwrap() error { return e.error }

func troubleWithStore(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, core.ErrNotFound) { // its server or its file; that a record is not there is no error
		err = fmt.Errorf("%w: %v", core.ErrUnavailable, err)
	}
	return storeTrouble{err}
}

func isStoreTrouble(err error) bool { return errors.As(err, new(storeTrouble)) }
