// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// Of past epochs only a few can be read. Who commits again and again must not leave
// behind what others sent before: it is read first. Other processes commit as well, so
// what counts is not our commits but how far the epoch is from that of what may be
// unread. The queue of a conversation is in the order of epochs: who has read a message
// of one has read all that there is of those before it.

// maxRead is of how many conversations it is known up to where they were read. What is
// forgotten costs a drain.
const maxRead = 4096

// haveRead notes that every message of the epochs before this one was read.
func (c *Client) haveRead(id core.ConversationID, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.read[id]
	if c.read == nil {
		c.read = map[core.ConversationID]uint64{}
	}
	for some := range c.read {
		if ok || len(c.read) < maxRead {
			break
		}
		delete(c.read, some)
	}
	c.read[id] = max(known, epoch)
}

// haveMessage notes that a message was read: with a commit, all of the epoch that it ends.
func (c *Client) haveMessage(h *held, in *incoming) {
	epoch := in.epoch
	if in.content() == mls.ContentCommit {
		epoch = min(epoch+1, h.head.epoch) // unless it waits for proposals
	}
	c.haveRead(h.id, epoch)
}

// farAhead says that a message of the oldest epoch that may have unread ones might not
// be readable after another commit. A process that does not know has read nothing.
func (c *Client) farAhead(h *held) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	epoch := c.read[h.id]
	if epoch > h.head.epoch { // it was joined anew
		delete(c.read, h.id)
		epoch = 0
	}
	return h.head.epoch-epoch >= uint64(max(int(h.group.Config().MaxPastEpochs)-1, 1))
}

// readUp reads what waits in a conversation that was in this epoch: nobody may go on
// before.
func (c *Client) readUp(ctx context.Context, id core.ConversationID, epoch uint64) error {
	if err := c.transport().Drain(ctx, id); err != nil {
		return fmt.Errorf("before a commit, messages are to be read: %w: %w", core.ErrUnavailable, err)
	}
	c.haveRead(id, epoch)
	return nil
}
