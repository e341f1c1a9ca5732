// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
)

// open begins a use of the client; done ends it.
func (c *Client) open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return core.ErrClosed
	}
	c.underway++
	return nil
}

func (c *Client) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.underway--; c.closed && c.underway == 0 {
		close(c.idle)
	}
}

// shut lets nothing begin any more, calls first and waits for what is under way. Of
// several callers one does it; the others find it done.
func (c *Client) shut(ctx context.Context, first func()) (did bool, err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false, nil
	}
	c.closed = true
	idle := c.idle
	if c.underway == 0 {
		close(idle)
	}
	c.mu.Unlock()
	first()
	select {
	case <-idle:
		return true, nil
	case <-ctx.Done():
		return true, fmt.Errorf("transactions are still open: %w", ctx.Err())
	}
}

// Close waits for transactions under way, or for the end of the context, and
// closes the store. What is stored stays as it is. No transaction waits any longer for a
// store that is away; one that the application does not end is waited for.
func (c *Client) Close(ctx context.Context) error {
	did, err := c.shut(ctx, c.store.EndSearch)
	if !did {
		return nil
	}
	c.cache.forgetAll(c)
	return errors.Join(err, c.store.Close())
}

// Wipe deletes everything that is stored of the client, by one write, and before that
// its keys in a token, if that can delete them; then the client is closed. It waits for transactions under way:
// if the context ends first, nothing is deleted and the client goes on. After another
// error some keys may be gone: wipe again. A client that is wiped already is no error,
// one that is closed is core.ErrClosed. Nobody is told: leave the conversations first.
//
// All of the store goes: see [seal.Store.Wipe]. Other clients on it must be closed.
func (c *Client) Wipe(ctx context.Context) error {
	if inside, _ := ctx.Value(insideKey{c}).(bool); inside {
		return ErrNestedTransaction
	}
	did, err := c.shut(ctx, func() {})
	if did && err == nil {
		err = c.wipe(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !did && !c.wiped:
		return core.ErrClosed
	case err != nil:
		c.closed, c.idle = false, make(chan struct{})
		return err
	}
	c.wiped = true
	c.cache.forgetAll(c)
	return nil
}

func (c *Client) wipe(ctx context.Context) error {
	_, stay, err := c.sweep(ctx)
	if err == nil && !errors.Is(stay, core.ErrUnsupported) {
		err = stay
	}
	if err != nil {
		return err
	}
	err = c.store.Each(ctx, tableSignatureKey, func(r seal.Record) error {
		k, err := decodeStoredKey(r.Value)
		if err != nil || !k.material.IsZero() {
			return err
		}
		if deleter := c.deleter(k.ref); deleter != nil {
			if err := deleter.DeleteKey(ctx, k.ref); !errors.Is(err, core.ErrUnsupported) {
				return err
			}
		}
		c.log.Warn("a key stays: its provider deletes none", "key", k.ref)
		return nil
	})
	if err != nil {
		return err
	}
	return c.store.Wipe(ctx)
}

// UpdateKey puts the store under another key: see [seal.Store.Rewrap]. Transactions
// under way are not disturbed.
func (c *Client) UpdateKey(ctx context.Context, from, to core.KeyWrapper) error {
	if err := c.open(); err != nil {
		return err
	}
	defer c.done()
	return c.store.Rewrap(ctx, from, to)
}
