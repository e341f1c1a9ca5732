// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// meanwhile is what another process of alice's does, on the same store.
var meanwhile = []struct {
	name string
	do   func(ctx context.Context, s *stage, other *clienttest.Device) error
}{
	{"sends", func(ctx context.Context, _ *stage, other *clienttest.Device) error {
		return in(ctx, other, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.Send(ctx, []byte("meanwhile"), nil)
			return err
		})
	}},
	{"commits", func(ctx context.Context, _ *stage, other *clienttest.Device) error { return in(ctx, other, update) }},
	{"takes what waits", func(ctx context.Context, _ *stage, other *clienttest.Device) error {
		return errors.Join(other.Welcomes(ctx), other.Resume(ctx), other.Link.Drain(ctx, chat))
	}},
	{"does the same", func(ctx context.Context, s *stage, other *clienttest.Device) error {
		_, err := s.op.play(ctx, player{other, s.store, nil}, &s.input, false)
		return err
	}},
}

// COM-10: at every call of the store another process does something in the same
// conversation. The operation goes through or says that it did not; all agree and
// nothing that was sent is lost or comes twice.
func TestMeanwhileAtEveryCall(t *testing.T) {
	t.Parallel()
	for i, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			set := setting{lease: 100 * time.Millisecond, policy: private}
			o := outcomesOf(t, op, func() setting { return set })
			for n := 1; n <= len(o.store); n++ {
				if testing.Short() && n != 1+i%len(o.store) {
					continue
				}
				for k, m := range meanwhile {
					if k != (i+n)%len(meanwhile) && (testing.Short() || k != (i+n+1)%len(meanwhile)) { // they take turns
						continue
					}
					t.Run(fmt.Sprintf("%d/%s", n, m.name), func(t *testing.T) { playMeanwhile(t, op, set, n, k) })
				}
			}
		})
	}
}

func playMeanwhile(t *testing.T, op operation, set setting, n, k int) {
	s := newStage(t, op, set)
	other := clienttest.NewDevice(t, s.service, "alice", s.store, s.cfg)
	other.Join.Group, other.Link.Service = s.policy, s.alice.Link.Service
	calls := 0
	sent := false
	now := func() {
		if calls++; calls == n {
			err := meanwhile[k].do(t.Context(), s, other)
			sent = err == nil && meanwhile[k].name == "sends"
		}
	}
	s.faulty.PlanRead = func(int) bool { now(); return false }
	s.faulty.Plan = func(int, core.Batch) coretest.Fault { now(); return coretest.FaultNone }
	_, err := s.play(t.Context())
	switch { // it may have nothing to do any more, but must not take that for anything else
	case errors.Is(err, core.ErrDamaged), errors.Is(err, core.ErrUnavailable), errors.Is(err, core.ErrUnsupported), errors.Is(err, context.DeadlineExceeded):
		t.Error(err)
	}
	s.revive()
	s.must(other.Resume(t.Context()))
	if _, err := other.Info(t.Context(), chat); err == nil { // what it sent before we joined again is too old
		s.must(other.Link.Drain(t.Context(), chat))
	}
	s.rest()
	texts := slices.Sorted(slices.Values(s.bobs))
	for _, e := range slices.Concat(s.alice.Events(), other.Events()) {
		if u, ok := e.(client.Undelivered); ok {
			texts = append(texts, string(u.Data))
		}
	}
	if sent != slices.Contains(texts, "meanwhile") {
		t.Errorf("sent: %v; bob read or will not read %q (%v)", sent, texts, err)
	}
	if meanwhile[k].name != "does the same" && len(slices.Compact(slices.Clone(texts))) != len(texts) {
		t.Errorf("bob read %q", texts)
	}
	s.must(other.Close(t.Context()))
	s.lives()
}

// What another process reads first must not make a message look wrong: it would be
// dropped for that, by whoever was slower.
func TestNoMessageIsBlamedForWhatOthersRead(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		reads := 1
		for at := 1; at <= reads; at++ {
			w := newWorld(t, clienttest.Options{})
			w.policy = policy
			store := memory.New()
			alice, bob, carol := w.deviceOn("alice", store, config()), w.device("bob"), w.device("carol")
			w.create(alice)
			w.add(alice, bob, carol)
			w.in(bob, update) // alice has the key of the node above the two
			w.catchUp()
			w.in(carol, update) // to that key
			w.must(bob.Link.Drain(t.Context(), chat))
			w.in(bob, update) // which is another then
			faulty := &coretest.Faulty{Keystore: store}
			slow := clienttest.NewDevice(t, w.service, "alice", faulty, config())
			reads = 0
			faulty.PlanRead = func(int) bool {
				if reads++; reads == at {
					w.must(alice.Link.Drain(t.Context(), chat))
				}
				return false
			}
			w.must(slow.Link.Drain(t.Context(), chat))
			for _, err := range slow.Failed() {
				if !errors.Is(err, client.ErrStaleCommit) {
					t.Errorf("read %d: %v", at, err)
				}
			}
			w.must(carol.Link.Drain(t.Context(), chat))
			w.agree(alice, slow, bob, carol)
		}
	})
}
