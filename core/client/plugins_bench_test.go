// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/basic"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// A job is what alice does in a group of groupSize, and how long each of its steps takes.
// What the others do is not counted.
type job struct {
	*world
	cfg    client.Config
	open   func(ctx context.Context) (*seal.Store, error)
	issuer core.CredentialIssuer
	alice  *clienttest.Device
	bob    *clienttest.Device
	steps  []string
	took   []time.Duration
}

const (
	groupSize = 100
	messages  = 100 // each way
	commits   = 10  // of each kind
)

func (j *job) step(name string, f func()) {
	begin := time.Now()
	f()
	j.steps, j.took = append(j.steps, name), append(j.took, time.Since(begin))
}

func (j *job) start() {
	var err error
	j.cfg.Store, err = j.open(j.Context())
	j.must(err)
	j.alice = clienttest.NewDevice(j, j.service, "alice", nil, j.cfg)
	j.alice.Join.Group = j.policy
}

func (j *job) play() {
	var packages [][]byte
	var others []core.ClientID
	for n := range groupSize - 1 {
		id := core.ClientID(fmt.Sprint("member ", n))
		d := j.device(id)
		packages, others = append(packages, j.keyPackage(d)), append(others, id)
		if n == 0 {
			j.bob = d
		}
	}
	j.step("open, and make an identity", func() { j.start(); j.alice.Identify(j, suite1) })
	j.step("have a credential issued", func() {
		_ = j.issue(j.alice, client.IssueParams{Issuer: "basic"}, j.issuer)
	})
	j.step("create a conversation", func() { j.create(j.alice) })
	j.step(fmt.Sprintf("add %d members", len(packages)), func() {
		j.in(j.alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.AddMembers(ctx, packages...)
			return err
		})
	})
	j.must(j.bob.Welcomes(j.Context()))
	j.step(fmt.Sprintf("send %d messages", messages), func() {
		for n := range messages {
			j.send(j.alice, fmt.Sprint("text ", n))
		}
	})
	j.bobs(messages, func(n int) { j.send(j.bob, fmt.Sprint("text ", n)) })
	j.step(fmt.Sprintf("receive %d messages", messages), func() { j.must(j.alice.Link.Drain(j.Context(), chat)) })
	if got := len(j.alice.Texts()); got != messages {
		j.Fatalf("alice read %d messages", got)
	}
	j.step(fmt.Sprintf("commit %d updates", commits), func() {
		for range commits {
			j.update(j.alice)
		}
	})
	j.bobs(commits, func(int) { j.update(j.bob) })
	j.step(fmt.Sprintf("receive %d commits", commits), func() { j.must(j.alice.Link.Drain(j.Context(), chat)) })
	j.step(fmt.Sprintf("remove %d members", commits), func() {
		for n := range commits {
			j.in(j.alice, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.RemoveMembers(ctx, others[len(others)-1-n])
				return err
			})
		}
	})
	j.step("rotate the signature key", func() {
		j.do(j.alice, func(ctx context.Context, tx *client.Transaction) error {
			if _, err := tx.NewCredential(ctx, suite1); err != nil {
				return err
			}
			c, err := tx.Conversation(ctx, chat)
			if err != nil {
				return err
			}
			_, err = c.Rotate(ctx, core.CredentialBasic)
			return err
		})
	})
	j.step("restart, and send a message", func() {
		j.must(j.alice.Close(j.Context()))
		j.start()
		j.send(j.alice, "here again")
	})
	j.must(j.bob.Link.Drain(j.Context(), chat))
	j.agree(j.alice, j.bob)
	j.must(j.alice.Close(j.Context()))
}

// bobs has bob do something, who has read all.
func (j *job) bobs(times int, f func(n int)) {
	j.must(j.bob.Link.Drain(j.Context(), chat))
	for n := range times {
		f(n)
	}
}

// BenchmarkPlugins plays the job in one process, with a SQLite file, and with the store,
// the keys, the key wrapper and the issuer in a plugin each, the same ones otherwise, by
// turns. "ratio" is of the medians of the whole job.
func BenchmarkPlugins(b *testing.B) {
	var took [2][][]time.Duration // by step
	var steps []string
	rounds := 0
	for b.Loop() {
		for range 5 {
			rounds++
			for side := range took {
				j := &job{world: newWorld(b, clienttest.Options{}), cfg: config(), issuer: basic.New()}
				file := filepath.Join(b.TempDir(), "store")
				var store core.Keystore
				wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
				j.must(err)
				if side == 1 {
					folder := b.TempDir()
					j.must(os.WriteFile(filepath.Join(folder, undisturbed), nil, 0o600))
					s := newShelf(b, folder, roleStore, roleKeys, roleWrapper, roleIssuer)
					store, wrapper = s.store(), s.wrapper()
					j.cfg.Keys, j.issuer = s.keys("pure"), s.issuer("basic")
				} else if store, err = sqlite.Open(b.Context(), file); err != nil {
					b.Fatal(err)
				}
				j.open = func(ctx context.Context) (*seal.Store, error) { return seal.Open(ctx, store, wrapper, "device") }
				j.play()
				j.must(store.Close())
				if steps == nil {
					steps = j.steps
				}
				took[side] = append(took[side], j.took)
			}
		}
	}
	median := func(of func(round int) time.Duration) time.Duration {
		var all []time.Duration
		for n := range rounds {
			all = append(all, of(n))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	table := fmt.Sprintf("%-28s %10s %10s %6s\n", "", "in process", "plugins", "ratio")
	row := func(name string, in, behind time.Duration) {
		table += fmt.Sprintf("%-28s %7.1f ms %7.1f ms %6.2f\n", name, ms(in), ms(behind), float64(behind)/float64(in))
	}
	for i, name := range steps {
		row(name, median(func(n int) time.Duration { return took[0][n][i] }), median(func(n int) time.Duration { return took[1][n][i] }))
	}
	var whole [2]time.Duration
	for side := range whole {
		whole[side] = median(func(n int) (sum time.Duration) {
			for _, d := range took[side][n] {
				sum += d
			}
			return sum
		})
	}
	row("the job", whole[0], whole[1])
	fmt.Printf("\n%d members, medians of %d rounds:\n%s", groupSize, rounds, table) // a log would end after ten lines
	b.ReportMetric(ms(whole[0]), "in-process-ms")
	b.ReportMetric(ms(whole[1]), "plugins-ms")
	b.ReportMetric(float64(whole[1])/float64(whole[0]), "ratio")
}
