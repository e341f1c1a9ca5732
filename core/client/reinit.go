// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"

	"github.com/conclave-mls/conclave/core/mls"
)

// reInitialised is for a commit that has ended the conversation: nothing of what waits
// in the outbox can be sent any more.
func (t *Transaction) reInitialised(ctx context.Context, h *held) error {
	staged, _, err := t.takeOut(ctx, h, func(o outgoing) bool { return o.kind == outCommit })
	if err != nil {
		return err
	}
	for _, o := range staged {
		t.ended(h.id, o.key, nil, mls.ErrInactive)
	}
	return t.undeliverable(ctx, h, "the conversation was re-initialised")
}
