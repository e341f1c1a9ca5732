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
type Secret struct{ b []byte }

// NewSecret takes b over: the caller must not use b afterwards.
func NewSecret(b []byte) Secret { return Secret{b: b} }

// Bytes returns the shared bytes, valid until Wipe. They must not be changed.
func (s Secret) Bytes() []byte { return s.b }

// Len returns the length in bytes.
func (s Secret) Len() int { return len(s.b) }

// IsZero reports whether the Secret holds no bytes.
func (s Secret) IsZero() bool { return len(s.b) == 0 }

// Clone returns a Secret with bytes of its own.
func (s Secret) Clone() Secret { return Secret{b: append([]byte(nil), s.b...)} }

// Equal compares in constant time for equal lengths.
func (s Secret) Equal(t Secret) bool { return subtle.ConstantTimeCompare(s.b, t.b) == 1 }

// Wipe zeroes the bytes, which all copies share.
func (s Secret) Wipe() { clear(s.b) }

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

func (s Secret) redacted() string { return fmt.Sprintf("Secret(%d bytes)", len(s.b)) }
