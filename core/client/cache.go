// SPDX-License-Identifier: Apache-2.0

package client

import (
	"container/list"
	"sync"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// cacheSize is how many groups stay in memory.
const cacheSize = 100

// A groupCache keeps durable values of groups, each with the version of the head
// that it belongs to: another version in the store makes it worthless. Whoever
// reads a value holds it meanwhile, and secrets that retired are wiped when
// nobody reads the conversation any more.
type groupCache struct {
	mu      sync.Mutex
	entries map[core.ConversationID]*cacheEntry
	recent  list.List // of *cacheEntry, newest first
}

type cacheEntry struct {
	id      core.ConversationID
	version core.Version
	group   *mls.Group
	readers int
	retired []core.Secret
	place   *list.Element
}

// get returns the value that belongs to a version, for the only writer there is.
func (c *groupCache) get(id core.ConversationID, version core.Version) *mls.Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[id]; e != nil && e.version == version {
		return e.group
	}
	return nil
}

// read is get for a reader, who calls done when finished.
func (c *groupCache) read(id core.ConversationID, version core.Version) (g *mls.Group, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[id]
	if e == nil || e.version != version || e.group == nil {
		return nil, nil
	}
	e.readers++
	return e.group, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.readers--
		e.wipe()
	}
}

// put replaces the value of a conversation, after its write is durable. The
// secrets are those that only the values before it hold. A nil group forgets it.
func (c *groupCache) put(id core.ConversationID, version core.Version, g *mls.Group, retired []core.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[id]
	if e == nil {
		if c.entries == nil {
			c.entries = map[core.ConversationID]*cacheEntry{}
		}
		e = &cacheEntry{id: id}
		e.place = c.recent.PushFront(e)
		c.entries[id] = e
	}
	c.recent.MoveToFront(e.place)
	e.version, e.group = version, g
	e.retired = append(e.retired, retired...)
	e.wipe()
	if g == nil {
		c.drop(e)
	}
	for place := c.recent.Back(); place != nil && c.recent.Len() > cacheSize; {
		oldest := place.Value.(*cacheEntry)
		place = place.Prev()
		if oldest.readers == 0 { // else a later put could not know of them
			c.drop(oldest)
		}
	}
}

// forget drops what may be wrong.
func (c *groupCache) forget(id core.ConversationID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[id]; e != nil {
		c.drop(e)
	}
}

func (c *groupCache) drop(e *cacheEntry) {
	c.recent.Remove(e.place)
	delete(c.entries, e.id)
}

func (e *cacheEntry) wipe() {
	if e.readers > 0 {
		return
	}
	for _, s := range e.retired {
		s.Wipe()
	}
	e.retired = nil
}
