// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
)

// A trouble is what happens at one call of the store.
type trouble struct {
	fault coretest.Fault
	dies  bool // and the process ends with it
}

func (x trouble) String() string {
	if x.dies {
		return fmt.Sprintf("%v, and the end", x.fault)
	}
	return x.fault.String()
}

// A read fails, or it does not: the first of each half goes for it.
var troubles = []trouble{
	{coretest.FaultBefore, false}, {coretest.FaultLost, false}, {coretest.FaultApplied, false}, {coretest.FaultLate, false}, {coretest.FaultTooLate, false},
	{coretest.FaultBefore, true}, {coretest.FaultApplied, true}, {coretest.FaultLate, true},
}

func (x trouble) reads() bool { return x.fault == coretest.FaultBefore }

// COM-8, openmls#1700: the store fails in every way at every call of every operation,
// reading and writing, or the process ends there. Whatever was said of it, the operation has happened
// or has not, it can be done now, all agree, and everybody goes on.
func TestFaultAtEveryCall(t *testing.T) {
	t.Parallel()
	for i, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			for j, set := range []setting{{}, {policy: private, options: clienttest.Options{RefuseRepeats: true}}} {
				if j > 0 && (testing.Short() || i%3 != 0) {
					continue
				}
				o := outcomesOf(t, op, set)
				for k, x := range troubles {
					var calls []int
					for n, writes := range o.store {
						if writes || x.reads() {
							calls = append(calls, n+1)
						}
					}
					if testing.Short() && len(calls) > 0 { // one of each, in turn
						calls = calls[i%len(calls):][:1]
						if k != i%len(troubles) {
							continue
						}
					}
					for _, n := range calls {
						t.Run(fmt.Sprintf("%d/%d/%v", j, n, x), func(t *testing.T) { playWithFault(t, op, set, o, n, x) })
					}
				}
			}
		})
	}
}

func playWithFault(t *testing.T, op operation, set setting, o outcomes, n int, x trouble) {
	if x.dies {
		set.lease = 20 * time.Millisecond // nobody should wait long for who died
	}
	s := newStage(t, op, set)
	calls := 0
	now := func() bool {
		calls++
		if calls == n {
			*s.dead = x.dies
		}
		return calls == n
	}
	s.faulty.PlanRead = func(int) bool { return now() }
	s.faulty.Plan = func(int, core.Batch) coretest.Fault {
		if now() {
			return x.fault
		}
		return coretest.FaultNone
	}
	gist, err := s.play(t.Context())
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case err == nil:
	case calls < n: // a lease was renewed more often the first time
		t.Fatalf("with no fault: %v", err)
	case !is(core.ErrUnavailable) && !is(core.ErrUnknownOutcome) && !(x.dies && is(core.ErrClosed)), is(core.ErrNotFound), is(core.ErrDamaged):
		t.Fatalf("what failed is no answer: %v", err)
	}
	s.check(o, gist, err)
}
