// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/storage/memory"
)

// validations counts the credentials that are read: certificates, elsewhere.
type validations struct {
	client.Basic
	n *atomic.Int64
}

func (v validations) Validate(c core.Credential, key []byte, at time.Time, p core.Purpose) (core.Identity, error) {
	v.n.Add(1)
	return v.Basic.Validate(c, key, at, p)
}

// What a commit reads of credentials does not grow with the group: neither an update
// nor an Add asks who the others are.
func TestCommitReadsNoCredentialOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	cfg, n := config(), new(atomic.Int64)
	cfg.Authenticator = validations{n: n}
	alice := w.deviceOn("alice", memory.New(), cfg)
	w.create(alice)
	add := func(i int) [][]byte { return [][]byte{w.keyPackage(w.device(core.ClientID(fmt.Sprint("member ", i))))} }
	costs := func(from int) (update, adding int64) {
		in := func(f func(ctx context.Context, c *client.Conversation) error) int64 {
			before := n.Load()
			w.in(alice, f)
			return n.Load() - before
		}
		packages := add(from)
		return in(func(ctx context.Context, c *client.Conversation) error {
				_, err := c.UpdateKeyMaterial(ctx)
				return err
			}), in(func(ctx context.Context, c *client.Conversation) error {
				_, err := c.AddMembers(ctx, packages...)
				return err
			})
	}
	update, adding := costs(1)
	for i := range 20 {
		costs(2 + i)
	}
	if u, a := costs(30); u != update || a != adding || update > 3 {
		t.Errorf("%d credentials read for an update among 22, %d for an Add; alone %d and %d", u, a, update, adding)
	}
}
