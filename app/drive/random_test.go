// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

var (
	seed  = flag.Uint64("seed", 1, "of the first random group")
	runs  = flag.Uint64("runs", 2, "how many random groups")
	steps = flag.Int("steps", 40, "how many steps each has")
)

// A randomWorld is a world in which anything happens.
type randomWorld struct {
	*world
	*rand.Rand
	epoch  int
	unread map[string][]unread // by reader, in the order in which they were sent
}

// An unread message waits for a reader.
type unread struct {
	message    []byte
	from, text string
	epoch      int
}

// keptEpochs is for how many epochs a message can still be read.
const keptEpochs = 3

func (w *randomWorld) pick(list []string) string { return list[w.IntN(len(list))] }

// outsiders are who is not in the conversation.
func (w *randomWorld) outsiders() []string {
	return slices.DeleteFunc(slices.Clone(roles), w.member)
}

// catchUp has a reader read what waits: all of it, or what must not wait longer and
// some more.
func (w *randomWorld) catchUp(reader string, all bool) {
	w.t.Helper()
	list := w.unread[reader]
	for len(list) > 0 && (all || list[0].epoch+keptEpochs <= w.epoch || w.IntN(3) == 0) {
		w.as(reader).reads(list[0].message, list[0].from, list[0].text)
		list = list[1:]
	}
	w.unread[reader] = list
}

// leaving is for whoever gives up a leaf: what waits for it is read, and what it has
// sent, which Core Crypto refuses when the sender is gone.
func (w *randomWorld) leaving(who string) {
	w.t.Helper()
	w.catchUp(who, true)
	for _, name := range w.in {
		if a := w.as(name); !a.ours {
			w.catchUp(name, true)
		}
	}
}

func (w *randomWorld) step(n int) string {
	w.t.Helper()
	for _, name := range w.in {
		w.catchUp(name, false)
	}
	actor := w.pick(w.in)
	before := w.epoch
	w.epoch++
	switch w.IntN(10) {
	case 0, 1:
		out := w.outsiders()
		if len(out) == 0 {
			break
		}
		w.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		out = out[:1+w.IntN(min(3, len(out)))]
		w.add(actor, out...)
		return fmt.Sprintf("%s adds %v", actor, out)
	case 2:
		if len(w.in) < 3 {
			break
		}
		other := w.pick(w.in)
		if other == actor {
			break
		}
		w.leaving(other)
		w.remove(actor, other)
		return fmt.Sprintf("%s removes %s", actor, other)
	case 3, 4:
		w.update(actor)
		return actor + " updates"
	case 5:
		who := w.pick(roles)
		// Core Crypto keeps who joins again in two leaves if there is a blank one before
		// the old: it would part from the others.
		if blank := indexOf(w.leaves, ""); w.info == nil || w.member(who) && blank >= 0 && blank < indexOf(w.leaves, who) {
			break
		}
		w.leaving(who)
		w.join(who)
		return who + " joins"
	case 6:
		other := w.pick(w.in)
		w.as(other).fails("Mls.MessageRejected", "updateKeys", "transport", args{"kind": "reject"})
		w.update(actor)
		return fmt.Sprintf("%s loses against %s", other, actor)
	case 7:
		if w.as(actor).db == "" {
			break
		}
		w.epoch = before
		w.as(actor).must("close")
		w.as(actor).open()
		w.agree()
		return actor + " closes and opens"
	}
	w.epoch = before
	text := fmt.Sprintf("%d from %s", n, actor)
	m := w.encrypt(actor, text)
	for _, name := range w.in {
		if name != actor {
			w.unread[name] = append(w.unread[name], unread{m, actor, text, w.epoch})
		}
	}
	return actor + " says something"
}

// play is a random group. When it fails the steps are in the log.
func (w *randomWorld) play(steps int) {
	done := []string{"alice creates"}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			for i, what := range done {
				w.t.Logf("%3d %s", i, what)
			}
		}
	})
	w.create("alice")
	for n := range steps {
		done = append(done, w.step(n))
	}
	for _, name := range w.in {
		w.catchUp(name, true)
	}
	w.talk()
}

func random(t *testing.T, seed uint64, suite int, cast func(int) *driver) {
	w := &randomWorld{world: newWorld(t, suite, cast), Rand: rand.New(rand.NewPCG(seed, 0)), unread: map[string][]unread{}}
	w.folder = t.TempDir()
	w.play(*steps)
}

// Random groups of both, on disk. A run that fails is repeated with its -seed and -runs 1.
func TestInteropRandom(t *testing.T) {
	corePeer(t)
	t.Parallel()
	drivers := []*driver{inProcess(t), coreCrypto(t)}
	for s := *seed; s < *seed+*runs; s++ {
		suite := interopSuites[s%uint64(len(interopSuites))]
		t.Run(fmt.Sprintf("seed %d, suite %d", s, suite), func(t *testing.T) {
			random(t, s, suite, func(role int) *driver { return drivers[(role+int(s/2))%2] })
		})
	}
}

// Random groups of Conclave alone.
func TestRandom(t *testing.T) {
	t.Parallel()
	d := inProcess(t)
	for s := *seed; s < *seed+*runs; s++ {
		t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
			random(t, s, 1, func(int) *driver { return d })
		})
	}
}
