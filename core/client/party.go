// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// A party is what a segment can hold and change, such as a conversation: at its place
// is a head, which every change of it expects and replaces.
type party interface {
	changed() bool
	// write puts what has changed, and is not there yet, into the segment that is about
	// to become durable.
	write(s *segment)
	// landed is told the versions of all that is durable now, or nil where nothing has
	// changed. Nobody else holds the party yet.
	landed(c *Client, versions versions)
	// undone is told that the segment is dropped, and tells what of its keys is burnt.
	undone(c *Client) []raise
}

// A holding is a party with its lock.
type holding struct {
	party
	release func()
}

// take holds what is at some places for the open segment. It waits only if the segment
// holds nothing, and then in one order, so that nobody waits in a circle; else what
// another transaction holds is core.ErrConflict. Load gets those that are not held yet,
// in that order; what was burnt there is written down by then.
func (t *Transaction) take(ctx context.Context, load func(missing []place) ([]party, error), places ...place) error {
	s := t.segment
	missing := slices.DeleteFunc(slices.Clone(places), func(p place) bool { return s.held[p].party != nil })
	if len(missing) == 0 {
		return nil
	}
	slices.SortFunc(missing, place.compare)
	missing = slices.Compact(missing)
	var locks []func()
	defer func() { // if they are not the segment's by now
		for _, release := range locks {
			release()
		}
	}()
	for _, p := range missing {
		var release func()
		if len(s.held) == 0 {
			var err error
			if release, err = t.client.locks.acquire(ctx, p); err != nil {
				return err
			}
		} else if release = t.client.locks.try(p); release == nil {
			return fmt.Errorf("another transaction holds what is asked for: %w", core.ErrConflict)
		}
		locks = append(locks, release)
	}
	for _, p := range missing {
		if err := t.client.burnAgain(ctx, p); err != nil {
			return err
		}
	}
	parties, err := load(missing)
	if err != nil {
		return err
	}
	for i, p := range missing {
		s.held[p] = holding{parties[i], locks[i]}
		s.taken = append(s.taken, p)
	}
	locks = nil
	return nil
}
