// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// proteusRounds is how often both take their turns.
const proteusRounds = 7

// A timing is one line of the table: an operation, on so many sessions or prekeys.
type timing struct {
	store, op string
	n         int
}

// timings are milliseconds, in the order in which they were taken.
type timings struct {
	order []timing
	took  map[timing][]float64
}

func (t *timings) add(at timing, ms ...float64) {
	if t.took == nil {
		t.took = map[timing][]float64{}
	}
	if t.took[at] == nil {
		t.order = append(t.order, at)
	}
	t.took[at] = append(t.took[at], ms...)
}

// BenchmarkProteus prints how long an application waits for one transaction with Proteus, of
// Core Crypto's and of ours. What is done is the part "proteus" of peers/bench/bench-cc.mjs in the
// shared folder, which is run as it is; both store in memory and then on one disk, by turns. A time
// is the median of the rounds' medians, the ratio that of the rounds' ratios.
func BenchmarkProteus(b *testing.B) {
	script := coreBench(b)
	var core, ours, ratio timings
	for round := range proteusRounds {
		for _, store := range []string{"mem", "disk"} {
			var theirs, here timings
			turns := []func(){func() { theirs = benchCore(b, script, store) }, func() { here = proteusTurn(b, store) }}
			turns[round%2]()
			turns[1-round%2]()
			for _, at := range here.order {
				if theirs.took[at] == nil {
					b.Fatalf("Core Crypto's benchmark has no %+v", at)
				}
				x, y := middle(theirs.took[at]), middle(here.took[at])
				core.add(at, x)
				ours.add(at, y)
				ratio.add(at, x/y)
			}
		}
	}
	var out strings.Builder
	out.WriteString("\n| store | operation | n | Core Crypto | Conclave | times as fast | in the rounds |\n|---|---|---|---|---|---|---|\n")
	for _, at := range ours.order {
		r := ratio.took[at]
		fmt.Fprintf(&out, "| %s | %s | %d | %.3f ms | %.3f ms | %.1f | %.1f to %.1f |\n", at.store, strings.TrimPrefix(at.op, "proteus "), at.n,
			middle(core.took[at]), middle(ours.took[at]), middle(r), slices.Min(r), slices.Max(r))
	}
	fmt.Println(&out)
}

func middle(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// coreBench lays Core Crypto's benchmark beside the packages that its driver has.
func coreBench(b *testing.B) (script string) {
	folder, packages := b.TempDir(), corePeer(b)
	packages, err := filepath.Abs(filepath.Join(packages, "node_modules"))
	if err == nil {
		err = os.Symlink(packages, filepath.Join(folder, "node_modules"))
	}
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"bench-cc.mjs", "common.mjs"} {
		source, err := os.ReadFile(coretest.Shared(b, "peers", "bench", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), source, 0o600)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return filepath.Join(folder, "bench-cc.mjs")
}

// benchCore is a turn of Core Crypto's.
func benchCore(b *testing.B, script, store string) (t timings) {
	dir := b.TempDir()
	cmd := exec.Command("node", script, "--what", "proteus", "--db", store, "--dir", dir, "--pooldir", dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("Core Crypto's benchmark: %v\n%s", err, &stderr)
	}
	for line := range bytes.Lines(out) {
		var row struct {
			Op string
			N  int
			Ms float64
		}
		if err := json.Unmarshal(line, &row); err != nil {
			b.Fatalf("%q: %v", line, err)
		}
		t.add(timing{store, row.Op, row.N}, row.Ms)
	}
	return t
}

// A proteusBench is a client whose transactions are timed.
type proteusBench struct {
	*testing.B
	*client.Client
	store string
	t     *timings
}

func newProteusBench(b *testing.B, store string, t *timings) proteusBench {
	ctx, p := b.Context(), pure.New()
	var ks core.Keystore = memory.New()
	var err error
	if store == "disk" {
		ks, err = sqlite.Open(ctx, filepath.Join(b.TempDir(), "store"))
	}
	var key core.KeyWrapper
	if err == nil {
		key, err = seal.RawKey(core.NewSecret(make([]byte, 32)))
	}
	var sealed *seal.Store
	if err == nil {
		sealed, err = seal.Open(ctx, ks, key, "device")
	}
	var c *client.Client
	if err == nil {
		c, err = client.Open(ctx, client.Config{Store: sealed, Suites: p, Keys: p})
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			b.Error(err)
		}
		if err := ks.Close(); err != nil {
			b.Error(err)
		}
	})
	x := proteusBench{b, c, store, t}
	x.do(func(ctx context.Context, p client.Proteus) error { return p.Init(ctx) })
	return x
}

func (x proteusBench) do(f func(context.Context, client.Proteus) error) {
	x.Helper()
	err := x.Transaction(x.Context(), func(ctx context.Context, tx *client.Transaction) error { return f(ctx, tx.Proteus()) })
	if err != nil {
		x.Fatal(err)
	}
}

// time is do for one sample of an operation, of which the transaction has so many.
func (x proteusBench) time(op string, n, many int, f func(context.Context, client.Proteus) error) {
	x.Helper()
	begin := time.Now()
	x.do(f)
	x.t.add(timing{x.store, op, n}, float64(time.Since(begin).Nanoseconds())/1e6/float64(many))
}

// proteusTurn does what bench-cc.mjs does.
func proteusTurn(b *testing.B, store string) (t timings) {
	x, y := newProteusBench(b, store, &t), newProteusBench(b, store, &t)
	var bundles [][]byte
	preKeys := func(from, to uint16) func(context.Context, client.Proteus) error {
		return func(ctx context.Context, p client.Proteus) error {
			bundles = nil
			for id := from; id < to; id++ {
				bundle, err := p.NewPreKey(ctx, id)
				if err != nil {
					return err
				}
				bundles = append(bundles, bundle)
			}
			return nil
		}
	}
	for id := range uint16(30) {
		y.time("proteus prekey, 1 a transaction", 1, 1, preKeys(1+id, 2+id))
	}
	y.time("proteus prekey, 200 a transaction (each)", 200, 200, preKeys(100, 300))
	y.do(preKeys(1000, 2000))

	session := func(i int) string { return fmt.Sprint("s", i) }
	var messages [][]byte
	encrypt := func(x proteusBench, op string, many int, name string, plaintext []byte) {
		x.time(op, 1, many, func(ctx context.Context, p client.Proteus) error {
			messages = nil
			for range many {
				m, err := p.Encrypt(ctx, name, plaintext)
				if err != nil {
					return err
				}
				messages = append(messages, m)
			}
			return nil
		})
	}
	decrypt := func(x proteusBench, op string, name string, plaintext []byte) {
		x.time(op, 1, len(messages), func(ctx context.Context, p client.Proteus) error {
			for _, m := range messages {
				if got, err := p.Decrypt(ctx, name, m); err != nil || len(got) != len(plaintext) {
					return fmt.Errorf("%d bytes, %w", len(got), err)
				}
			}
			return nil
		})
	}
	for i := range 15 {
		x.time("proteus session from prekey", 1, 1, func(ctx context.Context, p client.Proteus) error {
			return p.SessionFromPreKey(ctx, session(i), bundles[i])
		})
		x.do(func(ctx context.Context, p client.Proteus) (err error) {
			messages = make([][]byte, 1)
			messages[0], err = p.Encrypt(ctx, session(i), make([]byte, 10))
			return err
		})
		y.time("proteus session from message", 1, 1, func(ctx context.Context, p client.Proteus) error {
			_, err := p.SessionFromMessage(ctx, session(i), messages[0])
			return err
		})
	}
	for _, size := range []int{10, 1024, 10240} {
		plaintext := make([]byte, size)
		_, _ = rand.Read(plaintext)
		for i := range 22 {
			encrypt(x, fmt.Sprintf("proteus encrypt %d B", size), 1, session(0), plaintext)
			decrypt(y, fmt.Sprintf("proteus decrypt %d B", size), session(0), plaintext)
			if i%5 == 4 {
				var reply []byte
				y.do(func(ctx context.Context, p client.Proteus) (err error) {
					reply, err = p.Encrypt(ctx, session(0), plaintext)
					return err
				})
				x.do(func(ctx context.Context, p client.Proteus) error {
					_, err := p.Decrypt(ctx, session(0), reply)
					return err
				})
			}
		}
		for range 5 {
			encrypt(x, fmt.Sprintf("proteus encrypt %d B, 100 a transaction (each)", size), 100, session(0), plaintext)
			decrypt(y, fmt.Sprintf("proteus decrypt %d B, 100 a transaction (each)", size), session(0), plaintext)
		}
	}
	x.time("proteus session from prekey, 985 a transaction (each)", 985, 985, func(ctx context.Context, p client.Proteus) error {
		for i := 15; i < 1000; i++ {
			if err := p.SessionFromPreKey(ctx, session(i), bundles[i]); err != nil {
				return err
			}
		}
		return nil
	})
	for _, n := range []int{10, 100, 1000} {
		var names []string
		for i := range n {
			names = append(names, session(i))
		}
		plaintext := make([]byte, 1024)
		_, _ = rand.Read(plaintext)
		for range 7 {
			x.time("proteus batched encrypt 1 KiB to n sessions", n, 1, func(ctx context.Context, p client.Proteus) error {
				batch, err := p.EncryptBatched(ctx, names, plaintext)
				if err == nil && len(batch) != n {
					err = fmt.Errorf("%d of %d messages", len(batch), n)
				}
				return err
			})
		}
	}
	return t
}
