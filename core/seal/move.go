// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// Move moves the records of a tenant to another keystore, as they are. Two of them must
// not go on from one state: so the root record that stays behind says that they have
// moved, before a copy is made, and from then on the tenant's Stores on the old
// keystore, in other processes too, can write no more (ErrMoved). A move that was
// interrupted is finished by another call; one that fails is taken back, if it can be.
// From records that may have arrived somewhere already, the move begins a new
// incarnation: see [Store.Incarnation]. w is the wrapping key in both. progress may be
// nil.
//
// ErrExists: the keystore to has the tenant. ErrNotFound: from has not. ErrWrongKey.
func Move(ctx context.Context, from, to core.Keystore, w core.KeyWrapper, tenant string, progress Progress) (Report, error) {
	report, err := move(ctx, from, to, w, tenant, progress)
	if err != nil {
		return report, fmt.Errorf("seal: move: %w", err)
	}
	return report, nil
}

func move(ctx context.Context, from, to core.Keystore, w core.KeyWrapper, tenant string, progress Progress) (report Report, err error) {
	o, err := readOwn(ctx, from, tenant)
	if err != nil {
		return Report{}, err
	}
	if o.root.Key == nil {
		return Report{}, noRoot(tenant)
	}
	ring, err := unlock(ctx, o, w, tenant)
	if err != nil {
		return Report{}, err
	}
	defer ring.wipe()
	l, err := beginLoading(ctx, to, tenant, ring) // first, to see that it can be written
	if err != nil {
		return Report{}, err
	}
	// Not cancelled halfway: nobody would know whether the old keystore is open.
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	o, err = leave(leaving, from, tenant)
	cancel()
	if err != nil {
		l.abandon(ctx)
		return Report{}, err
	}
	ending := false
	defer func() {
		if err != nil && !ending {
			l.abandon(ctx)
			err = errors.Join(err, comeBack(context.WithoutCancel(ctx), from, tenant, o))
		}
	}()
	if ring, err = unlock(ctx, o, w, tenant); err != nil { // a rotation may have been under way
		return Report{}, err
	}
	defer ring.wipe()
	s := &Store{ks: from, tenant: tenant}
	s.ring.Store(ring)
	err = s.all(ctx, &still{reader: from, ring: ring}, progress, func(_ *keyring, table core.Table, page []core.Record) error {
		s.report(&report, ring, table, page)
		return l.put(ctx, table, page...)
	})
	if err != nil {
		return report, err
	}
	if err := l.flush(ctx); err != nil {
		return report, err
	}
	// Of several who move the tenant to different places at once, one does.
	switch err := o.become(ctx, from, tenant, rootMoved); {
	case errors.Is(err, core.ErrConflict):
		return report, fmt.Errorf("another move has begun: %w", err)
	case err != nil:
		return report, err
	}
	ending = true // from here on it may have happened
	incarnation := o.incarnation
	if o.root.Value[0] == rootMoved { // before, and what was moved then may be in use
		incarnation = core.NewVersion()
	}
	value := append([]byte{rootFormat}, o.root.Value[1:]...)
	return report, l.end(ctx, value, incarnation)
}

// leaveTime is how long the first write of a move may take.
const leaveTime = time.Minute

// leave makes the root record say that the tenant has moved, and returns what is there
// then. The new generation record stops every batch, and every move, that is under way.
func leave(ctx context.Context, ks core.Keystore, tenant string) (own, error) {
	generation := core.NewVersion()
	for range maxTries {
		o, err := readOwn(ctx, ks, tenant)
		if err != nil {
			return own{}, err
		}
		if o.root.Key == nil {
			return own{}, noRoot(tenant)
		}
		if o.generation == generation {
			return o, nil
		}
		value := append([]byte{max(rootMoving, o.root.Value[0])}, o.root.Value[1:]...)
		b := core.Batch{Expect: o.expect(tenant), Puts: []core.Put{putRoot(tenant, value), putGeneration(tenant, generation)}}
		if err := ks.Apply(ctx, b); err != nil && !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrUnknownOutcome) {
			return own{}, err
		}
	}
	return own{}, fmt.Errorf("the keys change all the time: %w", core.ErrUnavailable)
}

// comeBack undoes leave, unless another move has begun, or an earlier one may have ended.
func comeBack(ctx context.Context, ks core.Keystore, tenant string, o own) error {
	if o.root.Value[0] == rootMoved {
		return nil
	}
	err := o.become(ctx, ks, tenant, rootFormat)
	if err != nil && !errors.Is(err, core.ErrConflict) {
		return fmt.Errorf("the old keystore stays closed until the move is finished: %w", err)
	}
	return nil
}

// become gives the root record another format. ErrConflict: somebody has changed it.
func (o own) become(ctx context.Context, ks core.Keystore, tenant string, format byte) error {
	value := append([]byte{format}, o.root.Value[1:]...)
	return applyRoot(ctx, ks, tenant, core.Batch{
		Expect: o.expect(tenant),
		Puts:   []core.Put{putRoot(tenant, value), putGeneration(tenant, core.NewVersion())},
	})
}
