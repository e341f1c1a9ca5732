// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A segment that encrypted and was then dropped has burnt generations: the
// ciphertexts may be known outside. They are written down as floors, by a write
// that touches nothing else and only raises, whether or not the epoch is stored:
// the segment may have entered it by a commit that comes again.

// burn writes the floors of a dropped segment. While that fails the conversation
// is closed to this process: see burnAgain.
func (c *Client) burn(ctx context.Context, id core.ConversationID, sent map[uint64][]mls.Floor) error {
	c.mu.Lock()
	if c.burnt == nil {
		c.burnt = map[core.ConversationID]map[uint64][]mls.Floor{}
	}
	if c.burnt[id] == nil {
		c.burnt[id] = map[uint64][]mls.Floor{}
	}
	for epoch, floors := range sent {
		c.burnt[id][epoch] = append(c.burnt[id][epoch], floors...)
	}
	c.mu.Unlock()
	return c.burnAgain(ctx, id)
}

// burnAgain writes what burn could not. The caller holds the conversation.
func (c *Client) burnAgain(ctx context.Context, id core.ConversationID) error {
	c.mu.Lock()
	sent := maps.Clone(c.burnt[id])
	c.mu.Unlock()
	if len(sent) == 0 {
		return nil
	}
	for try := 1; ; try++ {
		err := c.raise(ctx, id, sent)
		if err == nil {
			break
		}
		if !errors.Is(err, core.ErrConflict) || try == maxTries {
			return err
		}
		if err := c.pause(ctx, try); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.burnt, id)
	return nil
}

// raise merges floors into those that are stored.
func (c *Client) raise(ctx context.Context, id core.ConversationID, sent map[uint64][]mls.Floor) error {
	s := newSegment(c.store)
	p := ofConversation(tableFloors, id)
	for _, epoch := range slices.Sorted(maps.Keys(sent)) {
		r, _, err := s.getExpected(ctx, p, be64(epoch))
		if err != nil {
			return err
		}
		value, err := mls.RaiseFloors(r.Value, sent[epoch])
		if err != nil {
			return err
		}
		s.put(p, be64(epoch), value)
	}
	_, err := s.apply(ctx)
	return err
}
