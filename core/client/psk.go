// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// SetPSK keeps an external pre-shared key under an id that all who hold it agree
// on (RFC 9420 section 8.4). Both are not empty.
func (t *Transaction) SetPSK(ctx context.Context, id []byte, key core.Secret) error {
	return t.do(ctx, func() error {
		if len(id) == 0 || key.IsZero() {
			return fmt.Errorf("pre-shared key: %w", ErrEmptyInput)
		}
		t.segment.put(at(tablePSK, string(id)), theOnly, newEncoder().bytes(key.Bytes()))
		return nil
	})
}

// DeletePSK deletes a pre-shared key; one that is not there is no error.
func (t *Transaction) DeletePSK(ctx context.Context, id []byte) error {
	return t.do(ctx, func() error {
		t.segment.del(at(tablePSK, string(id)), theOnly)
		return nil
	})
}

// psk finds a pre-shared key for the engine: an external one, or the resumption
// key of another of our groups.
func (t *Transaction) psk(ctx context.Context, id mls.PreSharedKeyID) (core.Secret, error) {
	if id.Type == mls.PSKResumption {
		return t.resumptionPSK(ctx, core.ConversationID(id.GroupID), id.Epoch)
	}
	r, found, err := t.segment.get(ctx, at(tablePSK, string(id.ID)), theOnly)
	if err != nil {
		return core.Secret{}, err
	}
	if !found {
		return core.Secret{}, mls.ErrMissingPSK
	}
	var key []byte
	err = decodeRecord("a pre-shared key", r.Value, func(d *decoder) { key = d.bytes() })
	return core.NewSecret(key), err
}

func (t *Transaction) resumptionPSK(ctx context.Context, id core.ConversationID, epoch uint64) (core.Secret, error) {
	h, err := t.peek(ctx, id)
	if err != nil {
		return core.Secret{}, err
	}
	if h.group != nil {
		if key, ok := h.group.ResumptionPSK(epoch); ok {
			return key, nil
		}
	}
	return core.Secret{}, mls.ErrMissingPSK
}
