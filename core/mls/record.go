// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// The records of one group, in the words of package record.

// The kinds, with their keys. Integers are big-endian, epochs of pages inverted
// so that the newest version comes first.
const (
	RecordHeader    record.Kind = iota + 1 // no key: context, epoch secrets, own leaf, configuration
	RecordPathKeys                         // no key: private keys of own leaf, direct path and pending updates
	RecordPage                             // level u8, index u32, ^epoch u64: a tree page
	RecordPastEpoch                        // epoch u64
	RecordRatchet                          // epoch u64, leaf u32, content u8 (0 handshake, 1 application)
	RecordTreeNode                         // epoch u64, node u32: a secret-tree frontier node
	RecordFloors                           // epoch u64: generations that were burnt
	RecordPending                          // no key: the pending commit
	RecordProposal                         // sequence u32: a proposal received or sent in the current epoch
)

// recordFormat is the format version that every stored record begins with.
const recordFormat = 1

// unmarshalRecord decodes a stored record after its format byte. Damage is
// core.ErrDamaged: the store authenticates what it returns, so it is not a peer's doing.
func unmarshalRecord(what string, data []byte, f func(*reader)) error {
	if len(data) == 0 || data[0] != recordFormat {
		return fmt.Errorf("%s: unknown format: %w", what, core.ErrDamaged)
	}
	if err := unmarshal(what, data[1:], f); err != nil {
		return fmt.Errorf("%s: %w", what, core.ErrDamaged)
	}
	return nil
}

func epochKey(epoch uint64) []byte { return appendU64(nil, epoch) }
