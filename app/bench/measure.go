// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"time"
)

// A tally keeps what was measured, each figure a Row, by what it is of.
type tally struct {
	order   []Row // without figures, as they came first
	figures map[Row][]Row
}

// subject is what a row is of: the row without its figures.
func (r Row) subject() Row {
	return Row{System: r.System, Suite: r.Suite, Store: r.Store, Signer: r.Signer, Tree: r.Tree, Op: r.Op, N: r.N}
}

func (t *tally) add(rows ...Row) {
	if t.figures == nil {
		t.figures = map[Row][]Row{}
	}
	for _, r := range rows {
		of := r.subject()
		if t.figures[of] == nil {
			t.order = append(t.order, of)
		}
		t.figures[of] = append(t.figures[of], r)
	}
}

// medians has one row for each subject.
func (t *tally) medians() []Row {
	out := make([]Row, len(t.order))
	for i, r := range t.order {
		all := t.figures[r]
		for _, one := range all {
			r.Samples += one.Samples
		}
		r.Wall = median(all, func(r Row) time.Duration { return r.Wall })
		r.CPU = median(all, func(r Row) time.Duration { return r.CPU })
		r.Written = median(all, func(r Row) int64 { return r.Written })
		r.Writes = median(all, func(r Row) int64 { return r.Writes })
		r.Applied = median(all, func(r Row) int64 { return r.Applied })
		r.Allocs = median(all, func(r Row) int64 { return r.Allocs })
		r.AllocBytes = median(all, func(r Row) int64 { return r.AllocBytes })
		r.Resident = median(all, func(r Row) int64 { return r.Resident })
		out[i] = r
	}
	return out
}

func median[V time.Duration | int64](rows []Row, of func(Row) V) V {
	v := make([]V, len(rows))
	for i, r := range rows {
		v[i] = of(r)
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// A turn is one go of one system: what it measures is added to a tally.
type turn struct {
	tally
	of Row // what all of it has in common
}

// time measures f, which does so many operations of one kind on a device.
func (t *turn) time(op string, d *device, each int, f func() error) error {
	if t.of.N >= 100 || each > 1 {
		runtime.GC() // what came before is not to be paid for here
	}
	r := t.of
	r.Op, r.Samples = op, 1
	r.Applied = -d.store.applied.Load()
	m := startMeter()
	err := f()
	m.stop(&r)
	if err != nil {
		return fmt.Errorf("%s, suite %d, %s, %d members: %w", op, r.Suite, r.Store, r.N, err)
	}
	r.Applied += d.store.applied.Load()
	r.Resident = resident()
	r.divide(each)
	t.add(r)
	return nil
}

// A meter has the counters as they were when something began.
type meter struct {
	began             time.Time
	cpu               time.Duration
	written, writes   int64
	allocs, allocated uint64
}

func startMeter() meter {
	var m meter
	m.written, m.writes = writeCalls()
	m.allocs, m.allocated = allocations()
	m.cpu, m.began = cpuTime(), time.Now()
	return m
}

// stop puts what happened since the start into a row.
func (m meter) stop(r *Row) {
	r.Wall, r.CPU = time.Since(m.began), cpuTime()-m.cpu
	allocs, allocated := allocations()
	r.Allocs, r.AllocBytes = int64(allocs-m.allocs), int64(allocated-m.allocated)
	written, writes := writeCalls()
	r.Written, r.Writes = written-m.written, writes-m.writes
}

// divide makes the cost of a series that of one operation of it.
func (r *Row) divide(each int) {
	n := int64(each)
	r.Wall, r.CPU = r.Wall/time.Duration(n), r.CPU/time.Duration(n)
	r.Written, r.Writes, r.Applied, r.Allocs, r.AllocBytes = r.Written/n, r.Writes/n, r.Applied/n, r.Allocs/n, r.AllocBytes/n
}

// writeCalls is what this process has given to write calls, and how many they were,
// where the system tells.
func writeCalls() (bytes, calls int64) {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(data)) {
		_, _ = fmt.Sscanf(line, "wchar: %d", &bytes)
		_, _ = fmt.Sscanf(line, "syscw: %d", &calls)
	}
	return bytes, calls
}

// resident is the memory of this process that is not paged out, where the system tells.
func resident() int64 {
	var size, pages int64
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	_, _ = fmt.Sscanf(string(data), "%d %d", &size, &pages)
	return pages * int64(os.Getpagesize())
}

// allocations is what this process has taken of the heap, and how often.
func allocations() (count, bytes uint64) {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[1].Value.Uint64()
}
