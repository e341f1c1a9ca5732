// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

var manyConversations = flag.Int("conversations", 2000, "of BenchmarkManyConversations, at most")

// accepting is a delivery service that takes everything, and keeps the last Welcome.
type accepting struct {
	mu      sync.Mutex
	welcome []byte
}

func (a *accepting) SubmitCommit(_ context.Context, _ core.ConversationID, _ string, b client.CommitBundle) (client.Outcome, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.welcome = b.Welcome
	return client.Outcome{Kind: client.Accepted}, nil
}

func (*accepting) SendMessage(context.Context, core.ConversationID, string, []byte) (client.Outcome, error) {
	return client.Outcome{Kind: client.Accepted}, nil
}

func (*accepting) Drain(context.Context, core.ConversationID) error { return nil }

// A loner is a client that nobody answers.
type loner struct {
	testing.TB
	*client.Client
	service *accepting
}

func newLoner(t testing.TB, ks core.Keystore, id core.ClientID, cache *client.Cache) *loner {
	t.Helper()
	p := &loner{TB: t, service: &accepting{}}
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	p.must(err)
	cfg := config()
	cfg.Transport, cfg.Cache = p.service, cache
	cfg.Store, err = seal.Open(t.Context(), ks, wrapper, string(id))
	p.must(err)
	p.Client, err = client.Open(t.Context(), cfg)
	p.must(err)
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	p.do(func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, id, suite1) })
	return p
}

func (p *loner) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *loner) do(f func(ctx context.Context, tx *client.Transaction) error) {
	p.Helper()
	p.must(p.Transaction(p.Context(), f))
}

// found makes a conversation with others and returns their Welcome.
func (p *loner) found(id core.ConversationID, others ...[]byte) []byte {
	p.Helper()
	p.do(func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: suite1})
		if err == nil && len(others) > 0 {
			_, err = c.AddMembers(ctx, others...)
		}
		return err
	})
	return p.service.welcome
}

func (p *loner) keyPackages(n int) (messages [][]byte) {
	p.Helper()
	p.do(func(ctx context.Context, tx *client.Transaction) error {
		made, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, n)
		for _, k := range made {
			messages = append(messages, k.Message)
		}
		return err
	})
	return messages
}

func (p *loner) encrypt(id core.ConversationID, text []byte) (message []byte) {
	p.Helper()
	p.do(func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, id)
		if err == nil {
			message, err = c.Encrypt(ctx, text, nil)
		}
		return err
	})
	return message
}

func (p *loner) decrypt(id core.ConversationID, message []byte) {
	p.Helper()
	p.do(func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.DecryptMessage(ctx, id, message)
		return err
	})
}

func strangers(t testing.TB, n int) (keyPackages [][]byte) {
	for i := range n {
		keyPackages = append(keyPackages, newShadow(t, core.ClientID(fmt.Sprint("stranger ", i))).keyPackage())
	}
	return keyPackages
}

func conversation(i int) core.ConversationID {
	return core.ConversationID(fmt.Sprint("conversation ", i))
}

// What a client keeps in memory does not grow with its conversations.
func TestManyConversationsInLittleMemory(t *testing.T) {
	t.Parallel()
	alice := newLoner(t, memory.New(), "alice", nil)
	other := strangers(t, 1)
	var before int
	for i := range 2 * client.CacheSize {
		alice.found(conversation(i), other...)
		alice.encrypt(conversation(i), []byte("hello"))
		alice.do(func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.Conversation(ctx, conversation(i))
			if err == nil {
				_, err = c.Send(ctx, []byte("hello"), nil)
			}
			return err
		})
		if _, others := alice.Kept(); i == 0 {
			before = others
		} else if others != before {
			t.Fatalf("%d things are kept with %d conversations, %d with one", others, i+1, before)
		}
	}
	if groups, _ := alice.Cache().Kept(); groups != client.CacheSize {
		t.Errorf("%d groups in memory, want %d", groups, client.CacheSize)
	}
	for i := range 2 * client.MaxRead {
		alice.HaveRead(conversation(i), 1)
	}
	if read, _ := alice.Kept(); read != client.MaxRead {
		t.Errorf("how far they were read is known of %d conversations, want %d", read, client.MaxRead)
	}
}

// Clients that share a cache have no more groups in memory than that has room for, and
// fewer large ones; a client that is closed has none.
func TestSharedCache(t *testing.T) {
	t.Parallel()
	const room = 4
	cache := client.NewCache(room)
	var people []*loner
	for i := range 3 {
		p := newLoner(t, memory.New(), core.ClientID(fmt.Sprint("person ", i)), cache)
		for i := range 2 * room {
			p.found(conversation(i)) // of the same names
		}
		people = append(people, p)
	}
	if groups, leaves := cache.Kept(); groups != room || leaves != room {
		t.Errorf("%d groups with %d leaves in memory, want %d with one each", groups, leaves, room)
	}
	people[0].encrypt(conversation(0), []byte("hello"))
	people[2].must(people[2].Close(t.Context()))
	if groups, _ := cache.Kept(); groups != 1 {
		t.Errorf("%d groups in memory, want the one of who is still there", groups)
	}
	many := strangers(t, 299) // with the creator 300, in a tree for 512
	for i := range 4 {
		people[1].found(core.ConversationID(fmt.Sprint("large ", i)), many...)
		if groups, leaves := cache.Kept(); groups > room || leaves > max(512, room*256) {
			t.Errorf("%d groups with %d leaves in memory", groups, leaves)
		}
	}
	if groups, leaves := cache.Kept(); groups != 2 || leaves != 1024 {
		t.Errorf("%d groups with %d leaves in memory, want 2 with 1024", groups, leaves)
	}
}

// inMemory is what the process has in memory: the heap after a collection, and all of it
// where the system tells.
func inMemory() (heap, all int64) {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &all); err == nil {
			break
		}
	}
	return int64(m.HeapAlloc), all << 10
}

func median[T cmp.Ordered](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}

// BenchmarkManyConversations tells what a client takes of memory that has thousands of
// conversations of 50 members in a SQLite file, what a message in one of them costs whose
// group is in memory and in one whose is not, and how many it reads on one core and on all
// of them. One client has as many as -conversations says, 2000 by default; and so many
// clients, a tenth of that, have ten each in one file and share a cache.
func BenchmarkManyConversations(b *testing.B) {
	for _, n := range []int{*manyConversations / 10, *manyConversations} {
		b.Run(fmt.Sprintf("conversations=%d", n), func(b *testing.B) {
			for range b.N {
				measureConversations(b, 1, n)
			}
		})
	}
	for _, n := range []int{*manyConversations / 100, *manyConversations / 10} {
		b.Run(fmt.Sprintf("clients=%d", n), func(b *testing.B) {
			for range b.N {
				measureConversations(b, n, 10)
			}
		})
	}
}

// measureConversations has clients with so many conversations each. Somebody else writes in
// some of those, in more than a cache has room for.
func measureConversations(b *testing.B, clients, each int) {
	const members, sample, callers = 50, 3 * client.CacheSize / 2, 8
	b.StopTimer()
	before, _ := inMemory()
	disk, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "store"))
	if err != nil {
		b.Fatal(err)
	}
	defer disk.Close()
	cache := client.NewCache(client.CacheSize)
	var readers []*loner
	for i := range clients {
		readers = append(readers, newLoner(b, disk, core.ClientID(fmt.Sprint("reader ", i)), cache))
	}
	type pair struct {
		reader *loner
		id     core.ConversationID
	}
	var made []pair
	for i := range each {
		for n, r := range readers {
			made = append(made, pair{r, conversation(n*each + i)})
		}
	}
	chosen := map[core.ConversationID]bool{}
	step := max(1, len(made)/sample)
	for i := 0; i < len(made) && len(chosen) < sample; i += step {
		chosen[made[i].id] = true
	}
	writer := newLoner(b, memory.New(), "writer", client.NewCache(sample))
	theirs, others := writer.keyPackages(len(chosen)), strangers(b, members-1)
	var sampled []pair
	for _, p := range made {
		if !chosen[p.id] {
			p.reader.found(p.id, others...)
			continue
		}
		welcome := p.reader.found(p.id, append(others[:members-2:members-2], theirs[len(sampled)])...)
		writer.do(func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.ProcessWelcome(ctx, welcome, client.JoinConfig{})
			return err
		})
		sampled = append(sampled, p)
	}
	heap, all := inMemory()

	text := []byte(strings.Repeat("x", 1024))
	messages := func(n int) (list [][][]byte) { // by conversation
		for _, p := range sampled {
			var in [][]byte
			for range n {
				in = append(in, writer.encrypt(p.id, text))
			}
			list = append(list, in)
		}
		return list
	}
	// Going through more than there is room for, each group is gone when its turn comes.
	timed := map[string][]time.Duration{}
	watch := func(what string, f func()) {
		began := time.Now()
		f()
		timed[what] = append(timed[what], time.Since(began))
	}
	for pass, list := range [][][][]byte{messages(2), messages(2)} {
		for i, p := range sampled {
			for n, m := range list[i] {
				watch(fmt.Sprintf("receive %d%d", pass, n), func() { p.reader.decrypt(p.id, m) })
			}
		}
		for _, p := range sampled {
			for n := range 2 {
				watch(fmt.Sprintf("send %d%d", pass, n), func() { p.reader.encrypt(p.id, text) })
			}
		}
	}
	rate := func(cores int) float64 {
		list := messages(10)
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
		var next atomic.Int64
		var group sync.WaitGroup
		began := time.Now()
		for range callers {
			group.Go(func() {
				for i := int(next.Add(1)) - 1; i < len(sampled); i = int(next.Add(1)) - 1 {
					for _, m := range list[i] {
						p := sampled[i]
						if err := p.reader.Transaction(b.Context(), func(ctx context.Context, tx *client.Transaction) error {
							_, err := tx.DecryptMessage(ctx, p.id, m)
							return err
						}); err != nil {
							b.Error(err)
						}
					}
				}
			})
		}
		group.Wait()
		return float64(10*len(sampled)) / time.Since(began).Seconds()
	}
	one, every := rate(1), rate(runtime.NumCPU())

	b.ReportMetric(float64(heap-before)/float64(clients)/1024, "heap-KiB/client")
	b.ReportMetric(float64(heap-before)/(1<<20), "heap-MiB")
	b.ReportMetric(float64(all)/(1<<20), "resident-MiB")
	for name, what := range map[string]string{"first-receive": "receive 00", "cold-receive": "receive 10", "warm-receive": "receive 11", "cold-send": "send 10", "warm-send": "send 11"} {
		b.ReportMetric(float64(median(timed[what]).Microseconds()), name+"-µs")
	}
	b.ReportMetric(one, "1-core-msg/s")
	b.ReportMetric(every, fmt.Sprintf("%d-cores-msg/s", runtime.NumCPU()))
	runtime.KeepAlive(readers)
}
