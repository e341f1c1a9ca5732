// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// A loading fills a keystore with the sealed records of a tenant that it does not have.
// Until the last write, which brings the root record, there is no such tenant. Each
// batch expects the mark that the loading has put in place of the generation record: so
// two loadings do not mix, and none of a batch lands after the end.
type loading struct {
	ks     core.Keystore
	tenant string
	all    []core.Range // of the tenant
	at     own          // before; its generation is our mark
	batch  core.Batch
	size   int
}

// pageOfLoading is how many bytes are written at once, at least.
const pageOfLoading = 1 << 20

// beginLoading makes room: what an interrupted loading has left goes. ErrExists: the
// keystore has the tenant.
func beginLoading(ctx context.Context, ks core.Keystore, tenant string, ring *keyring) (*loading, error) {
	for range maxTries {
		o, err := readOwn(ctx, ks, tenant)
		if err != nil {
			return nil, err
		}
		if o.root.Key != nil {
			return nil, ErrExists
		}
		mark := core.NewVersion()
		b := core.Batch{Expect: o.expect(tenant), Dels: ring.everything(), Puts: []core.Put{putGeneration(tenant, mark)}}
		err = ks.Apply(ctx, b)
		if err == nil {
			o.generation = mark
			return &loading{ks: ks, tenant: tenant, all: ring.everything(), at: o}, nil
		}
		if !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrUnknownOutcome) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("cannot begin: %w", core.ErrUnavailable)
}

// ErrExists: the keystore already has the tenant. It wraps core.ErrDenied.
var ErrExists = fmt.Errorf("the keystore has a client of this name: %w", core.ErrDenied)

// put takes records, and writes them when there are enough.
func (l *loading) put(ctx context.Context, table core.Table, records ...core.Record) error {
	for _, r := range records {
		l.batch.Puts = append(l.batch.Puts, core.Put{Table: table, Key: r.Key, Value: r.Value, Version: r.Version})
		l.size += len(r.Key) + len(r.Value)
		if l.size >= pageOfLoading {
			if err := l.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loading) flush(ctx context.Context) error {
	if len(l.batch.Puts) == 0 {
		return nil
	}
	l.batch.Expect = l.at.expect(l.tenant)[1:] // our mark
	err := core.ErrUnknownOutcome
	for try := 0; try < maxTries && errors.Is(err, core.ErrUnknownOutcome); try++ {
		err = l.ks.Apply(ctx, l.batch) // twice does no harm
	}
	l.batch, l.size = core.Batch{}, 0
	return err
}

// abandon removes what was loaded, unless it has become the tenant's after all. What
// cannot be removed the next loading removes.
func (l *loading) abandon(ctx context.Context) {
	_ = l.ks.Apply(context.WithoutCancel(ctx), core.Batch{
		Expect: l.at.expect(l.tenant),
		Dels:   append(l.all, ownRecords(l.tenant)...),
	})
}

// end brings the root record, and the tenant is there. Its incarnation is the given one.
func (l *loading) end(ctx context.Context, root []byte, incarnation core.Version) error {
	if err := l.flush(ctx); err != nil {
		return err
	}
	b := core.Batch{
		Expect: l.at.expect(l.tenant),
		Puts:   []core.Put{putRoot(l.tenant, root), putGeneration(l.tenant, core.NewVersion())},
	}
	if incarnation != l.at.store {
		b.Puts = append(b.Puts, putAncestry(l.tenant, l.at.store, incarnation))
	} else {
		b.Dels = []core.Range{{Table: ownTable, Prefix: ownKey(l.tenant, ancestryRecord)}}
	}
	return applyRoot(ctx, l.ks, l.tenant, b)
}

// applyRoot applies a batch that replaces the root record, by its first put, and finds
// out whether it did.
func applyRoot(ctx context.Context, ks core.Keystore, tenant string, b core.Batch) error {
	err := core.ErrUnknownOutcome
	for try := 0; try < maxTries && errors.Is(err, core.ErrUnknownOutcome); try++ {
		err = ks.Apply(ctx, b)
		switch {
		case err == nil || try == 0:
		case !errors.Is(err, core.ErrConflict): // an earlier try may have done it
			err = fmt.Errorf("%w (%w)", core.ErrUnknownOutcome, err)
		default: // it was applied, or it is now somebody else's
			o, readErr := readOwn(ctx, ks, tenant)
			if readErr != nil {
				return fmt.Errorf("%w (%w)", core.ErrUnknownOutcome, readErr)
			}
			if o.root.Version == b.Puts[0].Version {
				return nil
			}
		}
	}
	return err
}
