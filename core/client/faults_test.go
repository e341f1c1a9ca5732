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
	// passed: the application passes over what the operation says, and finishes.
	passed bool
}

func (x trouble) String() string {
	switch {
	case x.dies:
		return fmt.Sprintf("%v, and the end", x.fault)
	case x.passed:
		return fmt.Sprintf("%v, passed over", x.fault)
	}
	return x.fault.String()
}

var troubles = []trouble{
	{fault: coretest.FaultBefore}, {fault: coretest.FaultLost}, {fault: coretest.FaultApplied}, {fault: coretest.FaultLate}, {fault: coretest.FaultTooLate},
	{fault: coretest.FaultBefore, dies: true}, {fault: coretest.FaultApplied, dies: true}, {fault: coretest.FaultLate, dies: true},
	{fault: coretest.FaultBefore, passed: true},
}

// reads says that it can happen to a read, too: that fails, or it does not.
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
				o := outcomesOf(t, op, func() setting { return set })
				for k, x := range troubles {
					if x.passed && (op.compound || op.run != nil) {
						continue
					}
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
	s.stubborn = x.passed
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
