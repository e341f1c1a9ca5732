// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// catchesWrong runs the named checks (all, if none is named) against a
// deliberately wrong implementation and fails t unless each of the named checks
// failed, or any at all. It proves that a suite can fail for the reason it claims.
func catchesWrong[T any](t *testing.T, checks []check[T], open func(t testing.TB) T, want ...string) {
	t.Helper()
	caught := map[string]bool{}
	for _, c := range checks {
		if len(want) > 0 && !slices.Contains(want, c.name) {
			continue
		}
		if report := record(t, func(tb testing.TB) { c.run(tb, func() T { return open(tb) }) }); len(report) > 0 {
			caught[c.name] = true
			t.Logf("%s: %s", c.name, report[0])
		}
	}
	if len(caught) == 0 {
		t.Error("the suite accepts a wrong implementation")
	}
	for _, name := range want {
		if !caught[name] {
			t.Errorf("check %q accepts a wrong implementation", name)
		}
	}
}

// catches runs the body with a recording TB and fails t if nothing was reported.
func catches(t *testing.T, run func(t testing.TB)) {
	t.Helper()
	if report := record(t, run); len(report) == 0 {
		t.Error("accepts a wrong implementation")
	}
}

// record runs the body and returns what it reported as failures.
func record(t testing.TB, run func(t testing.TB)) []string {
	t.Helper()
	return recorded(t.Context(), t, run).report
}

// recorded runs the body in a goroutine of its own, so that FailNow can end it. A panic is
// a failure. Outside of a test t is nil.
func recorded(ctx context.Context, t testing.TB, run func(t testing.TB)) *recorder {
	ctx, cancel := context.WithCancel(ctx)
	r := &recorder{TB: t, ctx: ctx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.cleanUp()
		defer cancel()
		defer r.catchPanic()
		run(r)
	}()
	<-done
	return r
}

// A recorder is a testing.TB whose failures stay with it. What neither fails a test nor
// makes a folder (Setenv, ...) goes to the real one.
type recorder struct {
	testing.TB
	ctx context.Context

	mu       sync.Mutex
	report   []string
	logged   []string
	skipped  bool
	cleanups []func()
}

// maxReport is how many failures are kept of one check: it may find one in a loop.
const maxReport = 20

func (r *recorder) fail(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.report) == maxReport {
		text = "and more"
	} else if len(r.report) > maxReport {
		return
	}
	r.report = append(r.report, text)
}

func (r *recorder) log(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.logged) < maxReport {
		r.logged = append(r.logged, text)
	}
}

func (r *recorder) catchPanic() {
	if p := recover(); p != nil {
		r.fail(fmt.Sprint("panic: ", p))
	}
}

// caught is deferred by each goroutine of a check: what an implementation gives may make it
// panic, and only this goroutine can say so.
func caught(t testing.TB) {
	if p := recover(); p != nil {
		t.Errorf("panic: %v", p)
	}
}

func (r *recorder) cleanUp() {
	for {
		r.mu.Lock()
		n := len(r.cleanups)
		if n == 0 {
			r.mu.Unlock()
			return
		}
		f := r.cleanups[n-1]
		r.cleanups = r.cleanups[:n-1]
		r.mu.Unlock()
		func() {
			defer r.catchPanic()
			f()
		}()
	}
}

// The methods of testing.TB that report, end or scope a test.

func (r *recorder) Helper()                   {}
func (r *recorder) Log(args ...any)           { r.log(fmt.Sprint(args...)) }
func (r *recorder) Logf(f string, a ...any)   { r.log(fmt.Sprintf(f, a...)) }
func (r *recorder) Context() context.Context  { return r.ctx }
func (r *recorder) Error(args ...any)         { r.fail(fmt.Sprint(args...)) }
func (r *recorder) Errorf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)) }
func (r *recorder) Fail()                     { r.fail("Fail") }
func (r *recorder) Fatal(args ...any)         { r.fail(fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)); runtime.Goexit() }
func (r *recorder) FailNow()                  { r.fail("FailNow"); runtime.Goexit() }
func (r *recorder) Skip(args ...any)          { r.Log(args...); r.SkipNow() }
func (r *recorder) Skipf(f string, a ...any)  { r.Logf(f, a...); r.SkipNow() }

func (r *recorder) SkipNow() {
	r.mu.Lock()
	r.skipped = true
	r.mu.Unlock()
	runtime.Goexit()
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.report) > 0
}

func (r *recorder) Skipped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// TempDir makes a folder, which is removed at the end.
func (r *recorder) TempDir() string {
	folder, err := os.MkdirTemp("", "coretest-")
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = os.RemoveAll(folder) })
	return folder
}
