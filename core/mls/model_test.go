// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/cryptotest"
	"time"

	"pgregory.net/rapid"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// The model tests: random groups beside a naive model of them. The seed of a run
// that fails is printed. To see it again, name its suite and wire format, and give
// the seed and the number of steps of the run that failed (rapid's own is 30, that
// of make soak 60); what is random in keys and nonces is then the same as well:
//
//	go test ./core/mls -run 'TestGroupModel/suite_2/private' -rapid.seed=N -rapid.steps=60

// wireFormats of the handshakes.
var wireFormats = []string{"public", "private"}

func policy(wire string) mls.HandshakePolicy {
	if wire == "private" {
		return mls.HandshakePrivate
	}
	return mls.HandshakePublic
}

// property is one run of one group, and of groups that come from it.
func property(t testing.TB, suite core.SuiteID, handshake mls.HandshakePolicy) func(*rapid.T) {
	return func(r *rapid.T) {
		w := newWorld(t, r, suite, handshake, "group")
		w.begin()
		live := func(worlds ...*world) {
			r.Repeat(map[string]func(*rapid.T){"step": func(*rapid.T) {
				w := worlds[w.pick(len(worlds))]
				w.step()
				if o := worlds[w.pick(len(worlds))]; o != w {
					w.mislead(o)
				}
			}})
		}
		live(w)
		if e := w.finish(); e != nil && w.pick(2) == 0 {
			if next := w.branch(e); next != nil {
				live(w, next)
				next.finish()
			}
		}
		if e := w.finish(); e != nil && w.pick(2) == 0 {
			if next := w.reinitialize(e); next != nil {
				live(next)
				next.finish()
			}
		}
	}
}

// times lets rapid make some runs instead of a hundred, or all that it needs to find
// a short one when one has failed.
func times(n int, property func(*rapid.T)) func(*rapid.T) {
	failed := false
	return func(r *rapid.T) {
		if n--; n < 0 && !failed {
			return
		}
		ok := false
		defer func() { failed = failed || !ok }()
		property(r)
		ok = true
	}
}

func TestGroupModel(t *testing.T) {
	seed := flag.Lookup("rapid.seed").Value.(flag.Getter).Get().(uint64)
	if seed == 0 {
		t.Parallel()
	}
	for suite := core.SuiteID(1); suite <= 7; suite++ {
		for i, wire := range wireFormats {
			t.Run(fmt.Sprintf("suite %d/%s", suite, wire), func(t *testing.T) {
				switch { // a run is a second or so; all of them are in make soak
				case seed != 0:
					cryptotest.SetGlobalRandom(t, seed)
				case suite > 1 && (int(suite)+i)%2 > 0 || testing.Short() && suite > 2:
					t.SkipNow()
				default:
					t.Parallel()
				}
				runs := 2
				if seed != 0 || testing.Short() {
					runs = 1
				}
				rapid.Check(t, times(runs, property(t, suite, policy(wire))))
			})
		}
	}
}

// TestGroupModelSoak makes runs, each with another suite and wire format, until the
// time in CONCLAVE_SOAK is over or one fails.
func TestGroupModelSoak(t *testing.T) {
	value, ok := os.LookupEnv("CONCLAVE_SOAK")
	if !ok {
		t.Skip("CONCLAVE_SOAK is not set to a time such as 1h: see make soak")
	}
	limit, err := time.ParseDuration(value)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	divergences := 0
	report := func(run int) {
		n := &modelCount
		fmt.Printf("%8s  %d runs, %d group-epochs checked, %d members in them, %d messages, %d attacks refused, %d divergences\n",
			time.Since(begin).Round(time.Second), run, n.epochs.Load(), n.members.Load(), n.messages.Load(), n.attacks.Load(), divergences)
	}
	first := rand.Uint64() >> 1
	reported := begin
	for run := 0; ; run++ {
		if over := time.Since(begin) > limit; over || time.Since(reported) > time.Minute {
			report(run)
			if reported = time.Now(); over {
				return
			}
		}
		suite, wire := core.SuiteID(run%7+1), wireFormats[run/7%2]
		seed := first + uint64(run)
		if err := flag.Set("rapid.seed", fmt.Sprint(seed)); err != nil {
			t.Fatal(err)
		}
		well := t.Run(fmt.Sprintf("suite %d/%s", suite, wire), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			rapid.Check(t, times(1, property(t, suite, policy(wire))))
		})
		if !well {
			divergences++
			report(run + 1)
			fmt.Printf("to see it again: go test ./core/mls -run 'TestGroupModel/suite_%d/%s' -rapid.seed=%d -rapid.steps=%s -rapid.nofailfile\n",
				suite, wire, seed, flag.Lookup("rapid.steps").Value)
			return
		}
	}
}
