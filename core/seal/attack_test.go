// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A move that begins during a rotation, and is taken back, changes what the batches of
// the rotation expect: none of the records may be passed over.
func TestRotateDuringMoveTakenBack(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	const n = 700
	for i := range n {
		apply(t, s, puts(put(1, "scope", fmt.Sprintf("%04d", i), "value")))
	}
	_, err := s.Rotate(t.Context(), func(done, _ int) {
		if done == 256 {
			to := &coretest.Faulty{Keystore: memory.New(), Plan: coretest.At(2, coretest.FaultBefore)}
			if _, err := seal.Move(t.Context(), ks, to, wrapper(t, 1), "tenant", nil); !errors.Is(err, core.ErrUnavailable) {
				t.Errorf("move: %v", err)
			}
		}
	})
	if err != nil {
		t.Errorf("rotate: %v", err)
	}
	if report, err := open(t, ks).Verify(t.Context(), nil); err != nil || report.Records != n || report.Damaged > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if got := sealedWith(t, ks); got[2] != n || len(got) != 1 {
		t.Errorf("values by data key: %v", got)
	}
}

// Receipts of a machine whose clock is ahead are in use.
func TestReceiptsOfTomorrow(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(24 * time.Hour)
		apply(t, open(t, ks), puts(put(1, "g", "a", "1")))
	})
	before := len(dump(t, ks))
	synctest.Test(t, func(t *testing.T) { open(t, ks) })
	if after := len(dump(t, ks)); after != before {
		t.Errorf("%d records, there were %d", after, before)
	}
}

// A rolledBackStore loses a batch, and says from then on that the store is rolled back.
type rolledBackStore struct {
	core.Keystore
	when int // 0 never, 1 the next batch is lost, 2 now
}

func (s *rolledBackStore) Apply(ctx context.Context, b core.Batch) error {
	switch s.when {
	case 0:
		return s.Keystore.Apply(ctx, b)
	case 1:
		s.when = 2
		return core.ErrUnknownOutcome
	}
	return core.ErrRolledBack
}

// A batch that is lost in a failover is not looked for for ever, nor are later ones.
func TestLostInAnAccident(t *testing.T) {
	t.Parallel()
	ks := &rolledBackStore{Keystore: memory.New()}
	s := open(t, ks)
	ks.when = 1
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := s.Apply(ctx, puts(put(1, "g", "a", "1")))
	if !errors.Is(err, core.ErrUnknownOutcome) || !errors.Is(err, core.ErrRolledBack) {
		t.Errorf("got error %v", err)
	}
	if _, err := s.Apply(ctx, puts(put(1, "g", "a", "2"))); !errors.Is(err, core.ErrRolledBack) || errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("the next one: got error %v", err)
	}
	ks.when = 0
	apply(t, s, puts(put(1, "g", "a", "3")))
}
