// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// A segment that encrypted and was then dropped has burnt keys: the ciphertexts may be
// known outside. They are written down as floors, by a write that touches nothing else
// and only raises, whether or not what they belong to is stored: the segment may have
// entered an epoch by a commit that comes again.

// A raise is a floor to be merged into what is stored, which may be nothing. If nothing comes of
// it, nothing is to be written.
type raise struct {
	at    place
	key   []byte
	merge func(stored []byte) ([]byte, error)
}

// burn writes the floors of a dropped segment for the party at a place. While that
// fails the party is closed to this process: see burnAgain.
func (c *Client) burn(ctx context.Context, p place, raises []raise) error {
	c.mu.Lock()
	if c.burnt == nil {
		c.burnt = map[place][]raise{}
	}
	c.burnt[p] = append(c.burnt[p], raises...)
	c.mu.Unlock()
	return c.burnAgain(ctx, p)
}

// burnAgain writes what burn could not. The caller holds the party.
func (c *Client) burnAgain(ctx context.Context, p place) error {
	c.mu.Lock()
	raises := slices.Clone(c.burnt[p])
	c.mu.Unlock()
	if len(raises) == 0 {
		return nil
	}
	for try := 1; ; try++ {
		err := c.raise(ctx, raises)
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
	delete(c.burnt, p)
	return nil
}

// raise merges floors into those that are stored.
func (c *Client) raise(ctx context.Context, raises []raise) error {
	s := newSegment(c.store)
	for _, x := range raises {
		r, _, err := s.getExpected(ctx, x.at, x.key)
		if err != nil {
			return err
		}
		value, err := x.merge(r.Value)
		if err != nil {
			return err
		}
		if value != nil {
			s.put(x.at, x.key, value)
		}
	}
	if s.empty() {
		return nil
	}
	_, err := s.apply(ctx)
	return err
}
