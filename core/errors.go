// SPDX-License-Identifier: Apache-2.0

package core

import "errors"

// The sentinels say what the caller should do next. Match with [errors.Is];
// each implementation wraps them with the thing concerned.
var (
	// ErrNotFound: the named thing does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: somebody else changed the state meanwhile; nothing was
	// changed by this call. Read again and retry.
	ErrConflict = errors.New("conflict")
	// ErrUnsupported: this implementation cannot do it, ever.
	ErrUnsupported = errors.New("not supported")
	// ErrDenied: policy, permission or configuration forbids it.
	ErrDenied = errors.New("denied")
	// ErrUnavailable: it cannot be done now; a later try may succeed.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnknownOutcome: the call happened whole or not at all, and the caller
	// has to find out which.
	ErrUnknownOutcome = errors.New("unknown outcome")
	// ErrRolledBack: the store shows a state older than one that was used.
	ErrRolledBack = errors.New("state was rolled back")
	// ErrTooLarge: a size limit was exceeded; nothing was changed.
	ErrTooLarge = errors.New("too large")
	// ErrInvalid: the input is malformed or fails its checks.
	ErrInvalid = errors.New("invalid")
	// ErrWrongKey: the store is sealed with another key. Nothing was changed.
	ErrWrongKey = errors.New("wrong key")
	// ErrDamaged: stored data is present but cannot be authenticated or decoded.
	ErrDamaged = errors.New("stored data is damaged")
	// ErrClosed: the object was closed.
	ErrClosed = errors.New("closed")
)

// kinds are the sentinels. An error may be several, as where an abort has failed too:
// then what says most of our own state comes first, and what says only that the input
// is refused comes last.
var kinds = []error{
	ErrUnknownOutcome, ErrRolledBack, ErrDamaged, ErrWrongKey, ErrClosed, ErrConflict, ErrUnavailable,
	ErrDenied, ErrTooLarge, ErrUnsupported, ErrInvalid, ErrNotFound,
}

// Kind returns the sentinel of this package that an error is, nil if none: what the
// caller should do next. Of several it is the gravest.
func Kind(err error) error {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}

// A ProviderError names the part and the operation that failed.
type ProviderError struct {
	Provider string // "pure", "pkcs11", "sqlite", ...
	Op       string // "sign", "apply", ...
	Err      error
}

func (e *ProviderError) Error() string { return e.Provider + ": " + e.Op + ": " + e.Err.Error() }

// Unwrap gives the cause, so that [errors.Is] sees the sentinels.
func (e *ProviderError) Unwrap() error { return e.Err }
