// SPDX-License-Identifier: Apache-2.0

package crl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// workers is how many addresses are asked at a time.
const workers = 4

// Update brings the revocation lists of a client up to date: those that are registered, unless
// they are good still (see [Fetcher.Fetch]), and those that its certificates and its
// conversations' members call for (see [client.Client.MissingLists]), with the CAs that have
// signed these (see [client.Client.MissingCAs]). Call it each hour or so.
// If it changed something, ask for the state of the conversations again. Without a trust
// anchor it does nothing.
//
// The error joins one for each list that could not be had; all the others are registered. A
// list that is refused by the client is asked for again the next time.
func (f *Fetcher) Update(ctx context.Context, c *client.Client) (changed bool, err error) {
	cas, err := c.MissingCAs(ctx)
	if err == nil && len(cas) > 0 {
		err = c.Transaction(ctx, func(ctx context.Context, t *client.Transaction) error {
			_, err := t.RegisterIntermediate(ctx, cas)
			return err
		})
	}
	env, failed := c.Environment(ctx)
	if failed != nil {
		return false, failed
	}
	registered := env.Lists()
	missing, failed := c.MissingLists(ctx)
	failed = errors.Join(err, failed)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		open = make(chan struct{}, workers)
	)
	for _, address := range slices.Concat(registered, missing) {
		open <- struct{}{}
		wg.Go(func() {
			defer func() { <-open }()
			der, err := f.Fetch(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			var dirty bool
			if err == nil {
				dirty, err = f.register(ctx, c, address, der)
			}
			// The first one of an address may revoke somebody, too.
			changed = changed || dirty || err == nil && !slices.Contains(registered, address)
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	return changed, failed
}

func (f *Fetcher) register(ctx context.Context, c *client.Client, address string, der []byte) (dirty bool, err error) {
	var done e2ei.CRLRegistration
	err = c.Transaction(ctx, func(ctx context.Context, t *client.Transaction) (err error) {
		done, err = t.RegisterCRL(ctx, address, der)
		return err
	})
	if err != nil {
		f.drop(address)
		return false, fail("register", fmt.Errorf("%.80q: %w", address, err))
	}
	return done.Dirty, nil
}
