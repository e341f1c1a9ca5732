// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// An OpenAt opens the store of a location, the same one each time, also from
// another process. The suite makes the location: an empty folder of its own. A
// store that keeps its state elsewhere takes the path as a name.
type OpenAt func(ctx context.Context, location string) (core.Keystore, error)

// TestDurableKeystore is [TestKeystore] and, for a store that outlives its
// process: what it holds after it was closed, after its process was killed in
// the middle of Apply, and when it is open twice. Where a store cannot be open
// twice, the second open must give ErrUnavailable.
//
// It runs the test binary again for a process to kill: whatever the calling
// test does before this call is done there too.
func TestDurableKeystore(t *testing.T, open OpenAt) {
	t.Helper()
	if location := os.Getenv(killedAt); location != "" {
		applyUntilKilled(t, open, location)
		return
	}
	TestKeystore(t, func(t *testing.T) core.Keystore { return openAt(t, open, t.TempDir()) })
	runChecks(t, durableChecks, func(t *testing.T) OpenAt { return open })
	name, location := t.Name(), t.TempDir()
	t.Run("killed", func(t *testing.T) {
		during := func(long time.Duration) { beside(t, open, location, long) }
		keystoreKilled(t, open, location, func(during func()) int { return killOnce(t, againUntilKilled(name, location), during) }, during)
	})
}

// againUntilKilled runs a test of this binary again, as the process to be killed.
func againUntilKilled(name, location string) func(context.Context) *exec.Cmd {
	return func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", exactly(name), "-test.count", "1", "-test.timeout", "60s")
		cmd.Env = append(os.Environ(), killedAt+"="+location)
		return cmd
	}
}

var durableChecks = []check[OpenAt]{
	{"reopened", keystoreReopened},
	{"open twice", keystoreShared},
}

func openAt(t testing.TB, open OpenAt, location string) core.Keystore {
	t.Helper()
	store, err := open(t.Context(), location)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return store
}

func keystoreReopened(t testing.TB, open func() OpenAt) {
	location := t.TempDir()
	kept, gone := put(1, "kept", strings.Repeat("v", 100_000)), put(1, "gone", "x")
	k := &kit{TB: t, store: openAt(t, open(), location)}
	k.puts(kept, gone)
	k.apply(core.Batch{Dels: []core.Range{del(1, "gone")}})
	if err := k.store.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	for i := range 3 {
		k := &kit{TB: t, store: openAt(t, open(), location)}
		k.has(kept)
		k.absent(1, "gone")
		k.refused("a version from before", core.ErrConflict, core.Batch{Expect: []core.Expectation{expect(1, "gone", gone.Version)}})
		next := put(1, "kept", fmt.Sprint(i))
		k.apply(core.Batch{Expect: []core.Expectation{expect(1, "kept", kept.Version)}, Puts: []core.Put{next}})
		kept = next
		if err := k.store.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
}

// keystoreShared has two stores on one state: they see each other's batches and
// conflict where they must.
func keystoreShared(t testing.TB, open func() OpenAt) {
	location := t.TempDir()
	one := newKit(t, func() core.Keystore { return openAt(t, open(), location) })
	second, err := open()(t.Context(), location)
	if errors.Is(err, core.ErrUnavailable) {
		return // as documented, this store has one owner
	}
	if err != nil {
		t.Fatalf("open again: %v", err)
	}
	two := newKit(t, func() core.Keystore { return second })

	p := put(1, "a", "from one")
	one.puts(p)
	two.has(p)
	q := put(1, "a", "from two")
	two.apply(core.Batch{Expect: []core.Expectation{expect(1, "a", p.Version)}, Puts: []core.Put{q}})
	one.has(q)
	one.refused("overtaken", core.ErrConflict, core.Batch{Expect: []core.Expectation{expect(1, "a", p.Version)}})

	if s, ok := one.store.(core.Snapshotter); ok {
		snap, err := s.Snapshot(t.Context())
		if err != nil {
			t.Fatalf("snapshot: %v", err)
		}
		two.puts(put(1, "a", "after the snapshot"))
		if answers, err := snap.Read(t.Context(), []core.Query{query(1, "a")}); err != nil || len(answers[0]) != 1 || answers[0][0].Version != q.Version {
			t.Errorf("a snapshot shows what another store wrote after it: %v, %v", answers, err)
		}
		if err := snap.Close(); err != nil {
			t.Errorf("close a snapshot: %v", err)
		}
	}
	noSkew(t, one, two)
	noRangeRaces(t, one, two)

	counter := func(n uint64) core.Put { return put(1, "n", strings.Repeat("\x00", 7)+string([]byte{byte(n)})) }
	one.puts(counter(0))
	const each = 20
	var wg sync.WaitGroup
	for _, k := range []*kit{one, two} {
		wg.Go(func() {
			defer caught(t)
			for range each {
				if err := retry(func() error { return increment(t.Context(), k.store, counter) }); err != nil {
					t.Errorf("increment: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if r := one.one(1, "n"); r == nil || r.Value[7] != 2*each {
		t.Errorf("%d increments through two stores gave %x", 2*each, r)
	}
}

// killedAt tells a process of the test binary that it is the one to be killed,
// and where the store is.
const killedAt = "CORETEST_KILLED_AT"

// killedRows are put by each batch of the process that is killed: enough of
// them that a kill often falls into the middle.
const killedRows = 40

// applyUntilKilled puts batch after batch, says so after each, and never ends by
// itself (but for a limit, should nobody kill it).
func applyUntilKilled(t testing.TB, open OpenAt, location string) {
	err := applyOn(&kit{TB: t, store: openAt(t, open, location)}, func(n int) { fmt.Printf("applied %d\n", n) })
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
}

// applyOn puts batch after batch and tells of each, until one fails.
func applyOn(k *kit, applied func(n int)) error {
	n := 0
	var head core.Version
	last := func() {
		if r := k.one(1, "head"); r != nil {
			n, _ = strconv.Atoi(string(r.Value))
			head = r.Version
		}
	}
	last()
	late := true // a server may still have a batch of the process that was killed before
	for range 100_000 {
		n++
		value := fmt.Sprint(n)
		b := core.Batch{
			Expect: []core.Expectation{expect(1, "head", head)},
			Dels:   []core.Range{del(2, "")},
			Puts:   []core.Put{put(1, "head", value)},
		}
		head = b.Puts[0].Version
		for i := range killedRows {
			// Half of the keys change each time, half are overwritten.
			key := fmt.Sprintf("%02d", i)
			b.Puts = append(b.Puts, put(core.Table(2+i%2), key+strings.Repeat("."+value, 1-i%2), value+strings.Repeat(" ", 4000)))
		}
		if err := k.store.Apply(k.Context(), b); late && errors.Is(err, core.ErrConflict) {
			last()
		} else if err != nil {
			return err
		} else {
			applied(n)
		}
		late = false
	}
	return nil
}

// keystoreKilled has the process killed at random moments and looks at what is left:
// whole batches only, and none lost that was reported, which kill gives. In every other
// round during runs beside the process.
func keystoreKilled(t testing.TB, open OpenAt, location string, kill func(during func()) (reported int), during func(time.Duration)) {
	last := 0
	for round := range 10 {
		reported := kill(func() {
			delay := time.Duration(rand.IntN(30_000)) * time.Microsecond
			if round%2 == 0 {
				during(delay)
			} else {
				time.Sleep(delay)
			}
		})
		if reported == 0 {
			t.Fatal("the process applied nothing")
		}
		k := &kit{TB: t, store: openAt(t, open, location)}
		n, err := wholeBatch(t.Context(), k.store)
		if err != nil {
			t.Fatalf("round %d: after the process was killed: %v", round, err)
		}
		if err := k.store.Close(); err != nil {
			t.Fatalf("round %d: close: %v", round, err)
		}
		if n < reported || n > reported+1 || n <= last {
			t.Fatalf("round %d: batch %d was reported as applied, after %d before, and the store is at %d after it was killed", round, reported, last, n)
		}
		last = n
	}
}

// wholeBatch reads what the process writes and returns the number of the batch,
// or an error if there are parts of several.
func wholeBatch(ctx context.Context, store core.Keystore) (int, error) {
	answers, err := store.Read(ctx, []core.Query{query(1, ""), query(2, ""), query(3, "")})
	if err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	if len(answers[0]) != 1 || len(answers[1]) != killedRows/2 || len(answers[2]) != killedRows/2 {
		return 0, fmt.Errorf("batches were applied, each with 1, %d and %d records in the tables 1, 2 and 3, and now there are %d, %d and %d",
			killedRows/2, killedRows/2, len(answers[0]), len(answers[1]), len(answers[2]))
	}
	head := string(answers[0][0].Value)
	for _, r := range append(answers[1], answers[2]...) {
		if strings.TrimSpace(string(r.Value)) != head {
			return 0, fmt.Errorf("there are parts of two batches: %s and %.20q", head, r.Value)
		}
	}
	return strconv.Atoi(head)
}

// beside uses the store while the other process does, if it can be open twice.
func beside(t testing.TB, open OpenAt, location string, long time.Duration) {
	store, err := open(t.Context(), location)
	if errors.Is(err, core.ErrUnavailable) {
		return
	}
	if err != nil {
		t.Errorf("open beside another process: %v", err)
		return
	}
	defer store.Close()
	last := 0
	for end := time.Now().Add(long); time.Now().Before(end); {
		n, err := wholeBatch(t.Context(), store)
		if err != nil || n < last {
			t.Errorf("beside another process: batch %d after %d, error %v", n, last, err)
			return
		}
		last = n
		if err := retry(func() error { return store.Apply(t.Context(), core.Batch{Puts: []core.Put{put(4, "beside", "")}}) }); err != nil {
			t.Errorf("apply beside another process: %v", err)
			return
		}
	}
}

// killOnce starts the process, lets it apply at least one batch, kills it after
// during and returns the number that it reported last.
func killOnce(t testing.TB, command func(context.Context) *exec.Cmd, during func()) (reported int) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := command(ctx)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	var killer sync.WaitGroup
	lines := bufio.NewScanner(io.TeeReader(stdout, &output))
	for lines.Scan() {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "applied %d", &n); err != nil {
			continue
		}
		if reported == 0 {
			killer.Go(func() {
				during()
				_ = cmd.Process.Kill()
			})
		}
		reported = n
	}
	killer.Wait()
	if err := cmd.Wait(); err == nil || reported == 0 {
		t.Fatalf("the process to kill ended with %v after batch %d:\n%s%s", err, reported, output.String(), stderr.String())
	}
	return reported
}

// exactly makes a -test.run pattern for one test.
func exactly(name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = "^" + regexp.QuoteMeta(parts[i]) + "$"
	}
	return strings.Join(parts, "/")
}
