// SPDX-License-Identifier: Apache-2.0

package client

import (
	"container/list"
	"sync"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

const (
	cacheSize     = 100 // groups of a client's own cache
	leavesOfGroup = 256 // that a cache has room for on average
)

// A Cache keeps durable values of groups in memory, those that were used last. A client has
// one of its own, with room for 100, unless it is given one that the clients of a process
// share: see [Config.Cache].
type Cache struct {
	// Each value stands with the version of the head that it belongs to: another version
	// in the store makes it worthless. Whoever reads a value holds it meanwhile, and
	// secrets that retired are wiped when nobody reads the conversation any more.
	mu      sync.Mutex
	size    int // groups that there is room for
	entries map[cacheKey]*cacheEntry
	recent  list.List // of *cacheEntry, newest first
	leaves  int       // that the trees of all have room for
}

// NewCache returns a cache for so many groups, and for fewer if they are large: of what a
// tree takes of memory, there is room for 256 leaves a group. One group stays, however
// large.
func NewCache(groups int) *Cache {
	return &Cache{size: groups, entries: map[cacheKey]*cacheEntry{}}
}

type cacheKey struct {
	client *Client
	id     core.ConversationID
}

type cacheEntry struct {
	key     cacheKey
	version core.Version
	group   *mls.Group
	leaves  int // that its tree has room for
	readers int
	retired []core.Secret
	place   *list.Element
}

// get returns the value that belongs to a version, for the only writer there is.
func (c *Cache) get(key cacheKey, version core.Version) *mls.Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil && e.version == version {
		return e.group
	}
	return nil
}

// read is get for a reader, who calls done when finished.
func (c *Cache) read(key cacheKey, version core.Version) (g *mls.Group, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
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
func (c *Cache) put(key cacheKey, version core.Version, g *mls.Group, retired []core.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		e = &cacheEntry{key: key}
		e.place = c.recent.PushFront(e)
		c.entries[key] = e
	}
	c.recent.MoveToFront(e.place)
	c.leaves -= e.leaves
	e.version, e.group, e.leaves = version, g, 0
	if g != nil {
		e.leaves = g.Width()
	}
	c.leaves += e.leaves
	e.retired = append(e.retired, retired...)
	e.wipe()
	if g == nil {
		c.drop(e)
	}
	for place := c.recent.Back(); place != nil && place != c.recent.Front() && (c.recent.Len() > c.size || c.leaves > c.size*leavesOfGroup); {
		oldest := place.Value.(*cacheEntry)
		place = place.Prev()
		if oldest.readers == 0 { // else a later put could not know of them
			c.drop(oldest)
		}
	}
}

// forget drops what may be wrong.
func (c *Cache) forget(key cacheKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		c.drop(e)
	}
}

// forgetAll drops all that is of a client.
func (c *Cache) forgetAll(of *Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, e := range c.entries {
		if key.client == of {
			c.drop(e)
		}
	}
}

func (c *Cache) drop(e *cacheEntry) {
	c.recent.Remove(e.place)
	delete(c.entries, e.key)
	c.leaves -= e.leaves
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
