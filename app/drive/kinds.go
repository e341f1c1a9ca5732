// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"errors"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/proteus"
)

// A failure is what a reply says of an error. Kind is one of Core Crypto's, or
// BadRequest.
type failure struct {
	Kind         string   `json:"kind"`
	Message      string   `json:"message"`
	Detail       result   `json:"detail,omitempty"`
	Bundles      []bundle `json:"bundles,omitempty"`
	DuringCommit bool     `json:"duringCommit,omitempty"`
}

// The kinds that Core Crypto has no name of its own for.
const (
	otherMLS     = "Mls.Other"
	otherProteus = "Proteus.Other"
	other        = "Other"

	ofProtocol = "" // in the table: otherMLS or otherProteus, as the command is
)

// alreadyExists has the conversation in its detail.
const alreadyExists = "Mls.ConversationAlreadyExists"

// kinds are the kinds of errors; the first that matches is meant. Those of the last
// column are in the detail of a kind that says only "other".
var kinds = []struct {
	err  error
	kind string
	name string
}{
	{errKept[client.FutureEpoch], "Mls.BufferedFutureMessage", ""},
	{errKept[client.MissingProposals], "Mls.BufferedCommit", ""},
	{errKept[client.JoinPending], "Mls.UnmergedPendingGroup", ""},
	{errOwnCommit, "Mls.SelfCommitIgnored", ""},
	{mls.ErrDuplicateMessage, "Mls.DuplicateMessage", ""},
	{mls.ErrOwnMessage, "Mls.DuplicateMessage", ""},
	{mls.ErrWrongEpoch, "Mls.WrongEpoch", ""},
	{mls.ErrTooOld, "Mls.MessageEpochTooOld", ""},
	{client.ErrStaleCommit, "Mls.StaleCommit", ""},
	{client.ErrStaleProposal, "Mls.StaleProposal", ""},
	{client.ErrConversationExists, alreadyExists, ""},
	{client.ErrOrphanWelcome, "Mls.OrphanWelcome", ""},
	{client.ErrConversationNotFound, otherMLS, "ConversationNotFound"},
	{client.ErrNoExternalSender, otherMLS, "NoExternalSender"},
	{client.ErrClientNotFound, otherMLS, "ClientNotFound"},
	{client.ErrCredentialNotFound, otherMLS, "CredentialNotFound"},
	{client.ErrNotInitialized, otherMLS, "MlsNotInitialized"},
	{client.ErrEmptyInput, otherMLS, "EmptyInput"},
	{client.ErrBufferFull, otherMLS, "BufferFull"},
	{client.ErrCommitLost, otherMLS, "CommitLost"},
	{client.ErrPendingUnresolved, otherMLS, "PendingUnresolved"},
	{mls.ErrPendingProposals, otherMLS, "PendingProposal"},
	{mls.ErrTooFarAhead, otherMLS, "TooFarAhead"},
	{mls.ErrWrongGroup, otherMLS, "WrongGroup"},
	{mls.ErrMalformed, otherMLS, "Malformed"},
	{mls.ErrAuthentication, otherMLS, "DecryptionError"},
	{proteus.ErrSessionNotFound, "Proteus.SessionNotFound", ""},
	{proteus.ErrDuplicateMessage, "Proteus.DuplicateMessage", ""},
	{proteus.ErrRemoteIdentityChanged, "Proteus.RemoteIdentityChanged", ""},
	{client.ErrProteusNotInitialized, otherProteus, "ProteusNotInitialized"},
	{client.ErrPreKeyExists, otherProteus, "PreKeyExists"},
	{client.ErrNoFreePreKey, otherProteus, "NoFreePrekeyId"},
	{core.ErrUnsupported, ofProtocol, "Unsupported"},
	{core.ErrWrongKey, other, "WrongKey"},
	{core.ErrDamaged, other, "Damaged"},
	{core.ErrRolledBack, other, "RolledBack"},
	{core.ErrUnavailable, other, "Unavailable"},
	{core.ErrUnknownOutcome, other, "UnknownOutcome"},
	{core.ErrConflict, other, "Conflict"},
	{core.ErrClosed, other, "Closed"},
}

// errKept are errors that say that a message is kept until it can be processed: for
// the client that is none, for whoever knows Core Crypto it is.
var errKept = map[client.BufferReason]error{
	client.FutureEpoch:      errors.New("the message is kept for a later epoch"),
	client.MissingProposals: errors.New("the commit is kept until its proposals come"),
	client.JoinPending:      errors.New("the message is kept until the answer to our external commit comes"),
}

// errOwnCommit is a commit of ours that does not wait for its answer.
var errOwnCommit = errors.New("a commit of our own that is not pending")

// describe makes a failure of an error of a command. One that no protocol answers for
// is Other: what is not known, and what the store, a key or another part has failed with.
func describe(command string, err error) *failure {
	f := &failure{Kind: other, Message: err.Error()}
	var request badRequest
	if errors.As(err, &request) {
		f.Kind = "BadRequest"
		return f
	}
	var late *lateError
	f.DuringCommit = errors.As(err, &late)
	var refused *client.RefusedError
	if errors.As(err, &refused) {
		f.Kind, f.Detail = "Mls.MessageRejected", result{"reason": refused.Reason}
		return f
	}
	var provider *core.ProviderError
	if client.Blames(err) && !errors.As(err, &provider) {
		f.Kind = ofProtocol
	}
	name := ""
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			f.Kind, name = k.kind, k.name
			break
		}
	}
	switch {
	case f.Kind != ofProtocol:
	case strings.HasPrefix(command, "proteus"):
		f.Kind = otherProteus
	default:
		f.Kind = otherMLS
	}
	switch f.Kind {
	case otherMLS, otherProteus, other:
		f.Detail = result{"msg": f.Message}
		if name != "" {
			f.Detail["name"] = name
		}
	}
	if code := proteus.CodeOf(err); code != 0 {
		if f.Detail == nil {
			f.Detail = result{}
		}
		f.Detail["errorCode"] = code
	}
	return f
}

// A lateError is of a transaction whose body went through.
type lateError struct{ error }

func (e *lateError) Unwrap() error { return e.error }
