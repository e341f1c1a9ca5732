// SPDX-License-Identifier: Apache-2.0

package core

import "crypto/sha256"

// The incarnation of a store is a record whose version says through how many
// accidents it went: whoever puts a store back to an older state, or finds that
// this has happened (ErrRolledBack), puts a new one before anybody uses the store
// again, and every client that knows another learns of it and rejoins its groups.
// A store that never had an accident has none, which reads as version zero.

// incarnationKey is where the record is, in table 0. It is nobody's: all tenants
// of a store share its fate.
var incarnationKey = sha256.Sum256([]byte("conclave incarnation\x00"))

// IncarnationQuery asks for the record, without its value, which is empty.
func IncarnationQuery() Query {
	return Query{Prefix: incarnationKey[:16], KeysOnly: true}
}

// NewIncarnation is the put that begins a new one.
func NewIncarnation() Put {
	return Put{Key: incarnationKey[:16], Version: NewVersion()}
}
