// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
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

// A rolledBackStore loses a batch, and says from then on that the store is rolled back, or
// something else that does not pass.
type rolledBackStore struct {
	core.Keystore
	when int // 0 never, 1 the next batch is lost, 2 now
	err  error
}

func (s *rolledBackStore) Apply(ctx context.Context, b core.Batch) error {
	switch s.when {
	case 0:
		return s.Keystore.Apply(ctx, b)
	case 1:
		s.when = 2
		return core.ErrUnknownOutcome
	}
	return s.err
}

// A batch that is lost in a failover, or with a plugin that may not start again, is not
// looked for for ever, nor are later ones.
func TestLostInAnAccident(t *testing.T) {
	t.Parallel()
	for _, sentinel := range []error{core.ErrRolledBack, core.ErrDenied} {
		ks := &rolledBackStore{Keystore: memory.New(), err: sentinel}
		s := open(t, ks)
		ks.when = 1
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := s.Apply(ctx, puts(put(1, "g", "a", "1")))
		if !errors.Is(err, core.ErrUnknownOutcome) || !errors.Is(err, sentinel) {
			t.Errorf("got error %v", err)
		}
		if _, err := s.Apply(ctx, puts(put(1, "g", "a", "2"))); !errors.Is(err, sentinel) || errors.Is(err, core.ErrUnknownOutcome) {
			t.Errorf("the next one: got error %v", err)
		}
		ks.when = 0
		apply(t, s, puts(put(1, "g", "a", "3")))
	}
}

// A rotation may begin at any read of a backup, also where no state can be held: what is
// backed up opens with the keys in it.
func TestBackupWhileRotationBegins(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		ks := &coretest.Faulty{Keystore: memory.New()}
		s, other := open(t, ks), open(t, ks.Keystore)
		for i := range 10 {
			apply(t, s, puts(put(1, "scope", fmt.Sprint(i), "value"), put(2, "scope", fmt.Sprint(i), "value")))
		}
		reads := 0
		ks.PlanRead = func(int) bool {
			if reads++; reads == n {
				ctx, cancel := context.WithCancel(t.Context())
				_, _ = other.Rotate(ctx, func(done, _ int) { // interrupted
					if done == 20 {
						cancel()
					}
				})
			}
			return false
		}
		var out bytes.Buffer
		_, err := s.Backup(t.Context(), &out, nil)
		if reads < n {
			break
		}
		if err != nil {
			if !errors.Is(err, core.ErrConflict) {
				t.Errorf("read %d: %v", n, err)
			}
			continue
		}
		to := memory.New()
		if _, err := restore(t, to, out.Bytes()); err != nil {
			t.Errorf("read %d: %v", n, err)
			continue
		}
		if report, err := open(t, to).Verify(t.Context(), nil); err != nil || report.Damaged > 0 || report.Records != 20 {
			t.Errorf("read %d: %+v, %v", n, report, err)
		}
	}
}

// A second copy of what was moved already, and is perhaps in use, begins a new
// incarnation; and the old place stays closed if that one fails.
func TestMoveOfWhatWasMoved(t *testing.T) {
	t.Parallel()
	ks, one, two := memory.New(), memory.New(), memory.New()
	s, _ := filled(t, ks)
	move := func(to core.Keystore) error {
		_, err := seal.Move(t.Context(), ks, to, wrapper(t, 1), "tenant", nil)
		return err
	}
	incarnation := s.Incarnation()
	if err := move(one); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Backup(t.Context(), &bytes.Buffer{}, nil); !errors.Is(err, seal.ErrMoved) {
		t.Errorf("a backup of what was moved: %v", err)
	}
	if err := move(&coretest.Faulty{Keystore: memory.New(), Plan: coretest.At(2, coretest.FaultBefore)}); err == nil {
		t.Error("no error")
	}
	if _, err := seal.Open(t.Context(), ks, wrapper(t, 1), "tenant"); !errors.Is(err, seal.ErrMoved) {
		t.Errorf("the old place: %v", err)
	}
	if err := move(two); err != nil {
		t.Fatal(err)
	}
	if open(t, one).Incarnation() != incarnation || open(t, two).Incarnation() == incarnation {
		t.Error("only the first should go on as if nothing had happened")
	}
}

// An atKeystore calls a function before a certain write.
type atKeystore struct {
	core.Keystore
	n  int
	do func()
}

func (s *atKeystore) Apply(ctx context.Context, b core.Batch) error {
	if s.n--; s.n == 0 {
		s.do()
	}
	return s.Keystore.Apply(ctx, b)
}

// Whatever write of a move another one gets before, no two places go on from one state.
func TestMoveBetween(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 3; n++ {
		ks, one, two := memory.New(), memory.New(), memory.New()
		s, _ := filled(t, ks)
		_, _ = seal.Move(t.Context(), ks, &atKeystore{one, n, func() {
			_, _ = seal.Move(t.Context(), ks, two, wrapper(t, 1), "tenant", nil)
		}}, wrapper(t, 1), "tenant", nil)
		same := 0
		for _, to := range []core.Keystore{one, two} {
			if there, err := seal.Open(t.Context(), to, wrapper(t, 1), "tenant"); err == nil {
				report, err := there.Verify(t.Context(), nil)
				if there.Incarnation() == s.Incarnation() && report.Records == 600 && err == nil {
					same++
				}
			}
		}
		if same != 1 {
			t.Errorf("before write %d: %d places go on", n, same)
		}
	}
}
