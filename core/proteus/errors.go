// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// The outcomes that an application branches on. Each also matches the core sentinel that
// says what to do next. Their numbers are in [Error].
var (
	// ErrMalformed: the bytes are not an encoding of the structure.
	ErrMalformed = fmt.Errorf("proteus: malformed: %w", core.ErrInvalid)
	// ErrBadKey: a public key is no point of the curve, or one that no honest peer sends.
	ErrBadKey = fmt.Errorf("proteus: bad key: %w", core.ErrInvalid)
	// ErrInvalidMessage: the message is of a session, or of a state of this one, that we
	// do not have.
	ErrInvalidMessage = fmt.Errorf("proteus: no session for this message: %w", core.ErrInvalid)
	// ErrInvalidSignature: the message's MAC, or the signature of a bundle, does not hold.
	ErrInvalidSignature = fmt.Errorf("proteus: authentication failed: %w", core.ErrInvalid)
	// ErrOutdatedMessage: the key of this message was dropped, or used.
	ErrOutdatedMessage = fmt.Errorf("proteus: outdated message: %w", core.ErrInvalid)
	// ErrDuplicateMessage: the key of this message was used.
	ErrDuplicateMessage = fmt.Errorf("proteus: duplicate message: %w", core.ErrInvalid)
	// ErrTooDistantFuture: more than a thousand messages before this one were not seen. A
	// new session from a prekey helps.
	ErrTooDistantFuture = fmt.Errorf("proteus: too many messages were lost: %w", core.ErrInvalid)
	// ErrRemoteIdentityChanged: another device answers for this session. A person decides
	// whether it may; then the session is to be made again.
	ErrRemoteIdentityChanged = fmt.Errorf("proteus: remote identity changed: %w", core.ErrDenied)
	// ErrLocalIdentityChanged: a stored session is of another identity than ours.
	ErrLocalIdentityChanged = fmt.Errorf("proteus: local identity changed: %w", core.ErrDenied)
	// ErrPreKeyNotFound: a message names a prekey that we do not have: it was used already.
	ErrPreKeyNotFound = fmt.Errorf("proteus: prekey not found: %w", core.ErrNotFound)
	// ErrSessionNotFound: there is no session, or it has no state to send in.
	ErrSessionNotFound = fmt.Errorf("proteus: session not found: %w", core.ErrNotFound)
	// ErrExhausted: the chain has no counters left; a message of the peer begins a new one.
	ErrExhausted = fmt.Errorf("proteus: sending chain exhausted: %w", core.ErrUnavailable)
)

// A Code is the number that the implementations of Proteus and their applications share
// for an outcome. Where TypeScript and Rust differ it is the one that says more, which is
// TypeScript's but for keys: an application may offer another remedy for a message of
// another session (205) than for a damaged one (206).
type Code uint16

// The codes that this engine gives.
const (
	CodeMalformed             Code = 3   // decoding
	CodeDegenerateKey         Code = 100 // a shared secret would be zero, or a key is of small order
	CodePreKeyNotFound        Code = 101
	CodeSessionNotFound       Code = 102
	CodeNoPreKeyMessage       Code = 201 // a session cannot be opened from it
	CodeRemoteIdentityChanged Code = 204
	CodeNoState               Code = 205 // for the message's session tag
	CodeBadMACInSync          Code = 206
	CodeBadMACAhead           Code = 207
	CodeOutdated              Code = 208
	CodeDuplicate             Code = 209
	CodeBadMACBehind          Code = 210
	CodeTooDistantUnused      Code = 211 // in a chain of which nothing was read
	CodeTooDistant            Code = 212
	CodeLocalIdentityChanged  Code = 300
	CodeMessageType           Code = 302
	CodeLength                Code = 303 // of a tag, key, MAC or signature
	CodeBadSignature          Code = 407 // of a prekey bundle
	CodeBadPoint              Code = 502
	CodeExhausted             Code = 505
)

// classes has the sentinel of each code.
var classes = map[Code]error{
	CodeMalformed: ErrMalformed, CodeMessageType: ErrMalformed, CodeLength: ErrMalformed,
	CodeDegenerateKey: ErrBadKey, CodeBadPoint: ErrBadKey,
	CodePreKeyNotFound: ErrPreKeyNotFound, CodeSessionNotFound: ErrSessionNotFound,
	CodeNoPreKeyMessage: ErrInvalidMessage, CodeNoState: ErrInvalidMessage,
	CodeBadMACInSync: ErrInvalidSignature, CodeBadMACAhead: ErrInvalidSignature, CodeBadMACBehind: ErrInvalidSignature,
	CodeBadSignature: ErrInvalidSignature,
	CodeOutdated:     ErrOutdatedMessage, CodeDuplicate: ErrDuplicateMessage,
	CodeTooDistantUnused: ErrTooDistantFuture, CodeTooDistant: ErrTooDistantFuture,
	CodeRemoteIdentityChanged: ErrRemoteIdentityChanged, CodeLocalIdentityChanged: ErrLocalIdentityChanged,
	CodeExhausted: ErrExhausted,
}

// An Error is an outcome with its number. It matches the sentinel of its class.
type Error struct {
	Code   Code
	Detail string // may be empty
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%v (%d)", e.Unwrap(), e.Code)
	}
	return fmt.Sprintf("%v (%d): %s", e.Unwrap(), e.Code, e.Detail)
}

// Unwrap gives the sentinel of the class.
func (e *Error) Unwrap() error { return classes[e.Code] }

// CodeOf gives the number of an outcome; 0 if err has none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func failed(c Code, format string, args ...any) error {
	return &Error{Code: c, Detail: fmt.Sprintf(format, args...)}
}
