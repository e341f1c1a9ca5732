// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A value that is being read while others push its conversation out of the cache
// keeps its secrets until the reader is done.
func TestCacheKeepsWhatIsRead(t *testing.T) {
	c := NewCache(cacheSize)
	key := func(id core.ConversationID) cacheKey { return cacheKey{id: id} }
	v1, v2 := core.NewVersion(), core.NewVersion()
	g := &mls.Group{}
	c.put(key("a"), v1, g, nil)
	read, done := c.read(key("a"), v1)
	if read != g {
		t.Fatal("not in the cache")
	}
	for i := range 2 * cacheSize {
		c.put(key(core.ConversationID(fmt.Sprint(i))), v1, g, nil)
	}
	if n := len(c.entries); n > cacheSize+1 {
		t.Errorf("%d groups in the cache", n)
	}
	old := core.NewSecret([]byte{1, 2, 3})
	c.put(key("a"), v2, &mls.Group{}, []core.Secret{old}) // by a writer that had the value too
	if old.Bytes()[0] != 1 {
		t.Error("a secret was wiped under its reader")
	}
	done()
	if old.Bytes()[0] != 0 {
		t.Error("a retired secret outlives its last reader")
	}
}
