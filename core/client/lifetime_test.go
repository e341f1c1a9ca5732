// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// LEAF-9: a client adds nobody whose key package is valid for longer than its maximum,
// which lets a year pass unless it is configured.
func TestMaxLifetime(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, c := range []struct {
		longest, lifetime time.Duration
		want              bool
	}{
		{0, 366 * day, true}, {0, client.DefaultMaxLifetime + time.Second, false},
		{-1, 100 * 366 * day, true}, {100 * day, 99 * day, true}, {100 * day, 101 * day, false},
	} {
		w := newWorld(t, clienttest.Options{})
		cfg := config()
		cfg.MaxLifetime = c.longest
		alice := w.deviceOn("alice", memory.New(), cfg)
		w.create(alice)
		p := pure.New()
		suite, err := p.Suite(suite1)
		w.must(err)
		key, err := p.GenerateKey(t.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
		w.must(err)
		begin := time.Now().Add(-time.Hour)
		bundle, err := mls.NewKeyPackage(t.Context(), mls.KeyPackageParams{
			Suite: suite, Signer: key.(core.Signer), Credential: core.BasicCredential("bob"), Capabilities: mls.DefaultCapabilities(p.Suites()),
			Lifetime: mls.Lifetime{NotBefore: uint64(begin.Unix()), NotAfter: uint64(begin.Add(c.lifetime).Unix())},
		})
		w.must(err)
		err = in(t.Context(), alice, func(ctx context.Context, conversation *client.Conversation) error {
			_, err := conversation.AddMembers(ctx, (&mls.MLSMessage{KeyPackage: bundle.KeyPackage}).Marshal())
			return err
		})
		var rule *mls.RuleError
		if c.want && err != nil || !c.want && (!errors.As(err, &rule) || rule.Rule != "LEAF-9") {
			t.Errorf("at most %v, %v: %v", c.longest, c.lifetime, err)
		}
	}
}
