// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"

	"github.com/conclave-mls/conclave/core"
)

// Unsent is how many texts and proposals of a conversation are durable and wait to
// be sent; [Client.Settle] tries again. It is 0 for a conversation that we are not in.
func (c *Client) Unsent(ctx context.Context, id core.ConversationID) (int, error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	defer c.done()
	answers, err := newSegment(c.store).read(ctx, query{place: ofConversation(tableOutbox, id), keysOnly: true})
	if err != nil {
		return 0, err
	}
	return len(answers[0]), nil
}
