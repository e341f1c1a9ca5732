// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"testing"
)

// TREE-8: a tree that was read from the store grows like one that was not, over
// every edge of a page.
func TestLoadedTreeGrows(t *testing.T) {
	t.Parallel()
	for _, size := range []int{8, 16, 32, 64, 128} {
		for _, more := range []int{1, 2, 9} {
			c := newCrowd(t, allSuites(t)[0], size)
			loaded := loadTree(c.suite, c.tree.size(), c.epoch)
			if err := loaded.needAll(context.Background(), c.store.fetch); err != nil {
				t.Fatal(err)
			}
			loaded, grown := loaded.edit(), c.tree.edit()
			for range more {
				leaf, _ := c.newMember()
				loaded.addLeaf(leaf)
				grown.addLeaf(leaf)
			}
			if !bytes.Equal(loaded.hash(), grown.hash()) {
				t.Errorf("%d and %d more: another tree hash than without the store", size, more)
			}
		}
	}
}
