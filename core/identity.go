// SPDX-License-Identifier: Apache-2.0

package core

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
)

// A ClientID names one client (one device of a person): opaque bytes, not empty.
// In a basic credential it is the identity.
type ClientID string

// LogValue shows a salted digest, never the id itself: the same within a process.
func (id ClientID) LogValue() slog.Value { return obfuscated(string(id)) }

// A ConversationID is the MLS group id: opaque bytes.
type ConversationID string

// LogValue shows a salted digest, never the id itself: the same within a process.
func (id ConversationID) LogValue() slog.Value { return obfuscated(string(id)) }

// logSalt is drawn anew by each process: in its logs the same id looks the same, and
// nobody can try out which it is.
var logSalt = sync.OnceValue(func() (salt [32]byte) {
	_, _ = rand.Read(salt[:]) // never fails, see crypto/rand
	return salt
})

func obfuscated(id string) slog.Value {
	salt := logSalt()
	sum := sha256.Sum256(append(salt[:], id...))
	return slog.StringValue(hex.EncodeToString(sum[:10]))
}

// A SuiteID is an MLS cipher suite code point (RFC 9420 section 17.1).
type SuiteID uint16

// The cipher suites of RFC 9420.
const (
	SuiteX25519AES128Ed25519 SuiteID = 1 // MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519
	SuiteP256AES128P256      SuiteID = 2 // MLS_128_DHKEMP256_AES128GCM_SHA256_P256
	SuiteX25519ChaChaEd25519 SuiteID = 3 // MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519
	SuiteX448AES256Ed448     SuiteID = 4 // MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448
	SuiteP521AES256P521      SuiteID = 5 // MLS_256_DHKEMP521_AES256GCM_SHA512_P521
	SuiteX448ChaChaEd448     SuiteID = 6 // MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448
	SuiteP384AES256P384      SuiteID = 7 // MLS_256_DHKEMP384_AES256GCM_SHA384_P384
)

func (id SuiteID) String() string { return fmt.Sprintf("0x%04X", uint16(id)) }

// CredentialType is a code point of the MLS credential registry (RFC 9420 section 17.5).
type CredentialType uint16

// The credential types of RFC 9420.
const (
	CredentialBasic CredentialType = 1
	CredentialX509  CredentialType = 2
)

// A Credential is what an MLS leaf says of its owner (RFC 9420 section 5.3).
type Credential struct {
	Type         CredentialType
	Identity     []byte   // basic only
	Certificates [][]byte // x509 only: DER, end entity first
	Opaque       []byte   // any other type: the content of its one <V> vector
}

// BasicCredential returns the basic credential of a client.
func BasicCredential(id ClientID) Credential {
	return Credential{Type: CredentialBasic, Identity: []byte(id)}
}
