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
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A stage is a chat of alice, bob and carol, with dave at hand, where alice plays
// one operation. Her store and her process do what the plan of a test says.
type stage struct {
	*world
	op               operation
	cfg              client.Config
	alice            *clienttest.Device
	bob, carol, dave *clienttest.Device
	store            core.Keystore
	wrapper          core.KeyWrapper
	faulty           *coretest.Faulty
	dead             *bool
	input            input
	heard            []string        // by alice, from the operation or the queue
	bobs             []string        // texts that bob has read
	calls            int             // of alice to the service
	were             []core.ClientID // the members
	stubborn         bool            // she passes over the error of the operation
}

// A setting is what stages differ in. The zero value is good.
type setting struct {
	options clienttest.Options
	policy  mls.Config
	store   core.Keystore // of alice; nil: memory
	lease   time.Duration
	suites  core.SuiteSource
	keys    core.CryptoProvider
	wrapper core.KeyWrapper // of alice's store; nil: that of every device
}

// newStage prepares an operation.
func newStage(t testing.TB, op operation, set setting) *stage {
	w := newWorld(t, set.options)
	if set.policy != (mls.Config{}) {
		w.policy = set.policy
	}
	s := &stage{world: w, op: op, store: set.store, wrapper: set.wrapper, input: input{Group: w.policy}}
	if s.store == nil {
		s.store = memory.New()
	}
	s.cfg = config()
	s.cfg.Lease = set.lease
	if set.suites != nil {
		s.cfg.Suites = set.suites
	}
	if set.keys != nil {
		s.cfg.Keys = set.keys
	}
	s.open()
	w.devices = append(w.devices, s.alice)
	if !op.nobody {
		s.alice.Identify(t, suite1)
	}
	s.bob, s.carol, s.dave = w.device("bob"), w.device("carol"), w.device("dave")
	if op.outside {
		w.create(s.bob)
		w.add(s.bob, s.carol)
	} else {
		w.create(s.alice)
		w.add(s.alice, s.bob, s.carol)
	}
	if op.prepare != nil {
		op.prepare(s)
	}
	were, err := s.bob.ClientIDs(t.Context(), chat)
	w.must(err)
	s.were = nameless(were)
	for _, d := range w.devices {
		d.Received()
		d.Failed()
		d.Events()
	}
	s.count()
	return s
}

// open starts alice's process, on what her store holds.
func (s *stage) open() {
	s.Helper()
	s.dead = new(bool)
	s.faulty = &coretest.Faulty{Keystore: s.store}
	old, cfg := s.alice, s.cfg
	if s.wrapper != nil {
		var err error
		cfg.Store, err = seal.Open(s.Context(), grave{s.faulty, s.dead}, s.wrapper, "device")
		s.must(err)
	}
	s.alice = clienttest.NewDevice(s, s.service, "alice", grave{s.faulty, s.dead}, cfg)
	s.alice.Join.Group = s.policy
	if old != nil {
		s.alice.Link.Service = old.Link.Service
		s.devices[slices.Index(s.devices, old)] = s.alice
		s.heard = append(s.heard, old.Texts()...)
	}
	s.count()
}

// count counts calls to the service. Who is dead calls nobody and takes no message.
func (s *stage) count() {
	dead := s.dead
	alive := func(string) error {
		if *dead {
			return core.ErrClosed
		}
		return nil
	}
	s.alice.Link.After = alive
	s.alice.Link.Before = func(call string) error { s.calls++; return alive(call) }
}

// revive starts alice's process again if it has ended.
func (s *stage) revive() {
	s.Helper()
	if *s.dead {
		late := s.faulty
		s.open()
		late.Land(s.Context()) // what was on its way lands after the new process has started
	}
	s.faulty.Plan, s.faulty.PlanRead = nil, nil
	s.faulty.Mend()
	s.faulty.Land(s.Context())
}

// play has alice do it; what she has read is kept, whatever else comes of it.
func (s *stage) play(ctx context.Context) (gist string, err error) {
	answer, err := s.op.play(ctx, player{s.alice, grave{s.faulty, s.dead}, s.wrapper}, &s.input, s.stubborn)
	if err != nil {
		return "", err
	}
	if r, ok := answer.(client.Received); ok {
		s.heard = append(s.heard, textsOf(r)...)
	}
	return gistOf(answer), nil
}

// mine is what alice has, as far as it is the same in every run: records by table,
// but for floors and leases, which an aborted attempt leaves, and what she sees.
func (s *stage) mine() string {
	s.Helper()
	rows, _ := s.rows(s.store, append(slices.Clone(s.op.varies), client.TableFloors, client.TableLease)...)
	ctx := s.Context()
	ids, err := s.alice.Conversations(ctx)
	s.must(err)
	text := fmt.Sprintf("rows%s; conversations %q", rows, ids)
	if i, err := s.alice.Info(ctx, chat); err == nil {
		members, err := s.alice.ClientIDs(ctx, chat)
		s.must(err)
		text += fmt.Sprintf("; %s; members %q", gistOf(i), nameless(members))
	} else if !errors.Is(err, client.ErrConversationNotFound) {
		s.Fatal(err)
	}
	data, _, err := s.alice.Data(ctx)
	s.must(err)
	return text + fmt.Sprintf("; data %q", data)
}

// waits says whether a commit of alice waits for its answer.
func (s *stage) waits() bool {
	s.Helper()
	i, err := s.alice.Info(s.Context(), chat)
	if errors.Is(err, client.ErrConversationNotFound) { // about to join, or not
		ids, err := s.alice.Conversations(s.Context())
		s.must(err)
		return slices.Contains(ids, chat)
	}
	s.must(err)
	return i.PendingCommit || i.PendingJoin
}

// rest lets everybody catch up, and is what has become of it all.
func (s *stage) rest() string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second) // if an outbox is still taken
	defer cancel()
	s.must(s.alice.Resume(ctx))
	s.catchUp()
	s.heard = append(s.heard, s.alice.Texts()...)
	s.bobs = append(s.bobs, untold(s.bob.Texts())...)
	members, err := s.bob.ClientIDs(s.Context(), chat)
	s.must(err)
	return fmt.Sprintf("%s; %d messages in the log; bob knows %q and read %q", s.mine(), len(s.service.Log(chat)), nameless(members), s.bobs)
}

// lives checks that everybody who is in the chat agrees and can go on.
func (s *stage) lives() {
	s.Helper()
	s.in(s.bob, func(ctx context.Context, c *client.Conversation) error { // what waits would keep texts back
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	s.catchUp()
	var members []*clienttest.Device
	for _, d := range s.devices {
		if _, err := d.Info(s.Context(), chat); err == nil {
			members = append(members, d)
		}
	}
	s.agree(members...)
	for _, d := range s.devices {
		d.Received()
	}
	var want []string
	for _, d := range members {
		text := fmt.Sprintf("%s lives", d.Link.ID)
		want = append(want, text)
		s.send(d, text)
		s.must(d.Settle(s.Context(), chat)) // of a process that died, a commit may be first in the outbox
	}
	for _, d := range members {
		s.must(d.Link.Drain(s.Context(), chat))
		others := slices.DeleteFunc(slices.Clone(want), func(text string) bool { return text == fmt.Sprintf("%s lives", d.Link.ID) })
		if got := d.Texts(); !slices.Equal(got, others) {
			s.Fatalf("%s read %q, want %q", d.Link.ID, got, others)
		}
		errs := slices.DeleteFunc(d.Failed(), func(err error) bool {
			// what the operation has processed comes from the queue once more
			return d == s.alice && (errors.Is(err, client.ErrStaleProposal) || errors.Is(err, client.ErrStaleCommit))
		})
		if len(errs) > 0 {
			s.Fatalf("%s: %v", d.Link.ID, errs)
		}
	}
}

// outcomes are what an operation leads to if nothing goes wrong.
type outcomes struct {
	without, with         string // alice, before it and after it
	restWithout, restWith string // and when everybody has caught up
	heard                 []string
	gist                  string
	local                 bool // the service is not asked
	waits                 bool // before it, a commit waits for its answer
	store                 []bool
}

// outcomesOf plays an operation once, and once not. Store tells what it asks of the
// store, one entry a call: true is a write.
func outcomesOf(t testing.TB, op operation, set func() setting) (o outcomes) {
	t.Helper()
	s := newStage(t, op, set())
	o.restWithout = s.rest()
	s = newStage(t, op, set())
	o.without, o.waits = s.mine(), s.waits()
	s.faulty.Plan = func(int, core.Batch) coretest.Fault { o.store = append(o.store, true); return coretest.FaultNone }
	s.faulty.PlanRead = func(int) bool { o.store = append(o.store, false); return false }
	s.calls = 0
	gist, err := s.play(t.Context())
	if err != nil {
		t.Fatalf("with no fault: %v", err)
	}
	s.faulty.Plan, s.faulty.PlanRead = nil, nil
	o.gist, o.local = gist, s.calls == 0 && op.tx != nil
	o.with = s.mine()
	o.restWith, o.heard = s.rest(), s.heard
	s.lives()
	return o
}

// check looks at what came of an operation that was disturbed, and at whether life
// goes on: it happened, or it did not and can be done now.
func (s *stage) check(o outcomes, gist string, err error) {
	s.Helper()
	died := *s.dead
	s.revive()
	s.stubborn = false
	unknown := errors.Is(err, core.ErrUnknownOutcome)
	if err == nil && gist != o.gist {
		s.Fatalf("it was answered with %s, want %s", gist, o.gist)
	}
	if err != nil && !unknown && !died && s.op.tx != nil && s.waits() && !o.waits {
		s.Fatalf("a commit waits, and nobody is told: %v", err)
	}
	if o.local {
		now := s.mine()
		switch {
		case now != o.with && now != o.without:
			s.Fatalf("it happened by half (%v):\nbefore %s\nnow    %s\nafter  %s", err, o.without, now, o.with)
		case now != o.with && err == nil:
			s.Fatalf("it is said to have happened:\nnow   %s\nafter %s", now, o.with)
		case now != o.without && err != nil && !unknown:
			s.Fatalf("it is said not to have happened (%v):\nbefore %s\nnow    %s", err, o.without, now)
		case now == o.without && err != nil:
			s.again(o)
		}
	}
	rest := s.rest()
	switch {
	case rest == o.restWith:
		if errors.Is(err, core.ErrUnavailable) && !unknown && !died && !o.local && !s.op.compound && rest != o.restWithout {
			s.Fatalf("it is said not to have happened (%v), and did", err)
		}
	case err == nil:
		s.Fatalf("it is said to have happened:\nnow   %s\nafter %s", rest, o.restWith)
	case rest == o.restWithout && !o.local:
		s.again(o)
		if rest = s.rest(); rest != o.restWith {
			s.Fatalf("once more:\nnow   %s\nafter %s", rest, o.restWith)
		}
	case !s.op.compound:
		s.Fatalf("it happened by half (%v):\nbefore %s\nnow    %s\nafter  %s", err, o.restWithout, rest, o.restWith)
	}
	if !slices.Equal(s.heard, o.heard) && !(unknown && len(s.heard) == 0) {
		s.Fatalf("alice read %q, want %q (%v)", s.heard, o.heard, err)
	}
	s.lives()
}

// again has alice do it once more, without trouble.
func (s *stage) again(o outcomes) {
	s.Helper()
	gist, err := s.play(s.Context())
	if err != nil || gist != o.gist {
		s.Fatalf("once more: %s, %v; want %s", gist, err, o.gist)
	}
}
