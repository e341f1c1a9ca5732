// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// The model tests: random groups beside a naive model of them. The seed of a run
// that fails is printed; to see it again, with as many steps as it had:
//
//	go test ./core/mls -run 'TestGroupModel/suite_2/private' -rapid.seed=N -rapid.steps=60

// wireFormats of the handshakes.
var wireFormats = map[string]mls.HandshakePolicy{"public": mls.HandshakePublic, "private": mls.HandshakePrivate}

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

// once lets rapid make one run of the hundred that it would make, or all that it
// needs to find a short one when the first has failed.
func once(property func(*rapid.T)) func(*rapid.T) {
	done, failed := false, false
	return func(r *rapid.T) {
		if done && !failed {
			return
		}
		ok := false
		defer func() { done, failed = true, failed || !ok }()
		property(r)
		ok = true
	}
}

func TestGroupModel(t *testing.T) {
	t.Parallel()
	for suite := core.SuiteID(1); suite <= 7; suite++ {
		for name, handshake := range wireFormats {
			t.Run(fmt.Sprintf("suite %d/%s", suite, name), func(t *testing.T) {
				t.Parallel()
				if testing.Short() && (int(suite)+int(handshake))%4 > 0 {
					t.SkipNow()
				}
				rapid.Check(t, once(property(t, suite, handshake)))
			})
		}
	}
}

// TestGroupModelSoak makes runs until the time in CONCLAVE_SOAK is over.
func TestGroupModelSoak(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv("CONCLAVE_SOAK"))
	if err != nil {
		t.Skip("CONCLAVE_SOAK is not set to a time such as 1h: see make soak")
	}
	begin := time.Now()
	report := func(what string) {
		fmt.Printf("%s %s: %d group-epochs, %d members compared with the model in them, %d messages delivered, %d attacks refused, divergences %v\n",
			time.Since(begin).Round(time.Second), what, modelCount.epochs.Load(), modelCount.members.Load(), modelCount.messages.Load(), modelCount.attacks.Load(), t.Failed())
	}
	reported := begin
	for run := 0; time.Since(begin) < limit; run++ {
		suite := core.SuiteID(run%7 + 1)
		for name, handshake := range wireFormats {
			seed := uint64(time.Now().UnixNano())
			if err := flag.Set("rapid.seed", fmt.Sprint(seed)); err != nil {
				t.Fatal(err)
			}
			if !t.Run(fmt.Sprintf("suite %d/%s", suite, name), func(t *testing.T) { rapid.Check(t, once(property(t, suite, handshake))) }) {
				fmt.Printf("FAILED: go test ./core/mls -run 'TestGroupModel/suite_%d/%s' -rapid.seed=%d -rapid.steps=%s\n", suite, name, seed, flag.Lookup("rapid.steps").Value)
				report("the end")
				return
			}
		}
		if time.Since(reported) > 10*time.Second {
			reported = time.Now()
			report(fmt.Sprintf("run %d", run))
		}
	}
	report("the end")
}
