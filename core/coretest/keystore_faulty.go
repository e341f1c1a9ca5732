// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/conclave-mls/conclave/core"
)

// A Fault is what can go wrong with one Apply.
type Fault uint8

// The faults. After each but FaultNone and FaultBefore the caller cannot know
// whether the batch was applied.
const (
	FaultNone    Fault = iota
	FaultBefore        // ErrUnavailable, not applied
	FaultLost          // ErrUnknownOutcome, never applied
	FaultApplied       // ErrUnknownOutcome, applied
	FaultLate          // ErrUnknownOutcome, tried just before the next Apply
	FaultTooLate       // ErrUnknownOutcome, tried just after the next Apply
)

func (f Fault) String() string {
	names := [...]string{"none", "before", "lost", "applied", "late", "too late"}
	if int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("fault %d", uint8(f))
}

// Faulty is a keystore that fails when told to, and else passes calls on. It is
// safe for concurrent use, but Plan and PlanRead are called one at a time.
//
//	store := &coretest.Faulty{Keystore: memory.New(), Plan: coretest.At(3, coretest.FaultApplied)}
type Faulty struct {
	core.Keystore
	// Plan chooses the fault of the n-th Apply, 1 being the first; nil: none.
	Plan func(n int, b core.Batch) Fault
	// PlanRead says whether the n-th Read fails with ErrUnavailable; nil: none.
	PlanRead func(n int) bool

	mu      sync.Mutex
	applies int
	reads   int
	late    []core.Batch // tried before the next Apply
	tooLate []core.Batch // tried after it
	broken  atomic.Bool
}

// At is a plan: this fault for the n-th Apply and none for the others.
func At(n int, f Fault) func(int, core.Batch) Fault {
	return func(i int, _ core.Batch) Fault {
		if i == n {
			return f
		}
		return FaultNone
	}
}

// Break makes every later call fail with ErrUnavailable, as when the process had
// ended: what Plan calls it for still gets its fault. Mend undoes it.
func (f *Faulty) Break() { f.broken.Store(true) }

// Mend undoes Break.
func (f *Faulty) Mend() { f.broken.Store(false) }

// Applies returns how often Apply was called.
func (f *Faulty) Applies() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applies
}

// Land tries the batches that are still on their way.
func (f *Faulty) Land(ctx context.Context) {
	f.mu.Lock()
	batches := append(f.late, f.tooLate...)
	f.late, f.tooLate = nil, nil
	f.mu.Unlock()
	f.try(ctx, batches)
}

// try applies what was on its way. Whether that succeeds nobody learns.
func (f *Faulty) try(ctx context.Context, batches []core.Batch) {
	for _, b := range batches {
		_ = f.Keystore.Apply(context.WithoutCancel(ctx), b)
	}
}

// Read implements [core.Keystore].
func (f *Faulty) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	f.mu.Lock()
	f.reads++
	fails := f.broken.Load() || f.PlanRead != nil && f.PlanRead(f.reads)
	f.mu.Unlock()
	if fails {
		return nil, fault("read", core.ErrUnavailable)
	}
	return f.Keystore.Read(ctx, queries)
}

// Apply implements [core.Keystore].
func (f *Faulty) Apply(ctx context.Context, b core.Batch) error {
	f.mu.Lock()
	if f.broken.Load() {
		f.mu.Unlock()
		return fault("apply", core.ErrUnavailable)
	}
	f.applies++
	late, tooLate := f.late, f.tooLate
	f.late, f.tooLate = nil, nil
	todo := FaultNone
	if f.Plan != nil {
		todo = f.Plan(f.applies, b)
	}
	switch todo {
	case FaultLate:
		f.late = append(f.late, clone(b))
	case FaultTooLate:
		f.tooLate = append(f.tooLate, clone(b))
	}
	f.mu.Unlock()

	f.try(ctx, late)
	defer f.try(ctx, tooLate)
	switch todo {
	case FaultNone:
		return f.Keystore.Apply(ctx, b)
	case FaultBefore:
		return fault("apply", core.ErrUnavailable)
	case FaultApplied:
		// What the store says about it, a conflict too, is lost as well.
		_ = f.Keystore.Apply(ctx, b)
	}
	return fault("apply", core.ErrUnknownOutcome)
}

func fault(op string, err error) error {
	return &core.ProviderError{Provider: "faulty", Op: op, Err: err}
}

// clone copies a batch: its slices are the caller's again when Apply returns.
func clone(b core.Batch) core.Batch {
	copied := func(s []byte) []byte { return append([]byte(nil), s...) }
	out := core.Batch{}
	for _, e := range b.Expect {
		e.Key = copied(e.Key)
		out.Expect = append(out.Expect, e)
	}
	for _, d := range b.Dels {
		d.Prefix = copied(d.Prefix)
		out.Dels = append(out.Dels, d)
	}
	for _, p := range b.Puts {
		p.Key, p.Value = copied(p.Key), copied(p.Value)
		out.Puts = append(out.Puts, p)
	}
	return out
}
