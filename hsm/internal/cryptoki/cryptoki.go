// SPDX-License-Identifier: Apache-2.0

// Package cryptoki is the part of PKCS#11 (version 2.40, and the EdDSA of 3.0) that
// package hsm uses, as an interface: [Load] opens a module, a shared library, where the
// program was built with cgo; a test brings a scripted one.
//
// What a module demands of its callers is kept by package hsm, not here: a session
// belongs to one operation at a time, and nothing runs while the module is finalised.
// Otherwise the process dies, in C.
package cryptoki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Handles of a module. They mean nothing after Finalize.
type (
	Slot    uint
	Session uint
	Object  uint
)

// A Module is a PKCS#11 module. The errors of its methods are [Error]s.
type Module interface {
	// Initialize calls C_Initialize; args, if any, is what NSS wants in pReserved.
	Initialize(args string) error
	Finalize() error
	Info() (Info, error)
	Slots() ([]Slot, error) // those with a token
	TokenInfo(Slot) (TokenInfo, error)
	// Mechanisms are those that the token lists, which says little about what it can do.
	Mechanisms(Slot) (map[Mechanism]MechanismInfo, error)

	OpenSession(slot Slot, readWrite bool) (Session, error)
	CloseSession(Session) error
	// Login logs the user in; the module is given the PIN and nobody else keeps it.
	Login(s Session, pin []byte) error
	// LoggedIn says whether the user is logged in, by the state of a session.
	LoggedIn(Session) (bool, error)

	// Find returns at most limit objects.
	Find(s Session, t Template, limit int) ([]Object, error)
	// Attribute reads one attribute.
	Attribute(s Session, o Object, a Attribute) ([]byte, error)
	GenerateKey(s Session, m Mechanism, t Template) (Object, error)
	GenerateKeyPair(s Session, m Mechanism, public, private Template) (publicKey, privateKey Object, err error)
	Create(s Session, t Template) (Object, error)
	Destroy(s Session, o Object) error

	// The operations on data: the Init and the one call.
	Sign(s Session, m Mechanism, key Object, data []byte) ([]byte, error)
	Verify(s Session, m Mechanism, key Object, data, signature []byte) error
	// Encrypt also returns the IV: some tokens replace that of the parameters.
	Encrypt(s Session, m Mechanism, p Parameters, key Object, data []byte) (ciphertext, iv []byte, err error)
	Decrypt(s Session, m Mechanism, p Parameters, key Object, data []byte) ([]byte, error)
	// Derive is ECDH without a KDF.
	Derive(s Session, key Object, peer []byte, t Template) (Object, error)
	Wrap(s Session, m Mechanism, wrapping, key Object) ([]byte, error)
	Unwrap(s Session, m Mechanism, wrapping Object, blob []byte, t Template) (Object, error)
	Random(s Session, n int) ([]byte, error)
}

// Info is what a module says of itself.
type Info struct {
	Library, Manufacturer string
	Version               string // of the library
	Cryptoki              string // version of the standard
}

// TokenInfo is what a token says of itself, with the padding removed. It is advice.
type TokenInfo struct {
	Label, Manufacturer, Model, Serial string
	Firmware                           string
	Flags                              Flags
	MaxSessions                        uint // 0: it does not say, or there is no limit
}

// Flags of a token.
type Flags uint

// The flags that package hsm looks at.
const (
	FlagLoginRequired  Flags = 0x4
	FlagUserPINSet     Flags = 0x8
	FlagProtectedPath  Flags = 0x100 // the PIN is entered at the token
	FlagInitialized    Flags = 0x400
	FlagUserPINLow     Flags = 0x10000
	FlagUserPINFinal   Flags = 0x20000 // one try is left
	FlagUserPINLocked  Flags = 0x40000
	FlagUserPINExpired Flags = 0x80000
)

// MechanismInfo are the key sizes and the flags of a mechanism.
type MechanismInfo struct{ Min, Max, Flags uint }

// Parameters of an encryption; the zero value is none.
type Parameters struct {
	IV      []byte
	AAD     []byte // AES-GCM
	TagBits int    // AES-GCM; 0: not AES-GCM
}

// A Template describes an object: values are bool, uint, string or []byte.
type Template []Value

// A Value is one attribute of a template.
type Value struct {
	Attribute Attribute
	Value     any
}

// Is says whether that is the value, as a module gives it; some pad text.
func (v Value) Is(got []byte) bool {
	switch x := v.Value.(type) {
	case bool:
		return len(got) == 1 && (got[0] != 0) == x
	case uint:
		return len(got) == 8 && binary.NativeEndian.Uint64(got) == uint64(x) ||
			len(got) == 4 && uint64(binary.NativeEndian.Uint32(got)) == uint64(x)
	case string:
		return unpadded(string(got)) == unpadded(x)
	case []byte:
		return bytes.Equal(got, x)
	}
	return false
}

// unpadded is text as RFC 7512 compares it; some modules pad with zeros.
func unpadded(s string) string { return strings.TrimRight(s, " \x00") }

// ErrNotBuilt: Load cannot be there without cgo or with the build tag nohsm.
var ErrNotBuilt = errors.New("built without PKCS#11 support")

// Error is a CK_RV.
type Error uint

func (e Error) Error() string { return fmt.Sprintf("%s (0x%x)", e.Name(), uint(e)) }

// Name is the name of the standard, or "CKR_?".
func (e Error) Name() string {
	if name := errorNames[e]; name != "" {
		return name
	}
	if e >= 0x80000000 {
		return "CKR_VENDOR_DEFINED"
	}
	return "CKR_?"
}
