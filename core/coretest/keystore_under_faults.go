// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
)

// TestFaultyKeystore runs [TestKeystore] over a store to which the connection
// breaks at every other call, before the batch, after it, and so that it lands
// later: whoever looks for what became of a batch as the contract says must find
// it whole, once or not at all. Then core/seal, which does that for the client,
// counts what happened beside a model. It needs no more than TestKeystore:
//
//	coretest.TestFaultyKeystore(t, func(t *testing.T) core.Keystore { return openMine(t) })
func TestFaultyKeystore(t *testing.T, open func(t *testing.T) core.Keystore) {
	t.Helper()
	runChecks(t, keystoreChecks, func(t *testing.T) core.Keystore {
		return &patient{Faulty: breaking(open(t), 1)}
	})
	runChecks(t, faultyChecks, open)
}

var faultyChecks = []check[core.Keystore]{
	{"sealed, exactly once", keystoreOnce},
}

// breaking has random faults in half of all calls, the same ones each time as far
// as the calls are the same.
func breaking(store core.Keystore, seed uint64) *Faulty {
	random := rand.New(rand.NewPCG(seed, 7))
	return &Faulty{
		Keystore: store,
		Plan: func(int, core.Batch) Fault {
			return Fault(max(0, 1+random.IntN(2*int(FaultTooLate))-int(FaultTooLate)))
		},
		PlanRead: func(int) bool { return random.IntN(3) == 0 },
	}
}

// A patient hides the faults: it tries again what was not available, and asks for
// unknown outcomes by way of a receipt, a record that every batch replaces.
type patient struct {
	*Faulty
	mu   sync.Mutex
	free []receipt
	made uint64
}

// patience is after how many tries in a row it is not for our faults that a call fails.
const patience = 1000

// A receipt belongs to one batch at a time.
type receipt struct {
	key     []byte
	version core.Version
}

// receiptTable is none that the checks look at.
const receiptTable core.Table = 254

func (r receipt) replace(b core.Batch, with core.Version) core.Batch {
	b.Expect = append(b.Expect[:len(b.Expect):len(b.Expect)], core.Expectation{Table: receiptTable, Key: r.key, Version: r.version})
	b.Puts = append(b.Puts[:len(b.Puts):len(b.Puts)], core.Put{Table: receiptTable, Key: r.key, Version: with})
	return b
}

func (p *patient) take() receipt {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		r := p.free[n-1]
		p.free = p.free[:n-1]
		return r
	}
	p.made++
	return receipt{key: binary.BigEndian.AppendUint64(nil, p.made)}
}

func (p *patient) give(r receipt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, r)
}

// Read implements [core.Keystore].
func (p *patient) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	for try := 0; ctx.Err() == nil && try < patience; try++ {
		answers, err := p.Faulty.Read(ctx, queries)
		if !errors.Is(err, core.ErrUnavailable) {
			return answers, err
		}
	}
	return p.Keystore.Read(ctx, queries)
}

// Apply implements [core.Keystore].
func (p *patient) Apply(ctx context.Context, b core.Batch) error {
	r, known := p.take(), true
	defer func() {
		if known {
			p.give(r)
		}
	}()
	for try := 0; ctx.Err() == nil && try < patience; try++ {
		fresh := core.NewVersion()
		whole := r.replace(b, fresh)
		if whole.Check() != nil {
			break // malformed, or there is no room for a receipt
		}
		err := p.Faulty.Apply(ctx, whole)
		if errors.Is(err, core.ErrUnknownOutcome) {
			r.version, err = p.resolve(context.WithoutCancel(ctx), r)
			if known = err == nil; known && r.version != fresh {
				continue // it did not happen, and never will
			}
		} else if err == nil {
			r.version = fresh
		}
		if !errors.Is(err, core.ErrUnavailable) {
			return err
		}
	}
	return p.Keystore.Apply(ctx, b)
}

// resolve puts another version in place of the one that a lost batch expects, and
// returns the version that the receipt has then.
func (p *patient) resolve(ctx context.Context, r receipt) (core.Version, error) {
	instead := core.NewVersion()
	for range patience {
		err := p.Faulty.Apply(ctx, r.replace(core.Batch{}, instead))
		switch {
		case err == nil:
			return instead, nil
		case errors.Is(err, core.ErrConflict):
			answers, err := p.Read(ctx, []core.Query{{Table: receiptTable, Prefix: r.key, KeysOnly: true}})
			if err != nil || len(answers) != 1 || len(answers[0]) != 1 {
				return r.version, fmt.Errorf("read a receipt: %w, %d answers", err, len(answers))
			}
			return answers[0][0].Version, nil
		case !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrUnknownOutcome):
			return r.version, err
		}
	}
	return r.version, fault("resolve", core.ErrUnknownOutcome)
}

// keystoreOnce has several goroutines count, each on its own and all of them
// together, through core/seal and random faults. Then one more does while nobody else
// is there: what lands too late from that one finds all as it was but its receipt. What
// Apply reports as done is done once; what it reports as not done is not, not later either.
func keystoreOnce(t testing.TB, open func() core.Keystore) {
	store := open()
	faulty := breaking(store, 2)
	key, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	var s *seal.Store
	if err := retry(func() (err error) { s, err = seal.Open(t.Context(), faulty, key, "tenant"); return err }); err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), store.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
	})

	const writers = 4
	tries := 60
	if testing.Short() {
		tries = 20
	}
	number := func(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	all := []byte("all") // the scope of the record that everybody counts in
	done := make([]map[string]string, writers+1)
	write := func(w int) {
		done[w] = map[string]string{}
		own := fmt.Appendf(nil, "writer %d", w)
		for n := range tries {
			count, version := 0, core.Version{}
			err := retry(func() error {
				answers, err := s.Read(t.Context(), []seal.Query{{Table: 1, Scope: all, Prefix: []byte("n")}})
				if err == nil && len(answers[0]) == 1 {
					count, version = int(binary.BigEndian.Uint32(answers[0][0].Value)), answers[0][0].Version
				}
				return err
			})
			if err != nil {
				t.Errorf("read: %v", err)
				return
			}
			// An entry comes, the one before it goes, and the common count goes on.
			_, err = s.Apply(t.Context(), seal.Batch{
				Expect: []seal.Expectation{
					{Table: 1, Scope: all, Key: []byte("n"), Version: version},
					{Table: 2, Scope: own, Key: number(n)},
				},
				Dels: []seal.Range{{Table: 2, Scope: own, Prefix: number(n - 1)}},
				Puts: []seal.Put{
					{Table: 1, Scope: all, Key: []byte("n"), Value: number(count + 1)},
					{Table: 2, Scope: own, Key: number(n), Value: number(n)},
					{Table: 3, Scope: own, Key: number(n), Value: number(count)},
				},
			})
			switch {
			case err == nil:
				done[w][string(number(n))] = string(number(count))
			case !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrConflict):
				t.Errorf("apply: %v", err)
				return
			}
		}
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { write(w) })
	}
	wg.Wait()
	faulty.Plan = func(n int, _ core.Batch) Fault {
		if n%3 == 0 {
			return FaultTooLate
		}
		return FaultNone
	}
	write(writers)
	faulty.Land(t.Context())
	faulty.Plan, faulty.PlanRead = nil, nil

	total := 0
	counts := map[string]bool{} // what the common count was before each batch that happened
	for w := range done {
		total += len(done[w])
		answers, err := s.Read(t.Context(), []seal.Query{{Table: 3, Scope: fmt.Appendf(nil, "writer %d", w)}})
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		found := map[string]string{}
		for _, r := range answers[0] {
			found[string(r.Key)] = string(r.Value)
			if counts[string(r.Value)] {
				t.Errorf("two batches counted on from %x", r.Value)
			}
			counts[string(r.Value)] = true
		}
		if !maps.Equal(found, done[w]) {
			t.Errorf("writer %d: the store says that %d batches happened, Apply said %d", w, len(found), len(done[w]))
		}
	}
	answers, err := s.Read(t.Context(), []seal.Query{{Table: 1, Scope: all}})
	if err != nil || len(answers[0]) != 1 || binary.BigEndian.Uint32(answers[0][0].Value) != uint32(total) {
		t.Errorf("%d batches happened, counted were %v, %v", total, answers, err)
	}
	if total < tries/2 {
		t.Errorf("only %d batches of %d happened", total, len(done)*tries)
	}
}
