// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/conclave-mls/conclave/core"
)

// Limits, in bytes unless said otherwise. What exceeds one is refused with
// [core.ErrTooLarge] before it is read in full.
const (
	MaxMessage     = 1 << 20  // an application message or proposal
	MaxHandshake   = 8 << 20  // each of commit, Welcome and GroupInfo
	MaxKeyPackage  = 64 << 10 // one key package
	MaxUpload      = 200      // key packages in one upload
	MaxKeyPackages = 1000     // key packages waiting for one client
	MaxNames       = 10_000   // clients that one commit adds, and removes
	maxID          = 256      // client id, group id, idempotency key
	maxSmallBody   = 64 << 10
	maxWait        = 60 // seconds that a long poll may take
)

// The bodies. Bytes are base64 in JSON, identifiers included: they are opaque.
type (
	registerRequest struct {
		Client []byte `json:"client"`
		Key    []byte `json:"key"`
	}
	registerAnswer struct {
		Token string `json:"token"`
	}
	uploadRequest struct {
		KeyPackages [][]byte `json:"key_packages,omitempty"`
		LastResort  []byte   `json:"last_resort,omitempty"`
		Replace     bool     `json:"replace,omitempty"` // throw away those that wait
	}
	countAnswer struct {
		Count int `json:"count"`
	}
	claimRequest struct {
		Client []byte `json:"client"`
	}
	claimAnswer struct {
		KeyPackage []byte `json:"key_package"`
	}
	commitRequest struct {
		Commit    []byte   `json:"commit"`
		Welcome   []byte   `json:"welcome,omitempty"`
		GroupInfo []byte   `json:"group_info,omitempty"`
		Added     [][]byte `json:"added,omitempty"`
		Removed   [][]byte `json:"removed,omitempty"`
	}
	messageRequest struct {
		Key     []byte `json:"key"`
		Message []byte `json:"message"`
	}
	acceptedAnswer struct {
		Seq uint64 `json:"seq"`
	}
	logAnswer struct {
		Entries []Entry `json:"entries"`
		More    bool    `json:"more"` // the page ended before the log
	}
	ackRequest struct {
		Through uint64 `json:"through"`
	}
	welcomesAnswer struct {
		Welcomes []Welcome `json:"welcomes"`
	}
	groupInfoAnswer struct {
		GroupInfo []byte `json:"group_info"`
	}
	errorAnswer struct {
		Error *Error `json:"error"`
	}
)

// An Entry is a message of a group's log.
type Entry struct {
	Seq     uint64 `json:"seq"`
	Message []byte `json:"message"` // MLSMessage
}

// A Welcome waits for a client that a commit added. The log of the group goes
// on after Seq.
type Welcome struct {
	Group   []byte `json:"group"`
	Seq     uint64 `json:"seq"` // of the commit
	Welcome []byte `json:"welcome"`
}

// A Code names a kind of refusal, the same in every release.
type Code string

// The codes, with the HTTP status and the sentinel of core that each stands for.
const (
	CodeInvalid         Code = "invalid"
	CodeUnauthenticated Code = "unauthenticated"
	CodeDenied          Code = "denied"
	CodeNotFound        Code = "not-found"
	CodeTaken           Code = "taken"       // another owner of the client id
	CodeCompeting       Code = "competing"   // another commit was accepted for the epoch
	CodeStale           Code = "stale"       // the group is past the message's epoch
	CodeWrongEpoch      Code = "wrong-epoch" // the group has not reached the message's epoch
	CodeTooLarge        Code = "too-large"
	CodeUnavailable     Code = "unavailable"
	CodeUnknownOutcome  Code = "unknown-outcome"
)

var codes = map[Code]struct {
	status   int
	sentinel error
}{
	CodeInvalid:         {http.StatusBadRequest, core.ErrInvalid},
	CodeUnauthenticated: {http.StatusUnauthorized, core.ErrDenied},
	CodeDenied:          {http.StatusForbidden, core.ErrDenied},
	CodeNotFound:        {http.StatusNotFound, core.ErrNotFound},
	CodeTaken:           {http.StatusConflict, core.ErrDenied},
	CodeCompeting:       {http.StatusConflict, core.ErrConflict},
	CodeStale:           {http.StatusConflict, core.ErrConflict},
	CodeWrongEpoch:      {http.StatusConflict, core.ErrConflict},
	CodeTooLarge:        {http.StatusRequestEntityTooLarge, core.ErrTooLarge},
	CodeUnavailable:     {http.StatusServiceUnavailable, core.ErrUnavailable},
	CodeUnknownOutcome:  {http.StatusServiceUnavailable, core.ErrUnknownOutcome},
}

// An Error is what the service answered instead of a result. It matches a
// sentinel of package core with [errors.Is].
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Epoch   uint64 `json:"epoch,omitempty"` // of the group, where the code is about epochs
}

func (e *Error) Error() string { return "delivery service: " + string(e.Code) + ": " + e.Message }

// Unwrap gives the sentinel of the code; an unknown code is ErrUnavailable.
func (e *Error) Unwrap() error {
	if c, ok := codes[e.Code]; ok {
		return c.sentinel
	}
	return core.ErrUnavailable
}

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// asError finds the answer for any error; what is not for the caller to know
// keeps its text to itself.
func asError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, core.ErrInvalid):
		return refuse(CodeInvalid, "%v", err)
	case errors.Is(err, core.ErrTooLarge):
		return refuse(CodeTooLarge, "%v", err)
	case errors.Is(err, core.ErrUnknownOutcome):
		return refuse(CodeUnknownOutcome, "the store does not know whether it happened")
	}
	return refuse(CodeUnavailable, "the service failed")
}
