// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// Events are put into a queue while what they tell of is still held, so that those of
// a conversation are in order, and are told when nothing is held any more: by one
// goroutine at a time, whoever comes first. What the observers themselves lead to is
// told after that.
type observers struct {
	mu      sync.Mutex // not held while an observer runs
	list    []*observer
	queue   []Event
	telling bool
}

type observer struct {
	observe func(Event)
	stopped atomic.Bool
}

// Observe has a function called with every event from now on, one at a time and in
// order, by whoever finishes a transaction or delivers from an outbox. Nothing is
// held meanwhile, so it may ask the client and start transactions; but whoever it is
// waits for it, and it must not close the client. Once stop has returned no call
// begins.
//
// It has nothing to do with mls.Observe, by which a server follows a group from
// outside.
func (c *Client) Observe(observe func(Event)) (stop func()) {
	return c.observers.add(observe)
}

func (o *observers) add(observe func(Event)) (stop func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	x := &observer{observe: observe}
	o.list = append(slices.Clip(o.list), x)
	return func() {
		x.stopped.Store(true)
		o.mu.Lock()
		defer o.mu.Unlock()
		o.list = slices.DeleteFunc(slices.Clone(o.list), func(y *observer) bool { return x == y })
	}
}

// observe queues events that are durable; whoever holds nothing tells them.
func (c *Client) observe(events ...Event) {
	c.observers.mu.Lock()
	defer c.observers.mu.Unlock()
	c.observers.queue = append(c.observers.queue, events...)
}

// busy says that an observer runs: it may be who asks.
func (o *observers) busy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.telling
}

// tell calls the observers with what is queued. What a delivery led to it tells
// itself, when it is no longer at the outbox.
func (c *Client) tell(ctx context.Context) {
	if ctx.Value(sendingKey{c, anyConversation}) == nil {
		c.observers.tell()
	}
}

// tell is for one goroutine at a time. If an observer panics, the next to come tells
// the rest.
func (o *observers) tell() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.telling {
		return
	}
	o.telling = true
	defer func() { o.telling = false }()
	for len(o.queue) > 0 {
		e := o.queue[0]
		o.queue = o.queue[1:]
		for _, x := range o.list {
			o.call(x, e)
		}
	}
}

func (o *observers) call(x *observer, e Event) {
	o.mu.Unlock()
	defer o.mu.Lock()
	if !x.stopped.Load() {
		x.observe(e)
	}
}
