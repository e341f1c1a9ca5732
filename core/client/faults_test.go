// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
)

// A trouble is what happens at one call of the store.
type trouble struct {
	fault coretest.Fault
	dies  bool // and the process ends with it
	// passed: the application passes over what the operation says, and finishes.
	passed bool
	// lasts: so does every call behind it, until the operation has ended.
	lasts bool
}

func (x trouble) String() string {
	switch {
	case x.dies:
		return fmt.Sprintf("%v, and the end", x.fault)
	case x.passed:
		return fmt.Sprintf("%v, passed over", x.fault)
	case x.lasts:
		return fmt.Sprintf("%v, and all behind it", x.fault)
	}
	return x.fault.String()
}

// troubles happen at every call. Of those that happen sometimes it is one in turn.
var (
	troubles = []trouble{
		{fault: coretest.FaultBefore}, {fault: coretest.FaultLost}, {fault: coretest.FaultApplied}, {fault: coretest.FaultLate},
		{fault: coretest.FaultBefore, dies: true}, {fault: coretest.FaultApplied, dies: true},
	}
	sometimes = []trouble{
		{fault: coretest.FaultBefore, passed: true}, {fault: coretest.FaultBefore, lasts: true},
		{fault: coretest.FaultLate, dies: true}, {fault: coretest.FaultTooLate},
	}
)

// troublesAt are those at the n-th call. A read fails, or it does not: there is no more.
func troublesAt(op operation, i, n int, writes bool) (list []trouble) {
	seldom := sometimes
	if !writes {
		seldom = seldom[:2]
	}
	for _, x := range append(slices.Clone(troubles), seldom[(i+n)%len(seldom)]) {
		if (writes || x.fault == coretest.FaultBefore) && !(x.passed && (op.compound || op.run != nil)) {
			list = append(list, x)
		}
	}
	return list
}

// COM-8, openmls#1700: the store fails in every way at every call of every operation,
// reading and writing, or the process ends there. Whatever was said of it, the operation
// has happened or has not, it can be done now, all agree, and everybody goes on.
func TestFaultAtEveryCall(t *testing.T) {
	t.Parallel()
	settings := []setting{{}, {policy: private, options: clienttest.Options{RefuseRepeats: true}}}
	for i, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			o := map[int]outcomes{} // by setting
			if testing.Short() {    // one, in turn
				o[i%2] = outcomesOf(t, op, func() setting { return settings[i%2] })
				n := 1 + i%len(o[i%2].store)
				list := troublesAt(op, i, n, o[i%2].store[n-1])
				playWithFault(t, op, settings[i%2], o[i%2], n, list[i%len(list)])
				return
			}
			for j, set := range settings {
				o[j] = outcomesOf(t, op, func() setting { return set })
			}
			for n := 1; n <= max(len(o[0].store), len(o[1].store)); n++ {
				for k := range len(troubles) + 1 {
					j := (n + k) % 2 // settings take turns
					if n > len(o[j].store) {
						continue
					}
					list := troublesAt(op, i, n, o[j].store[n-1])
					if k < len(list) {
						t.Run(fmt.Sprintf("%d/%d/%v", j, n, list[k]), func(t *testing.T) { playWithFault(t, op, settings[j], o[j], n, list[k]) })
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
			if x.lasts {
				s.faulty.Break()
			}
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

// An ill store answers one call, the n-th from now, with an error of its choice.
type ill struct {
	core.Keystore
	n     int
	err   error
	wrote bool // it was an Apply
	past  bool // an Apply before it went well
}

func (i *ill) now() bool { i.n--; return i.n == 0 }

func (i *ill) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	if i.now() {
		return nil, &core.ProviderError{Provider: "ill", Op: "read", Err: i.err}
	}
	return i.Keystore.Read(ctx, queries)
}

func (i *ill) Apply(ctx context.Context, b core.Batch) error {
	if i.now() {
		i.wrote = true
		return &core.ProviderError{Provider: "ill", Op: "apply", Err: i.err}
	}
	err := i.Keystore.Apply(ctx, b)
	i.past = i.past || err == nil
	return err
}

// No message is to blame for what the store says while it is processed, whatever that
// is: the message comes again.
func TestTroubleWithOurStore(t *testing.T) {
	t.Parallel()
	sentinels := []error{core.ErrNotFound, core.ErrDenied, core.ErrTooLarge, core.ErrInvalid, core.ErrUnsupported}
	for i, op := range operations {
		if !slices.ContainsFunc([]string{"DecryptMessage", "ProcessWelcome", "Replay"}, func(s string) bool { return strings.HasPrefix(op.name, s) }) {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			set := setting{policy: []mls.Config{mls.DefaultConfig, private}[i%2]}
			want := outcomesOf(t, op, func() setting { return set }).gist
			s := newStage(t, op, set)
			for n := 1; ; n++ {
				for _, sentinel := range sentinels {
					s.open() // nothing is in memory
					x := &ill{Keystore: s.store, n: n, err: sentinel}
					s.faulty.Keystore = x
					gist, err := s.play(t.Context())
					if errors.Is(sentinel, core.ErrNotFound) { // which is not what was looked for
						sentinel = core.ErrUnavailable
					}
					if err == nil && (x.past || x.n > 0) { // it is durable, or there was nothing to write
						if gist != want {
							t.Fatalf("call %d: %s, want %s", n, gist, want)
						}
						return
					}
					blamed := x.wrote && errors.Is(sentinel, core.ErrTooLarge) // for what it leads to
					if !errors.Is(err, sentinel) || client.Blames(err) != blamed {
						t.Fatalf("call %d: %v, and the message is dropped: %v", n, err, client.Blames(err))
					}
				}
			}
		})
	}
}
