// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// GRE-1: a client sends GREASE, in key packages and in GroupInfos, unless it is
// configured not to.
func TestGrease(t *testing.T) {
	t.Parallel()
	for _, off := range []bool{false, true} {
		w := newWorld(t, clienttest.Options{})
		cfg := config()
		cfg.NoGrease = off
		alice, bob := w.deviceOn("alice", memory.New(), cfg), w.deviceOn("bob", memory.New(), cfg)
		w.create(alice)
		w.add(alice, bob)
		w.agree(alice, bob)
		k, err := mls.UnmarshalMLSMessage(w.keyPackage(alice))
		w.must(err)
		info, err := w.service.GroupInfo(chat)
		w.must(err)
		i, err := mls.UnmarshalMLSMessage(info)
		w.must(err)
		if plain := len(k.KeyPackage.LeafNode.Capabilities.Suites) == len(cfg.Suites.Suites()) && len(k.KeyPackage.Extensions) == 0; plain != off {
			t.Errorf("off %v: key package with %v, %v", off, k.KeyPackage.LeafNode.Capabilities, k.KeyPackage.Extensions)
		}
		if n := len(i.GroupInfo.Extensions); off != (n == 2) {
			t.Errorf("off %v: GroupInfo with %d extensions", off, n)
		}
	}
}
