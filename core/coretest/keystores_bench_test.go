// SPDX-License-Identifier: Apache-2.0

//go:build unix

package coretest_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

const (
	tableRounds    = 9 // of which the median counts
	roundTime      = 400 * time.Millisecond
	parallel       = 8 // see tableHead
	conversations  = 1000
	membersOfEach  = 4
	operations     = 100
	membersTalking = 8
)

type results struct {
	each, together []float64 // commits per second, by round
	p50, p99       []float64 // microseconds, by round
	sent, received, committed,
	size int64
	opened float64 // milliseconds
}

const tableHead = `| | commits/s | p50 | p99 | commits/s, 8 at once | written per message sent | received | per commit | open | size |
|---|---|---|---|---|---|---|---|---|---|
`

func TestReadmeHasTheTable(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil || !strings.Contains(string(text), "\n"+tableHead+"| SQLite | ") {
		t.Errorf("README.md has another table than make bench prints (error %v)", err)
	}
}

// BenchmarkKeystores prints the table of the README. What it does with each engine:
// a thousand conversations are put into it; small batches are applied for a while,
// in turns with the other engines; a client in it talks to others; and it is opened
// again. Its size is that of the thousand conversations alone.
func BenchmarkKeystores(b *testing.B) {
	begin := time.Now()
	records := thousand(b)
	engines := []*engine{
		onFile(b, "SQLite", func(ctx context.Context, file string) (core.Keystore, error) { return sqlite.Open(ctx, file) }),
		onServer(b),
		inMemory(),
		onFile(b, "bbolt, the example", func(_ context.Context, file string) (core.Keystore, error) { return openBolt(file) }),
	}
	for _, e := range engines {
		e.fill(b, records)
	}
	floor := &results{}
	for range tableRounds {
		floor.add(syncs(b))
		for _, e := range engines {
			e.result.add(e.commits(b, 1))
			e.result.together = append(e.result.together, rate(e.commits(b, parallel)))
		}
	}
	for _, e := range engines {
		e.talk(b)
		e.reopen(b)
	}

	payload := 0
	for _, r := range records {
		for _, p := range r.Puts {
			payload += len(p.Key) + len(p.Value)
		}
	}
	var out strings.Builder
	out.WriteString("\n" + tableHead)
	for _, e := range engines {
		r := &e.result
		fmt.Fprintf(&out, "| %s | %s | %.0f | %s | %s | %s | %.1f ms | %s |\n", e.name, r.latency(), median(r.together),
			kib(r.sent), kib(r.received), kib(r.committed), r.opened, mib(r.size))
	}
	fmt.Fprintf(&out, "| floor: append 4 KiB, fsync | %s | | | | | | |\n", floor.latency())
	fmt.Printf("%s\nThe records of the %d conversations have %s. Measured in %v.\n\n",
		&out, conversations, mib(int64(payload)), time.Since(begin).Round(time.Second))
}

// add takes a round, see commits.
func (r *results) add(took []time.Duration) {
	r.each = append(r.each, rate(took))
	slices.Sort(took[:len(took)-1])
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Nanoseconds()) / 1000 }
	r.p50, r.p99 = append(r.p50, at(0.5)), append(r.p99, at(0.99))
}

func (r *results) latency() string {
	return fmt.Sprintf("%.0f | %s | %s", median(r.each), micro(median(r.p50)), micro(median(r.p99)))
}

// rate is how many there were in a second; the last is how long all of them took.
func rate(took []time.Duration) float64 {
	return float64(len(took)-1) / took[len(took)-1].Seconds()
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

func micro(v float64) string {
	if v < 1000 {
		return fmt.Sprintf("%.0f µs", v)
	}
	return fmt.Sprintf("%.1f ms", v/1000)
}

func kib(n int64) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/1024)
}

func mib(n int64) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// thousand makes the conversations, in memory, and gives the records as batches: one
// for each scope, in random order, as they would have come.
func thousand(b *testing.B) (batches []core.Batch) {
	b.Helper()
	p := pure.New()
	cfg := client.Config{Suites: p, Keys: p}
	service := clienttest.NewService(clienttest.Options{})
	store := memory.New()
	alice := clienttest.NewDevice(b, service, "alice", store, cfg)
	alice.Identify(b, core.SuiteX25519AES128Ed25519)
	var others []*clienttest.Device
	for i := range membersOfEach - 1 {
		d := clienttest.NewDevice(b, service, core.ClientID(fmt.Sprint("member ", i)), memory.New(), cfg)
		d.Identify(b, core.SuiteX25519AES128Ed25519)
		others = append(others, d)
	}
	for i := range conversations {
		var packages [][]byte
		for _, d := range others {
			packages = append(packages, d.KeyPackage(b, core.SuiteX25519AES128Ed25519))
		}
		must(b, alice.Transaction(b.Context(), func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.NewConversation(ctx, core.ConversationID(fmt.Sprint("conversation ", i)), client.ConversationConfig{})
			if err != nil {
				return err
			}
			_, err = c.AddMembers(ctx, packages...)
			return err
		}))
	}
	must(b, alice.Close(b.Context()))

	scopes := map[string]*core.Batch{}
	for table := range 256 {
		for after := []byte(nil); ; {
			page, err := store.Read(b.Context(), []core.Query{{Table: core.Table(table), After: after, Limit: 1000}})
			must(b, err)
			if len(page[0]) == 0 {
				break
			}
			for _, r := range page[0] {
				scope := string(r.Key[:16])
				if scopes[scope] == nil {
					scopes[scope] = &core.Batch{}
				}
				scopes[scope].Puts = append(scopes[scope].Puts, core.Put{Table: core.Table(table), Key: r.Key, Value: r.Value, Version: r.Version})
				after = r.Key
			}
		}
	}
	for _, batch := range scopes {
		batches = append(batches, *batch)
	}
	slices.SortFunc(batches, func(x, y core.Batch) int { return cmp.Compare(string(x.Puts[0].Key), string(y.Puts[0].Key)) })
	mathrand.New(mathrand.NewPCG(1, 2)).Shuffle(len(batches), func(i, j int) { batches[i], batches[j] = batches[j], batches[i] })
	return batches
}

// fill opens the engine, puts the conversations into it and closes it to see its size.
func (e *engine) fill(b *testing.B, batches []core.Batch) {
	store, err := e.open(b.Context())
	must(b, err)
	for _, batch := range batches {
		must(b, store.Apply(b.Context(), batch))
	}
	must(b, store.Close())
	e.settle()
	e.result.size = e.size()
	e.store, err = e.open(b.Context())
	must(b, err)
}

// commits applies batches like that of a message for a while, so many at once, and
// returns how long each took and, last, all of them. Two records are expected and
// replaced, one is new and one goes.
func (e *engine) commits(b *testing.B, at int) (took []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	for range at {
		wg.Go(func() {
			var mine []time.Duration
			scope := random(16)
			var versions [2]core.Version
			key := func(n int) []byte { return binary.BigEndian.AppendUint64(slices.Clone(scope), uint64(n)) }
			for n := 0; time.Since(begin) < roundTime; n++ {
				batch := core.Batch{
					Expect: []core.Expectation{{Table: 240, Key: key(0), Version: versions[0]}, {Table: 241, Key: key(0), Version: versions[1]}},
					Puts: []core.Put{
						{Table: 240, Key: key(0), Version: core.NewVersion()},
						{Table: 241, Key: key(0), Value: random(150), Version: core.NewVersion()},
						{Table: 242, Key: key(n), Value: random(600), Version: core.NewVersion()},
					},
				}
				if n > 0 {
					batch.Dels = []core.Range{{Table: 242, Prefix: key(n - 1)}}
				}
				versions = [2]core.Version{batch.Puts[0].Version, batch.Puts[1].Version}
				start := time.Now()
				if err := e.store.Apply(b.Context(), batch); err != nil {
					b.Errorf("%s: %v", e.name, err)
					return
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	wg.Wait()
	return append(took, time.Since(begin))
}

// syncs is what nothing that is durable can be faster than.
func syncs(b *testing.B) (took []time.Duration) {
	f, err := os.Create(filepath.Join(b.TempDir(), "floor"))
	must(b, err)
	defer f.Close()
	page := random(4096)
	begin := time.Now()
	for time.Since(begin) < roundTime {
		start := time.Now()
		_, err := f.Write(page)
		must(b, err)
		must(b, f.Sync())
		took = append(took, time.Since(start))
	}
	return append(took, time.Since(begin))
}

// talk measures what the operations of a client write, the log's way into the store
// included: for a file that takes closing it.
func (e *engine) talk(b *testing.B) {
	ctx, p := b.Context(), pure.New()
	service := clienttest.NewService(clienttest.Options{})
	var others []*clienttest.Device
	for i := range membersTalking - 1 {
		d := clienttest.NewDevice(b, service, core.ClientID(fmt.Sprint("other ", i)), memory.New(), client.Config{Suites: p, Keys: p})
		d.Identify(b, core.SuiteX25519AES128Ed25519)
		others = append(others, d)
	}
	bob := others[0]
	link := &clienttest.Link{Service: service, ID: "dora"}
	open := func() *client.Client {
		wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
		must(b, err)
		sealed, err := seal.Open(ctx, e.store, wrapper, "dora")
		must(b, err)
		c, err := client.Open(ctx, client.Config{Store: sealed, Suites: p, Keys: p, Transport: link})
		must(b, err)
		return c
	}
	const chat core.ConversationID = "chat"
	dora := open()
	in := func(f func(context.Context, *client.Conversation) error) {
		must(b, dora.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.Conversation(ctx, chat)
			if err != nil {
				return err
			}
			return f(ctx, c)
		}))
	}
	link.Receive = func(ctx context.Context, id core.ConversationID, message []byte) error {
		err := dora.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.DecryptMessage(ctx, id, message)
			return err
		})
		if client.Blames(err) {
			return nil
		}
		return err
	}
	must(b, dora.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.InitMLS(ctx, "dora", core.SuiteX25519AES128Ed25519); err != nil {
			return err
		}
		c, err := tx.NewConversation(ctx, chat, client.ConversationConfig{})
		if err != nil {
			return err
		}
		var packages [][]byte
		for _, d := range others {
			packages = append(packages, d.KeyPackage(b, core.SuiteX25519AES128Ed25519))
		}
		_, err = c.AddMembers(ctx, packages...)
		return err
	}))
	bob.Hear(b, chat)
	text := strings.Repeat("x", 100)
	// measured repeats an operation, prepared by others, with a warm-up before it.
	measured := func(prepare, f func()) int64 {
		prepare()
		f()
		must(b, dora.Close(ctx))
		must(b, e.store.Close())
		var err error
		e.store, err = e.open(ctx)
		must(b, err)
		dora = open()
		e.settle()
		prepare()
		before := e.wrote()
		f()
		e.settle()
		if e.served { // closing would end the processes that have the counts
			return (e.wrote() - before) / operations
		}
		must(b, dora.Close(ctx))
		must(b, e.store.Close())
		wrote := (e.wrote() - before) / operations
		e.store, err = e.open(ctx)
		must(b, err)
		dora = open()
		return wrote
	}
	repeat := func(f func()) func() {
		return func() {
			for range operations {
				f()
			}
		}
	}
	r := &e.result
	r.sent = measured(func() {}, repeat(func() {
		in(func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Send(ctx, []byte(text), nil)
			return err
		})
	}))
	r.received = measured(repeat(func() { bob.Say(b, chat, text) }), func() { must(b, link.Drain(ctx, chat)) })
	r.committed = measured(func() {}, repeat(func() {
		in(func(ctx context.Context, c *client.Conversation) error {
			_, err := c.UpdateKeyMaterial(ctx)
			return err
		})
	}))
	must(b, dora.Close(ctx))
	must(b, e.store.Close())
}

// reopen measures how long it takes until the client with a thousand conversations
// knows them.
func (e *engine) reopen(b *testing.B) {
	p := pure.New()
	var took []float64
	for range 9 {
		wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
		must(b, err)
		begin := time.Now()
		store, err := e.open(b.Context())
		must(b, err)
		sealed, err := seal.Open(b.Context(), store, wrapper, "device")
		must(b, err)
		c, err := client.Open(b.Context(), client.Config{Store: sealed, Suites: p, Keys: p})
		must(b, err)
		found, err := c.Conversations(b.Context())
		must(b, err)
		took = append(took, float64(time.Since(begin).Microseconds())/1000)
		if len(found) != conversations {
			b.Fatalf("%s: %d conversations", e.name, len(found))
		}
		must(b, c.Close(b.Context()))
		must(b, store.Close())
	}
	e.result.opened = median(took)
}

func random(n int) []byte {
	out := make([]byte, n)
	_, _ = rand.Read(out)
	return out
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
