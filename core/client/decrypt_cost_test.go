// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// A cost is what a keystore was asked for and given.
type cost struct{ reads, recordsRead, bytesRead, batches, puts, dels, bytesPut int }

func (c cost) minus(o cost) cost {
	return cost{
		c.reads - o.reads, c.recordsRead - o.recordsRead, c.bytesRead - o.bytesRead,
		c.batches - o.batches, c.puts - o.puts, c.dels - o.dels, c.bytesPut - o.bytesPut,
	}
}

// metered is a keystore that counts; one goroutine at a time may use it.
type metered struct {
	core.Keystore
	cost
}

func (m *metered) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	answers, err := m.Keystore.Read(ctx, queries)
	m.reads++
	for _, records := range answers {
		m.recordsRead += len(records)
		for _, r := range records {
			m.bytesRead += len(r.Key) + len(r.Value)
		}
	}
	return answers, err
}

func (m *metered) Apply(ctx context.Context, b core.Batch) error {
	m.batches++
	m.puts += len(b.Puts)
	m.dels += len(b.Dels)
	for _, p := range b.Puts {
		m.bytesPut += len(p.Key) + len(p.Value)
	}
	return m.Keystore.Apply(ctx, b)
}

// traffic is what one member of a group of n has sent, and another has to read.
type traffic struct {
	*world
	alice, bob *clienttest.Device
	store      *metered // bob's
	messages   [][]byte
}

func newTraffic(t testing.TB, n int, bobs core.Keystore) *traffic {
	w := newWorld(t, clienttest.Options{})
	tr := &traffic{world: w, store: &metered{Keystore: bobs}, alice: w.device("alice")}
	tr.bob = w.deviceOn("bob", tr.store, config())
	w.create(tr.alice)
	w.add(tr.alice, tr.bob)
	w.grow(tr.alice, []*clienttest.Device{tr.bob}, n)
	w.in(tr.alice, func(ctx context.Context, c *client.Conversation) error { // the epoch began with a commit for all n
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	w.must(tr.bob.Link.Drain(t.Context(), chat))
	return tr
}

// write has alice send messages of 100 bytes.
func (tr *traffic) write(n int) {
	tr.Helper()
	text := []byte(strings.Repeat("x", 100))
	before := len(tr.service.Log(chat))
	tr.in(tr.alice, func(ctx context.Context, c *client.Conversation) error {
		for range n {
			if _, err := c.Send(ctx, text, nil); err != nil {
				return err
			}
		}
		return nil
	})
	tr.must(tr.alice.Settle(tr.Context(), chat))
	if tr.messages = tr.service.Log(chat)[before:]; len(tr.messages) != n {
		tr.Fatalf("%d messages, want %d", len(tr.messages), n)
	}
}

// read has bob decrypt them, so many in a transaction, and tells what it took of
// his store.
func (tr *traffic) read(each int) cost {
	tr.Helper()
	before := tr.store.cost
	for begin := 0; begin < len(tr.messages); begin += each {
		tr.in(tr.bob, func(ctx context.Context, c *client.Conversation) error {
			for _, m := range tr.messages[begin:min(begin+each, len(tr.messages))] {
				if _, err := c.DecryptMessage(ctx, m); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return tr.store.minus(before)
}

// reopen has bob start anew on his store, with nothing in memory.
func (tr *traffic) reopen() {
	tr.Helper()
	tr.must(tr.bob.Close(tr.Context()))
	tr.bob = clienttest.NewDevice(tr, tr.service, "bob", tr.store, config())
}

// What a message takes of the store does not grow with the group: it is the same,
// record for record and byte for byte. Without the group in memory one page of the
// tree is read as well: it has room for more than 2 members, and its parts that
// belong to all n differ by a few bytes.
func TestMessageCostDoesNotGrow(t *testing.T) {
	t.Parallel()
	costs := map[string]map[int]cost{"one message": {}, "eight in one transaction": {}, "eight in eight": {}}
	restart := map[int]cost{}
	for _, n := range []int{2, 20, 40} {
		tr := newTraffic(t, n, memory.New())
		tr.write(1)
		tr.read(1) // the first of an epoch makes the sender's ratchet, on a path of the tree
		tr.write(1)
		costs["one message"][n] = tr.read(1)
		tr.write(8)
		costs["eight in one transaction"][n] = tr.read(8)
		tr.write(8)
		costs["eight in eight"][n] = tr.read(1)
		if n > 2 {
			tr.reopen()
			tr.write(1)
			restart[n] = tr.read(1)
		}
	}
	for what, c := range costs {
		if c[2] != c[20] || c[20] != c[40] || c[2].bytesPut == 0 || c[2].bytesRead == 0 {
			t.Errorf("%s: %+v in a group of 2, %+v in one of 20, %+v in one of 40", what, c[2], c[20], c[40])
		}
	}
	small, large := restart[20], restart[40]
	if large.bytesRead > small.bytesRead+64 {
		t.Errorf("after a restart %d bytes are read in a group of 20, %d in one of 40", small.bytesRead, large.bytesRead)
	}
	small.bytesRead, large.bytesRead = 0, 0
	if small != large {
		t.Errorf("after a restart: %+v in a group of 20, %+v in one of 40", small, large)
	}
	one, eight := costs["one message"][2], costs["eight in one transaction"][2]
	if eight.batches != 1 || eight.bytesPut != one.bytesPut {
		t.Errorf("one message puts %d bytes, eight in one transaction %d in %d batches", one.bytesPut, eight.bytesPut, eight.batches)
	}
}

// BenchmarkDecrypt reads 1000 messages of 100 bytes, on disk, in one transaction and
// in 1000, in groups of 2, 100 and 1000: what a message costs is the same in all.
func BenchmarkDecrypt(b *testing.B) {
	const messages = 1000
	for _, members := range []int{2, 100, 1000} {
		disk, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "store"))
		if err != nil {
			b.Fatal(err)
		}
		tr := newTraffic(b, members, disk)
		for _, transactions := range []int{1, messages} {
			b.Run(fmt.Sprintf("members=%d/transactions=%d", members, transactions), func(b *testing.B) {
				var took time.Duration
				var of cost
				for b.Loop() {
					b.StopTimer()
					tr.write(messages)
					began := time.Now()
					b.StartTimer()
					of = tr.read(messages / transactions)
					took += time.Since(began)
				}
				b.ReportMetric(float64(took.Nanoseconds())/float64(b.N*messages), "ns/message")
				b.ReportMetric(float64(of.bytesPut)/messages, "stored-B/message")
				b.ReportMetric(float64(of.bytesRead)/messages, "read-B/message")
				b.ReportMetric(float64(of.batches), "batches")
			})
		}
		if err := disk.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
