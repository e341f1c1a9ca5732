// SPDX-License-Identifier: Apache-2.0

package core

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// A Secret holds key material. Copies of a Secret share the bytes: wiping one
// wipes them all. It is incomparable, and formatting or logging it in any way
// shows its length only.
type Secret struct {
	// A function, because fmt calls no methods on an unexported field of another
	// struct. It prints what is there, follows pointers for some verbs, and shows
	// of a function the address only.
	bytes func() []byte
}

// NewSecret takes b over: the caller must not use b afterwards.
func NewSecret(b []byte) Secret {
	if len(b) == 0 {
		return Secret{}
	}
	return Secret{func() []byte { return b }}
}

// Bytes returns the shared bytes, valid until Wipe. They must not be changed.
func (s Secret) Bytes() []byte {
	if s.bytes == nil {
		return nil
	}
	return s.bytes()
}

// Len returns the length in bytes.
func (s Secret) Len() int { return len(s.Bytes()) }

// IsZero reports whether the Secret holds no bytes.
func (s Secret) IsZero() bool { return s.bytes == nil }

// Clone returns a Secret with bytes of its own.
func (s Secret) Clone() Secret { return NewSecret(append([]byte(nil), s.Bytes()...)) }

// Equal compares in constant time for equal lengths.
func (s Secret) Equal(t Secret) bool { return subtle.ConstantTimeCompare(s.Bytes(), t.Bytes()) == 1 }

// Wipe zeroes the bytes, which all copies share.
func (s Secret) Wipe() { clear(s.Bytes()) }

// Format implements [fmt.Formatter] for every verb.
func (s Secret) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, s.redacted())
}

// GoString, MarshalText and LogValue never show the bytes either.
func (s Secret) GoString() string { return s.redacted() }

// MarshalText never shows the bytes.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.redacted()), nil }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.redacted()) }

func (s Secret) redacted() string { return fmt.Sprintf("Secret(%d bytes)", s.Len()) }
