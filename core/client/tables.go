// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// The tables. A record is found by its table, a scope, which the store sees
// blinded, and a key, which it sees in clear: numbers that we made up.
const (
	tableClient         core.Table = iota + 16 // no scope: who we are; head of the credentials
	tableData                                  // no scope: the application's checkpoint
	tableCredential                            // no scope; sequence u64
	tableSignatureKey                          // scope public key: reference or material
	tableJournal                               // no scope; key id: a key outside the store that nothing names yet
	tablePool                                  // no scope: head; suite u16, sequence u64: a key package
	tableKeyPackage                            // scope KeyPackageRef: the package with its private keys
	tableWelcome                               // scope hash of an epoch authenticator: entered by a last-resort key package
	tablePSK                                   // scope PSK id
	tableConversations                         // no scope: head; sequence u64: an id
	tableConversation                          // scope conversation: its head
	tableGroup                                 // scope conversation and incarnation; kind u8 and the engine's key
	tableFloors                                // scope conversation; epoch u64: burnt generations
	tableJoin                                  // scope conversation: an external commit that waits for its answer
	tableBuffered                              // scope conversation; content type u8, sequence u32: a message for later
	tableBufferedCommit                        // scope conversation: a commit that lacks proposals
	tableOutbox                                // scope conversation; sequence u64, kind u8: what is to be sent
	tableLease                                 // scope conversation: who sends it
	tableHistory                               // scope conversation: the era that a commit which waits for its answer begins
	tableParts                                 // scope of another table; its key, number u16: see long.go
	tableUse                                   // scope conversation; ref u64: a credential that it may use
	tableIntention                             // scope conversation: what our pending commit is for
	tableAccidents                             // no scope: what happened to the store; beside it, that keys are kept
	tableRefused                               // no scope; IdempotencyKey: why a text that somebody asks for will never arrive
	tableProteus                               // no scope: the Proteus identity; scope name: a record of a cryptobox that was moved
	tablePreKey                                // no scope; id u16: a Proteus prekey
	tableSessions                              // no scope: head; sequence u64: the name of a Proteus session
	tableSession                               // scope name: head of a Proteus session; kind u8 and the engine's key
	tablePKI                                   // no scope: head; kind u8, hash of its name: an anchor, an intermediate, a revocation list
	tableEnrollment                            // no scope; EnrollmentHandle: an enrolment that is not over
	tableCarry                                 // no scope; sequence u64 of a credential: what its issuer wants for renewal, and which issuer
)

// theOnly is the key of a record that is alone in its place, or its head. Items
// that lie beside a head begin with inList, so that no key is another's prefix.
var (
	theOnly = []byte{0}
	inList  = []byte{1}
)

func item(key ...[]byte) []byte { return append(slices.Clip(inList), slices.Concat(key...)...) }

// A place is where records lie together.
type place struct {
	table core.Table
	scope string
}

func at(table core.Table, scope string) place { return place{table, scope} }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.table, q.table), cmp.Compare(p.scope, q.scope))
}

// ofSession is where the Proteus engine's records of a session lie, beside its head.
func ofSession(name string) layout {
	return func(kind record.Kind) (place, []byte) { return at(tableSession, name), []byte{byte(kind)} }
}

func ofConversation(table core.Table, id core.ConversationID) place {
	return place{table, string(id)}
}

// ofGroup is the place of one incarnation of a group: each way into a
// conversation has its own, so that an external join that waits for its answer
// never meets the records of the group it may replace.
func ofGroup(id core.ConversationID, incarnation uint32) place {
	return place{tableGroup, string(newEncoder().u32(incarnation).raw([]byte(id)))}
}

// ofIncarnation is where the MLS engine's records of an incarnation lie. Floors outlive
// the incarnation in which they were burnt.
func ofIncarnation(id core.ConversationID, incarnation uint32) layout {
	return func(kind record.Kind) (place, []byte) {
		if kind == mls.RecordFloors {
			return ofConversation(tableFloors, id), nil
		}
		return ofGroup(id, incarnation), []byte{byte(kind)}
	}
}
