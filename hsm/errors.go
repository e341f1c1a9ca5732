// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"errors"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// The errors of this package. Each is one of core as well.
var (
	// ErrNotBuilt: the program was built without cgo or with the tag nohsm.
	ErrNotBuilt = kind("built without PKCS#11 support; build with CGO_ENABLED=1, a C compiler and without the tag nohsm", core.ErrUnsupported)
	// ErrModuleLoad: the module is missing or is none.
	ErrModuleLoad = kind("PKCS#11 module cannot be loaded", core.ErrNotFound)
	// ErrModuleOwned: the other engine of this package, or other code of this process,
	// has initialised the module.
	ErrModuleOwned = kind("PKCS#11 module has another owner in this process", core.ErrDenied)
	// ErrTokenNotFound: no token matches; the error lists those that there are.
	ErrTokenNotFound = kind("token not found", core.ErrNotFound)
	// ErrTokenAmbiguous: several tokens match, which the error lists.
	ErrTokenAmbiguous = kind("several tokens match", core.ErrInvalid)
	// ErrTokenUnavailable: the token is gone or fails; it is looked for meanwhile.
	ErrTokenUnavailable = kind("token unavailable", core.ErrUnavailable)
	// ErrPINRejected: the token has refused the PIN, now or earlier. It is not tried again.
	ErrPINRejected = kind("PIN rejected", core.ErrDenied)
	// ErrPINLocked: the token is locked, or one wrong PIN away from it.
	ErrPINLocked = kind("PIN locked", core.ErrDenied)
	// ErrLatch: what is latched cannot be read or written, so no PIN is tried; see
	// [Config]. The error names the file or folder.
	ErrLatch = kind("no PIN is tried", core.ErrDenied)
	// ErrPINRequired: the token wants a PIN, and no source of one is configured.
	ErrPINRequired = kind("PIN required", core.ErrDenied)
	// ErrKeyNotFound: the token is there, and has no such key.
	ErrKeyNotFound = kind("key not found on the token", core.ErrNotFound)
	// ErrKeyAmbiguous: several keys match; the error lists them.
	ErrKeyAmbiguous = kind("several keys match", core.ErrInvalid)
	// ErrKeyMismatch: the key of this name is another one than it was.
	ErrKeyMismatch = kind("another key than before has this name", core.ErrDenied)
	// ErrUnsupported: this token cannot do it.
	ErrUnsupported = kind("the token cannot do this", core.ErrUnsupported)
	// ErrSessionsExhausted: no session became free before the deadline.
	ErrSessionsExhausted = kind("no session of the token became free", core.ErrUnavailable)
	// ErrInvalidInput: what was given is not valid for the operation; the token is well.
	ErrInvalidInput = kind("invalid input", core.ErrInvalid)
	// ErrTooLarge: the token does not take a message of this size.
	ErrTooLarge = kind("message too large for the token", core.ErrTooLarge)
	// ErrPoisoned: calls into the module hang; only a restart of the process helps.
	ErrPoisoned = kind("the module hangs, restart the process", core.ErrUnavailable)
)

// A kindOfError is an error of core, which its text does not repeat.
type kindOfError struct {
	text string
	of   error
}

func kind(text string, of error) error { return &kindOfError{text, of} }

func (k *kindOfError) Error() string { return k.text }

func (k *kindOfError) Unwrap() error { return k.of }

// An Error is what failed, where, and what the module said. It holds no PIN, no key and no
// plaintext.
type Error struct {
	Op     string         // "sign", "login", "find key", ...
	Token  string         // label and serial of the token, or the module's file
	Result cryptoki.Error // what the module returned; 0: nothing
	Kind   error          // one of the errors above, or of core
	Detail string         // for a person; may be empty
}

func (e *Error) Error() string {
	text := "pkcs11: " + e.Op
	if e.Token != "" {
		text += " (" + e.Token + ")"
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	text += ": " + e.Kind.Error()
	if e.Result != 0 {
		text += ": " + e.Result.Error()
	}
	return text
}

// Unwrap gives the kind.
func (e *Error) Unwrap() error { return e.Kind }

// resultOf is what the module returned, or 0.
func resultOf(err error) cryptoki.Error {
	var r cryptoki.Error
	errors.As(err, &r)
	return r
}
