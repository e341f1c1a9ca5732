// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/conclave-mls/conclave/core"
)

// table is the one table of sentinels and their codes.
var table = []struct {
	sentinel error
	code     ErrorCode
}{
	{core.ErrNotFound, ErrorCode_ERROR_CODE_NOT_FOUND},
	{core.ErrConflict, ErrorCode_ERROR_CODE_CONFLICT},
	{core.ErrUnsupported, ErrorCode_ERROR_CODE_UNSUPPORTED},
	{core.ErrDenied, ErrorCode_ERROR_CODE_DENIED},
	{core.ErrUnavailable, ErrorCode_ERROR_CODE_UNAVAILABLE},
	{core.ErrUnknownOutcome, ErrorCode_ERROR_CODE_UNKNOWN_OUTCOME},
	{core.ErrRolledBack, ErrorCode_ERROR_CODE_ROLLED_BACK},
	{core.ErrTooLarge, ErrorCode_ERROR_CODE_TOO_LARGE},
	{core.ErrInvalid, ErrorCode_ERROR_CODE_INVALID},
	{core.ErrWrongKey, ErrorCode_ERROR_CODE_WRONG_KEY},
	{core.ErrDamaged, ErrorCode_ERROR_CODE_DAMAGED},
	{core.ErrClosed, ErrorCode_ERROR_CODE_CLOSED},
	{context.Canceled, ErrorCode_ERROR_CODE_CANCELED},
	{context.DeadlineExceeded, ErrorCode_ERROR_CODE_DEADLINE_EXCEEDED},
}

// maxErrorText is how much of an error's text goes over, in bytes.
const maxErrorText = 4096

// ToError gives all codes that an error is, and its text. Of nil it is nil.
func ToError(err error) *Error {
	if err == nil {
		return nil
	}
	e := &Error{Text: Clean(err.Error())}
	for _, c := range table {
		if errors.Is(err, c.sentinel) {
			e.Codes = append(e.Codes, c.code)
		}
	}
	return e
}

// FromError is the error that ToError was given, as far as errors.Is and its text show.
// Codes that this version does not know are left out; one that has no others is
// core.ErrUnavailable. Of nil it is nil.
func FromError(e *Error) error {
	if e == nil {
		return nil
	}
	r := &remoteError{text: Clean(e.Text)}
	for _, c := range table {
		for _, code := range e.Codes {
			if code == c.code {
				r.is = append(r.is, c.sentinel)
				break
			}
		}
	}
	if len(e.Codes) > 0 && len(r.is) == 0 {
		r.is = []error{core.ErrUnavailable}
	}
	if r.text == "" {
		r.text = "an error without a text"
	}
	return r
}

type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

// Clean makes a text of the other side fit for an error: it is printable, and it ends
// after maxErrorText bytes.
func Clean(text string) string {
	text = Printable(text[:min(len(text), maxErrorText+utf8.UTFMax)])
	if len(text) <= maxErrorText {
		return text
	}
	end := maxErrorText
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// Printable has a space for each thing that is not printable, such as the control
// sequences of a terminal.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
}
