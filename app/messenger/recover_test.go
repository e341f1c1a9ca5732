// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/storage/memory"
)

// photo is all that a person's store holds.
func (p *person) photo() (all core.Batch) {
	p.t.Helper()
	for table := range core.Table(64) {
		answers, err := p.disk.Keystore.Read(p.t.Context(), []core.Query{{Table: table}})
		must(p.t, err)
		for _, r := range answers[0] {
			all.Puts = append(all.Puts, core.Put{Table: table, Key: r.Key, Value: r.Value, Version: r.Version})
		}
	}
	return all
}

// putBack is the person with a store of the past.
func (p *person) putBack(past core.Batch) *person {
	p.t.Helper()
	ks := memory.New()
	must(p.t, errors.Join(ks.Apply(p.t.Context(), past), ks.Apply(p.t.Context(), core.Batch{Puts: []core.Put{core.NewIncarnation()}})))
	return arriveOn(p.t, p.address, p.name, ks, client.Recover)
}

// An hour is lost, and one verb later all talk as before; but for those conversations of
// which a person has to decide.
func TestRecover(t *testing.T) {
	all := people(t, "alice", "bob", "carol", "dave")
	alice, bob, carol, dave := all[0], all[1], all[2], all[3]
	friends := conversation(t, "friends", []*person{bob, alice})
	family := conversation(t, "family", []*person{bob, carol, alice}) // carol will go: a blank
	must(t, bob.Remove(t.Context(), family, "carol"))
	work := conversation(t, "work", []*person{bob, alice}) // alice will be removed
	old := conversation(t, "old", []*person{bob, alice})   // alice is about to leave
	if gone, err := alice.Leave(t.Context(), old); gone || err != nil {
		t.Fatal(gone, err)
	}
	only, err := alice.Create(t.Context(), "only")
	must(t, err)
	past := alice.photo()

	must(t, alice.Send(t.Context(), friends, []byte("of the hour")))
	must(t, alice.Update(t.Context(), friends))
	must(t, bob.Send(t.Context(), friends, []byte("read")))
	alice.reads(friends)
	must(t, bob.Remove(t.Context(), work, "alice"))
	alice.reads(work)
	must(t, bob.Sync(t.Context())) // alice is out of old
	before, err := dave.service.Claim(t.Context(), "alice")
	must(t, err)
	must(t, bob.Send(t.Context(), friends, []byte("never read")))
	must(t, bob.Send(t.Context(), family, []byte("never read")))

	alice = alice.putBack(past)
	hears(t, alice, "put back to an older state")
	if err := alice.Send(t.Context(), friends, []byte("no")); !errors.Is(err, client.ErrRecovering) {
		t.Errorf("sends: %v", err)
	}
	if err := alice.Add(t.Context(), friends, "carol"); !errors.Is(err, client.ErrRecovering) {
		t.Errorf("adds: %v", err)
	}
	if _, err := alice.Rotate(t.Context()); !errors.Is(err, client.ErrRecovering) {
		t.Errorf("rotates: %v", err)
	}
	for _, f := range []func() error{
		func() error { return alice.Sync(t.Context()) },
		func() error { _, err := alice.List(t.Context()); return err },
		func() error { _, err := alice.Health(t.Context()); return err },
	} {
		must(t, f())
	}
	if s, err := alice.Status(t.Context(), friends); err != nil || !s.Recovering || len(s.Fingerprint) > 0 || len(s.Members) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	lost, err := alice.Lost(t.Context())
	if err != nil || len(lost.Conversations) != 5 || !lost.KeyPackages || !lost.Any() {
		t.Errorf("%+v, %v", lost, err)
	}

	alice.network.set(failing(http.MethodPost, "/v1/key-packages"), nil) // it does not come to its end
	if _, err := alice.Recover(t.Context(), false); err == nil {
		t.Error("nobody has the new key packages")
	}
	alice.network.set(nil, nil)
	outcomes := func(moved bool) (list []string) {
		t.Helper()
		done, err := alice.Recover(t.Context(), moved)
		must(t, err)
		for _, r := range done {
			line := strings.SplitN(string(r.ID), "-", 2)[0]
			switch {
			case r.Left:
				line += " left"
			case errors.Is(r.Err, client.ErrLeafMoves):
				line += " moves"
			case errors.Is(r.Err, client.ErrLeafGone):
				line += " gone"
			case errors.Is(r.Err, core.ErrNotFound):
				line += " unknown"
			case r.Err != nil:
				line += " " + r.Err.Error()
			case r.Epoch == 0:
				line += " epoch 0"
			}
			list = append(list, line)
		}
		slices.Sort(list)
		return list
	}
	same(t, "first", outcomes(false), "family moves", "friends", "old left", "only unknown", "work gone")
	same(t, "again", outcomes(false), "family moves", "only unknown", "work gone")
	same(t, "moved", outcomes(true), "family", "only unknown", "work gone")
	for _, id := range []string{work, string(only)} {
		if gone, err := alice.Leave(t.Context(), id); !gone || err != nil {
			t.Errorf("leave %s: %v, %v", id, gone, err)
		}
	}
	if lost, err := alice.Lost(t.Context()); err != nil || lost.Any() {
		t.Errorf("%+v, %v", lost, err)
	}
	after, err := dave.service.Claim(t.Context(), "alice")
	must(t, err)
	if string(before) == string(after) {
		t.Error("the key packages are the old ones")
	}
	for _, id := range []string{friends, family} {
		bob.reads(id)
		must(t, alice.Send(t.Context(), id, []byte("I am back")))
		same(t, "bob", bob.reads(id), "text alice I am back")
		must(t, bob.Send(t.Context(), id, []byte("so I see")))
		// What came meanwhile is told of, not more than once, and hinders nothing.
		same(t, "alice", alice.reads(id), "lost", "text bob so I see")
		agree(t, id, alice, bob)
	}
	must(t, dave.Register(t.Context(), "dave"))
	again, err := dave.Create(t.Context(), "again")
	must(t, err)
	must(t, dave.Add(t.Context(), string(again), "alice")) // by a new key package
	same(t, "alice", alice.reads(string(again)), "joined")
}

// A member who has added us again is enough.
func TestRecoverByBeingAdded(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", []*person{bob, alice})
	alice = alice.putBack(alice.photo())
	alice.network.set(failing(http.MethodPost, "/v1/commits"), nil)
	done, err := alice.Recover(t.Context(), false)
	if err != nil || len(done) != 1 || done[0].Err == nil {
		t.Fatalf("%+v, %v", done, err)
	}
	alice.network.set(nil, nil)
	alice = alice.putBack(alice.photo()) // so that no join waits
	must(t, bob.Remove(t.Context(), id, "alice"))
	if _, err := alice.Recover(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	must(t, bob.Add(t.Context(), id, "alice"))
	must(t, alice.Sync(t.Context()))
	if lost, err := alice.Lost(t.Context()); err != nil || lost.Any() {
		t.Errorf("%+v, %v", lost, err)
	}
	agree(t, id, alice, bob)
}
