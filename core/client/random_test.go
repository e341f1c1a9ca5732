// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// An actor is a device whose store and network fail at random and whose process
// may end at any call.
type actor struct {
	*clienttest.Device
	id     core.ClientID
	store  core.Keystore
	shelf  *shelf // her plugins, of which the store is one; nil: it is in this process
	faulty *coretest.Faulty
	dead   *bool
	sent   []client.IdempotencyKey // Send and the transaction returned nil
	lost   map[client.IdempotencyKey]bool
	fate   int // calls until the process ends; 0: it does not
	faults int // of the store, so far
}

// A grave is the store of a process that has ended: nobody hears from it.
type grave struct {
	*coretest.Faulty
	dead *bool
}

func (g grave) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	if *g.dead {
		return nil, core.ErrClosed
	}
	return g.Faulty.Read(ctx, queries)
}

func (g grave) Apply(ctx context.Context, b core.Batch) error {
	if *g.dead {
		return core.ErrClosed
	}
	return g.Faulty.Apply(ctx, b)
}

type drama struct {
	*world
	rng    *rand.Rand
	out    *outgoing
	suites *recorder
	actors []*actor
	calm   bool
	trace  []string
}

var errAbort = errors.New("the callback has had enough")

func (d *drama) chance(percent int) bool { return d.rng.IntN(100) < percent }

func (d *drama) note(format string, args ...any) {
	d.trace = append(d.trace, fmt.Sprintf(format, args...))
}

// open starts the process of an actor, again or for the first time.
func (d *drama) open(a *actor) {
	a.dead, a.fate = new(bool), 0
	a.faulty = &coretest.Faulty{Keystore: a.store, Plan: func(int, core.Batch) coretest.Fault {
		a.faults++
		switch {
		case d.fated(a):
			return []coretest.Fault{coretest.FaultBefore, coretest.FaultApplied, coretest.FaultLate}[d.rng.IntN(3)]
		case d.calm || !d.chance(4):
			a.faults--
			return coretest.FaultNone
		}
		return coretest.Fault(1 + d.rng.IntN(5))
	}}
	cfg := config()
	if a.shelf != nil {
		d.must(a.prepare(d, &cfg))
	}
	cfg.Suites = d.suites
	cfg.Lease = 20 * time.Millisecond
	cfg.Observe = func(e client.Event) {
		if u, ok := e.(client.Undelivered); ok {
			a.lost[u.Key] = true
		}
	}
	a.Device = clienttest.NewDevice(d, d.out, a.id, grave{a.faulty, a.dead}, cfg)
	a.Join.Group = d.policy
	trouble := func(string) error {
		if d.fated(a) || !d.calm && d.chance(5) {
			return core.ErrUnavailable
		}
		return nil
	}
	a.Link.Before, a.Link.After = trouble, trouble
	receive := a.Link.Receive
	a.Link.Receive = func(ctx context.Context, id core.ConversationID, message []byte) error {
		if *a.dead {
			return core.ErrClosed
		}
		return receive(ctx, id, message)
	}
}

// fated counts down to the end of the process.
func (d *drama) fated(a *actor) bool {
	if a.fate > 0 {
		if a.fate--; a.fate == 0 {
			*a.dead = true
			return true
		}
	}
	return *a.dead
}

// revive starts a dead process again. What was on its way to the store may land
// before or after that.
func (d *drama) revive(a *actor) {
	if a.dead == nil || !*a.dead {
		return
	}
	d.reprieve(a)
	old := a.faulty
	if d.chance(50) {
		old.Land(d.Context())
	}
	d.open(a)
	old.Land(d.Context())
	d.note("%s is back", a.id)
}

func (a *actor) in(ctx context.Context) bool {
	_, err := a.Info(ctx, chat)
	return err == nil
}

// act does something at random. Errors are expected; what must hold is checked at
// the end.
func (d *drama) act(a *actor) {
	ctx := d.Context()
	d.revive(a)
	if d.chance(15) {
		a.fate = 1 + d.rng.IntN(8)
	}
	deeds := 12
	if a.shelf != nil {
		deeds = 13
		d.doom(a)
	}
	what := d.rng.IntN(deeds)
	var err error
	defer func() { d.note("%s does %d: %v", a.id, what, err); d.answered(a, err) }()
	if !a.in(ctx) {
		if err = a.Welcomes(ctx); err == nil && !a.in(ctx) && d.chance(50) {
			err = d.rejoin(a)
		}
		return
	}
	var sent []client.IdempotencyKey
	switch what {
	case 0, 1, 2:
		err = in(ctx, a.Device, func(ctx context.Context, c *client.Conversation) error {
			sent = nil
			for range 1 + d.rng.IntN(3) {
				key, err := c.Send(ctx, []byte(fmt.Sprintf("%s %d", a.id, d.rng.IntN(1000))), nil)
				if err != nil {
					return err
				}
				sent = append(sent, key)
			}
			return nil
		})
		if err == nil {
			a.sent = append(a.sent, sent...)
		}
	case 3: // ciphertexts that escape from a transaction that is then aborted
		err = d.escaping(a, func(leaked *[][]byte) error {
			return in(ctx, a.Device, func(ctx context.Context, c *client.Conversation) error { return d.leak(ctx, c, leaked) })
		})
	case 4: // the same in a segment that has processed what waits
		err = d.escaping(a, func(leaked *[][]byte) error { return d.leakBehind(ctx, a, leaked) })
	case 5, 6:
		err = in(ctx, a.Device, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.UpdateKeyMaterial(ctx)
			return err
		})
	case 7:
		err = d.addOrRemove(ctx, a)
	case 8:
		err = a.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
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
	case 9:
		err = in(ctx, a.Device, func(ctx context.Context, c *client.Conversation) error {
			if d.chance(50) {
				_, err := c.ProposeUpdate(ctx, 0)
				return err
			}
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
	case 10:
		err = a.Resume(ctx)
	case 12:
		err = d.issue(ctx, a)
	default:
		err = a.Link.Drain(ctx, chat)
	}
}

// escaping runs what leaks. The ciphertexts escape if the abort could do its work:
// of a process that ends before, nothing may have been handed out.
func (d *drama) escaping(a *actor, f func(leaked *[][]byte) error) error {
	var leaked [][]byte
	faults := a.faults
	err := f(&leaked)
	if a.faults == faults && !*a.dead {
		for _, message := range leaked {
			d.out.note(a.id, message)
		}
	}
	return err
}

// leak encrypts and fails.
func (d *drama) leak(ctx context.Context, c *client.Conversation, leaked *[][]byte) error {
	for range 1 + d.rng.IntN(2) {
		message, err := c.Encrypt(ctx, []byte("leaked"), nil)
		if err != nil {
			return err
		}
		*leaked = append(*leaked, message)
	}
	return errAbort
}

// leakBehind processes the next message that waits, encrypts, and panics; the
// message stays in the queue.
func (d *drama) leakBehind(ctx context.Context, a *actor, leaked *[][]byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return a.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		number, message, err := d.out.Next(a.id, chat)
		if err != nil || number == 0 {
			return err
		}
		if _, err := tx.DecryptMessage(ctx, chat, message); err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		if err := d.leak(ctx, c, leaked); !errors.Is(err, errAbort) {
			return err
		}
		panic(errAbort)
	})
}

func (d *drama) addOrRemove(ctx context.Context, a *actor) error {
	other := d.actors[d.rng.IntN(len(d.actors))]
	if other == a {
		return nil
	}
	ids, err := a.ClientIDs(ctx, chat)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id == other.id {
			return in(ctx, a.Device, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.RemoveMembers(ctx, other.id)
				return err
			})
		}
	}
	var message []byte
	err = other.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		k, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 1)
		if err == nil {
			message = k[0].Message
		}
		return err
	})
	if err != nil {
		return err
	}
	return in(ctx, a.Device, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, message)
		return err
	})
}

func (d *drama) rejoin(a *actor) error {
	info, err := d.out.GroupInfo(chat)
	if err != nil {
		return err
	}
	return a.Transaction(d.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{Group: d.policy})
		return err
	})
}

// denouement: no more faults. Everybody comes back, settles and catches up.
func (d *drama) denouement() {
	d.Helper()
	ctx := d.Context()
	d.calm = true
	for _, a := range d.actors {
		d.reprieve(a)
		d.revive(a)
		a.fate = 0
	}
	for round := range 6 {
		for _, a := range d.actors {
			d.must(a.Welcomes(ctx))
			err := a.Resume(ctx)
			if err != nil && !errors.Is(err, mls.ErrPendingProposals) && round > 3 {
				d.Fatal(a.id, "resume:", err)
			}
			if a.in(ctx) {
				d.must(a.Link.Drain(ctx, chat))
			}
		}
		// proposals would keep texts from being encrypted again
		for _, a := range d.actors {
			if i, err := a.Info(ctx, chat); err == nil && i.PendingProposals > 0 && round < 5 {
				_ = in(ctx, a.Device, func(ctx context.Context, c *client.Conversation) error {
					_, err := c.CommitPendingProposals(ctx)
					return err
				})
			}
		}
	}
	var members []*clienttest.Device
	for _, a := range d.actors {
		if a.in(ctx) {
			members = append(members, a.Device)
		}
	}
	if len(members) == 0 {
		d.Fatal("nobody is left")
	}
	d.agree(members...)
	ids, err := members[0].ClientIDs(ctx, chat)
	d.must(err)
	if len(ids) != len(members) {
		d.Fatalf("members %v, of whom %d know it", ids, len(members))
	}
	for _, a := range d.actors {
		for _, key := range a.sent {
			// the event may have been lost with the process, if it was ever removed
			if !a.lost[key] && !d.service.Delivered(a.id, chat, key.String()) && d.service.Joins(chat, a.id) == 1 && a.in(ctx) {
				d.Errorf("%s: message %v was accepted and is gone", a.id, key)
			}
		}
	}
	for _, a := range d.actors {
		for _, err := range a.Failed() {
			if err == mls.ErrTooOld || errors.Is(err, mls.ErrTooFarAhead) { // too old a generation, not epoch
				d.Errorf("%s: what was sent out of order was lost: %v", a.id, err)
			}
		}
	}
	noKeyTwice(d, d.suites.file.Name(), d.out.left)
}

// TestRandomRuns plays with faults, crashes and aborts. After each run all members
// agree, no key was used for two messages, and nothing that was accepted is gone.
func TestRandomRuns(t *testing.T) {
	t.Parallel()
	runs := uint64(200)
	if testing.Short() {
		runs = 20
	}
	for seed := range runs {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			d := newDrama(t, seed)
			for _, id := range []core.ClientID{"alice", "bob", "carol"} {
				d.enter(&actor{id: id, store: memory.New(), lost: map[client.IdempotencyKey]bool{}})
			}
			d.play(30)
		})
	}
}

func newDrama(t *testing.T, seed uint64) *drama {
	w := newWorld(t, clienttest.Options{RefuseRepeats: seed%2 == 1})
	if seed%4 >= 2 {
		w.policy = private
	}
	suites, err := newRecorder(filepath.Join(t.TempDir(), "keys"))
	w.must(err)
	t.Cleanup(func() { _ = suites.file.Close() })
	return &drama{world: w, rng: rand.New(rand.NewPCG(seed, 2)), suites: suites, out: &outgoing{Backend: w.service}, calm: true}
}

// enter gives an actor an identity.
func (d *drama) enter(a *actor) {
	d.open(a)
	d.do(a.Device, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, a.id, suite1) })
	d.actors = append(d.actors, a)
	d.devices = append(d.devices, a.Device)
}

// play has the actors do so many things, and looks at what came of them.
func (d *drama) play(deeds int) {
	defer func() {
		if d.Failed() {
			for _, a := range d.actors {
				i, err := a.Info(context.Background(), chat)
				d.Logf("%s: %+v %v; failed: %v", a.id, i, err, a.Failed())
			}
			for _, line := range d.trace {
				d.Log(line)
			}
		}
	}()
	d.create(d.actors[0].Device)
	d.add(d.actors[0].Device, d.devices[1], d.devices[2])
	d.calm = false
	for range deeds {
		d.act(d.actors[d.rng.IntN(len(d.actors))])
	}
	d.denouement()
}
