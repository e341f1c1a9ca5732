// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// The errors of this package. Each is one of core as well.
var (
	// ErrNotBuilt: the program was built without cgo or with the tag nohsm.
	ErrNotBuilt = fmt.Errorf("built without PKCS#11 support; build with CGO_ENABLED=1, a C compiler and without the tag nohsm: %w", core.ErrUnsupported)
	// ErrModuleLoad: the module is missing or is none.
	ErrModuleLoad = fmt.Errorf("PKCS#11 module cannot be loaded: %w", core.ErrNotFound)
	// ErrModuleOwned: the other engine of this package, or other code of this process,
	// has initialised the module.
	ErrModuleOwned = fmt.Errorf("PKCS#11 module has another owner in this process: %w", core.ErrDenied)
	// ErrTokenNotFound: no token matches, or several do, which the error lists.
	ErrTokenNotFound = fmt.Errorf("token not found: %w", core.ErrNotFound)
	// ErrTokenUnavailable: the token is gone or fails; it is looked for meanwhile.
	ErrTokenUnavailable = fmt.Errorf("token unavailable: %w", core.ErrUnavailable)
	// ErrPINRejected: the token has refused the PIN, now or earlier. It is not tried again.
	ErrPINRejected = fmt.Errorf("PIN rejected: %w", core.ErrDenied)
	// ErrPINLocked: the token is locked, or one wrong PIN away from it.
	ErrPINLocked = fmt.Errorf("PIN locked: %w", core.ErrDenied)
	// ErrPINRequired: the token wants a PIN, and no source of one is configured.
	ErrPINRequired = fmt.Errorf("PIN required: %w", core.ErrDenied)
	// ErrKeyNotFound: the token is there, and has no such key.
	ErrKeyNotFound = fmt.Errorf("key not found on the token: %w", core.ErrNotFound)
	// ErrKeyAmbiguous: several keys match; the error lists them.
	ErrKeyAmbiguous = fmt.Errorf("several keys match: %w", core.ErrInvalid)
	// ErrKeyMismatch: the key of this name is another one than it was.
	ErrKeyMismatch = fmt.Errorf("another key than before has this name: %w", core.ErrDenied)
	// ErrUnsupported: this token cannot do it.
	ErrUnsupported = fmt.Errorf("the token cannot do this: %w", core.ErrUnsupported)
	// ErrSessionsExhausted: no session became free before the deadline.
	ErrSessionsExhausted = fmt.Errorf("no session of the token became free: %w", core.ErrUnavailable)
	// ErrInvalidInput: what was given is not valid for the operation; the token is well.
	ErrInvalidInput = fmt.Errorf("invalid input: %w", core.ErrInvalid)
	// ErrTooLarge: the token does not take a message of this size.
	ErrTooLarge = fmt.Errorf("message too large for the token: %w", core.ErrTooLarge)
	// ErrPoisoned: calls into the module hang; only a restart of the process helps.
	ErrPoisoned = fmt.Errorf("the module hangs, restart the process: %w", core.ErrUnavailable)
)

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
