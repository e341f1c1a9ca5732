// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A silence is a store that answers no more: from which Apply on, with what fault, and
// whether it reads nothing either.
type silence struct {
	fault coretest.Fault
	from  int
	reads bool
}

func (x silence) String() string {
	if x.reads {
		return fmt.Sprintf("%v from %d and no reads", x.fault, x.from)
	}
	return fmt.Sprintf("%v from %d", x.fault, x.from)
}

// inSilences runs a test for each silence and each operation that meets it.
func inSilences(t *testing.T, f func(t *testing.T, name string, x silence)) {
	t.Parallel()
	faults := []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate, coretest.FaultTooLate}
	for name := range duringSilence {
		for _, fault := range faults {
			for from := 1; from <= 3; from++ {
				for _, reads := range []bool{false, true} {
					x := silence{fault, from, reads}
					t.Run(name+"/"+x.String(), func(t *testing.T) {
						t.Parallel()
						synctest.Test(t, func(t *testing.T) { f(t, name, x) })
					})
				}
			}
		}
	}
}

// A silent world has alice, with two keys outside the store that nothing names and a
// message that waits, and bob.
type silent struct {
	*world
	alice, bob *clienttest.Device
	cfg        client.Config
	keys       *token
	faulty     *coretest.Faulty
	sealed     *seal.Store // of another process of alice
}

func newSilent(t *testing.T) *silent {
	s := &silent{world: newWorld(t, clienttest.Options{}), keys: newToken(), faulty: &coretest.Faulty{Keystore: memory.New()}}
	s.cfg = client.Config{Suites: pure.New(), Keys: s.keys}
	s.alice, s.bob = s.deviceOn("alice", s.faulty, s.cfg), s.device("bob")
	s.create(s.alice)
	s.add(s.alice, s.bob)
	for range 2 {
		tx, err := s.alice.Begin(t.Context())
		s.must(err)
		_, err = tx.NewCredential(t.Context(), suite1)
		s.must(err)
		s.faulty.Break()
		s.must(tx.Abort(t.Context()))
		s.faulty.Mend()
	}
	s.alice.Link.SetOffline(true)
	s.send(s.alice, "waits")
	s.alice.Link.SetOffline(false)
	s.sealed = openStore(t, s.faulty)
	return s
}

func (s *silent) falls(x silence) {
	start, now := s.faulty.Applies(), false
	s.faulty.Plan = func(n int, _ core.Batch) coretest.Fault {
		if now = n >= start+x.from; !now {
			return coretest.FaultNone
		}
		return x.fault
	}
	if x.reads {
		s.faulty.PlanRead = func(int) bool { return now }
	}
}

var duringSilence = map[string]func(context.Context, *silent) error{
	"open": func(ctx context.Context, s *silent) error {
		cfg := s.cfg
		cfg.Store = s.sealed
		_, err := client.Open(ctx, cfg)
		return err
	},
	"credential": func(ctx context.Context, s *silent) error {
		return s.alice.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewCredential(ctx, suite1)
			return err
		})
	},
	"send": func(ctx context.Context, s *silent) error {
		return in(ctx, s.alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Send(ctx, []byte("hello"), nil)
			return err
		})
	},
	"commit": func(ctx context.Context, s *silent) error { return in(ctx, s.alice, update) },
	"resume": func(ctx context.Context, s *silent) error { return s.alice.Resume(ctx) },
	"sweep":  func(ctx context.Context, s *silent) error { _, err := s.alice.SweepKeys(ctx); return err },
	"wipe":   func(ctx context.Context, s *silent) error { return s.alice.Wipe(ctx) },
}

// closes closes both processes of alice, which takes no longer than their last write may.
func (s *silent) closes() {
	s.Helper()
	began := time.Now()
	for _, err := range []error{s.alice.Close(context.WithoutCancel(s.Context())), s.sealed.Close()} {
		s.typed("Close", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		s.Errorf("Close took %v", took)
	}
}

func (s *silent) typed(what string, err error) {
	s.Helper()
	if err != nil && !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrUnknownOutcome) &&
		!errors.Is(err, core.ErrClosed) && !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("%s: %v", what, err)
	}
}

// over is the next start on a store that is back: everything goes on, and no key is
// left. Who was to be wiped is.
func (s *silent) over(wiped bool) {
	s.Helper()
	s.faulty.Plan, s.faulty.PlanRead = nil, nil
	s.faulty.Land(s.Context())
	alice := clienttest.NewDevice(s, s.service, "alice", s.faulty, s.cfg)
	if wiped {
		s.must(alice.Wipe(s.Context()))
		if n := s.keys.count(); n > 0 {
			s.Errorf("%d keys are left", n)
		}
		return
	}
	s.devices[0] = alice
	s.must(alice.Resume(s.Context()))
	s.catchUp()
	s.noKeyIsLeft(alice, s.keys)
	s.in(alice, update)
	s.catchUp()
	s.agree(alice, s.bob)
	if got := s.bob.Texts(); len(got) == 0 || got[0] != "waits" || len(s.bob.Failed()) > 0 {
		s.Errorf("bob read %q", got)
	}
}

// A store gives no answer any more. Every operation ends with its context, or as long
// after it as undoing takes, and without a pause it asks nothing again.
func TestSilence(t *testing.T) {
	inSilences(t, func(t *testing.T, name string, x silence) {
		s := newSilent(t)
		s.falls(x)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		limit := time.Minute
		switch name {
		case "credential", "send", "commit":
			limit += 10 * time.Second
		}
		start, began := s.faulty.Applies(), time.Now()
		err := duringSilence[name](ctx, s)
		s.typed(name, err)
		if took := time.Since(began); took > limit || name == "open" && took >= limit && err == nil {
			t.Errorf("it took %v, and then %v", took, err)
		}
		if n := s.faulty.Applies() - start; n > 100 {
			t.Errorf("%d writes in a minute", n)
		}
		s.closes()
		s.over(name == "wipe")
	})
}

// Close does not wait for those who wait for the store.
func TestCloseInSilence(t *testing.T) {
	inSilences(t, func(t *testing.T, name string, x silence) {
		if name == "wipe" { // it closes the client itself, if it may
			return
		}
		s := newSilent(t)
		s.falls(x)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		outcome := make(chan error, 1)
		go func() { outcome <- duringSilence[name](ctx, s) }()
		time.Sleep(time.Minute)
		s.closes()
		s.typed(name, <-outcome)
		s.over(false)
	})
}
