// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"

	"github.com/conclave-mls/conclave/core"
)

// Unsent is how many texts, proposals and commits of a conversation are durable and wait
// to be sent, or for the answer of the delivery service; [Client.Settle] tries again. Of
// the commits it counts those that [Conversation.StageCommit] has put into the outbox, and
// the one that was made, which is also PendingCommit of [Info]. It is 0 for a conversation
// that we are not in, or that has to be joined again.
func (c *Client) Unsent(ctx context.Context, id core.ConversationID) (int, error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	defer c.done()
	answers, err := newSegment(c.store).read(ctx,
		query{place: ofConversation(tableOutbox, id), keysOnly: true},
		query{place: ofConversation(tableIntention, id), keysOnly: true}, // there is one while a commit is pending
		one(ofConversation(tableConversation, id), theOnly))
	if err != nil {
		return 0, err
	}
	if len(answers[2]) > 0 {
		if h, err := c.decodeHead(answers[2][0].Value); err != nil || h.lost {
			return 0, err
		}
	}
	return len(answers[0]) + len(answers[1]), nil
}
