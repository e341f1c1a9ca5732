// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// A mortalWorld is a chat of alice, whose process will die, with bob and carol,
// who live in this one.
type mortalWorld struct {
	*world
	order      order
	out        *outgoing
	bob, carol *clienttest.Device
	dave       *clienttest.Device // waits to be added
	epoch      uint64
}

func newMortalWorld(t testing.TB, policy mls.Config, options clienttest.Options, op string) *mortalWorld {
	w := newWorld(t, options)
	w.policy = policy
	m := &mortalWorld{world: w}
	m.out = &outgoing{Backend: w.service, who: "alice"}
	m.order = order{Dir: t.TempDir(), Client: "alice", Op: op}
	store, err := sqlite.Open(t.Context(), filepath.Join(m.order.Dir, "store"))
	w.must(err)
	cfg := config()
	cfg.Suites, err = newRecorder(filepath.Join(m.order.Dir, "keys"))
	w.must(err)
	alice := clienttest.NewDevice(t, m.out, "alice", store, cfg)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice", suite1) })
	m.bob, m.carol = w.device("bob"), w.device("carol")
	w.devices = append(w.devices, alice)
	if op == "join" { // alice is not in it
		w.devices = w.devices[:2]
		w.create(m.bob)
		w.add(m.bob, m.carol)
	} else {
		w.create(alice)
		w.add(alice, m.bob, m.carol)
		w.send(alice, "before")
		w.catchUp()
	}
	for _, d := range w.devices {
		w.do(d, func(ctx context.Context, tx *client.Transaction) error {
			return tx.SetPSK(ctx, []byte("psk"), core.NewSecret([]byte("a secret that all have")))
		})
	}
	m.bob.Received()
	m.carol.Received()
	i, err := m.bob.Info(t.Context(), chat)
	w.must(err)
	m.epoch = i.Epoch
	if op == "add" {
		m.dave = w.device("dave")
		m.order.Package = w.keyPackage(m.dave)
	}
	w.must(alice.Close(t.Context()))
	w.must(store.Close())
	w.devices = slices.DeleteFunc(w.devices, func(d *clienttest.Device) bool { return d == alice })
	m.order.Socket = serve(t, m.out)
	return m
}

// afterwards lets alice come back, and checks that all agree.
func (m *mortalWorld) afterwards() report {
	m.Helper()
	o := m.order
	o.Op, o.KillAt = "resume", 0
	r, _ := run(m, o)
	m.catchUp()
	if r2, _ := run(m, o); r2.Points != 0 { // nothing is left to do
		m.Fatalf("a second resume did something: %+v", r2)
	}
	members := []*clienttest.Device{m.bob}
	for _, d := range []*clienttest.Device{m.carol, m.dave} {
		if d == nil {
			continue
		}
		if _, err := d.Info(m.Context(), chat); err == nil {
			members = append(members, d)
		}
	}
	m.agree(members...)
	i, err := m.bob.Info(m.Context(), chat)
	m.must(err)
	s, err := m.bob.ExportSecret(m.Context(), chat, 32)
	m.must(err)
	if i.Epoch != r.Epoch || fmt.Sprintf("%x", s.Bytes()) != r.Secret {
		m.Fatalf("bob is in epoch %d, alice in %d; secrets %x and %s", i.Epoch, r.Epoch, s.Bytes(), r.Secret)
	}
	for _, d := range members {
		if errs := d.Failed(); len(errs) > 0 {
			m.Fatalf("%s: %v", d.Link.ID, errs)
		}
	}
	noKeyTwice(m, filepath.Join(m.order.Dir, "keys"), m.out.left)
	return r
}

// COM-1, COM-8: kills a process at each point of each operation that asks the delivery
// service, and lets another go on. Where a competitor is, bob commits between the two.
func TestKilled(t *testing.T) {
	t.Parallel()
	ops := []string{"update", "add", "remove", "psk", "rotate", "join", "send", "send and update"}
	if testing.Short() {
		ops = ops[:1]
	}
	for policyName, policy := range map[string]mls.Config{"public": mls.DefaultConfig, "private": private} {
		for _, forgetful := range []bool{false, true} {
			for _, op := range ops {
				competitor := forgetful == (policyName == "private")
				name := fmt.Sprintf("%s/%s/forgetful=%v/competitor=%v", op, policyName, forgetful, competitor)
				t.Run(name, func(t *testing.T) { killEverywhere(t, op, policy, forgetful, competitor) })
			}
		}
	}
}

func killEverywhere(t *testing.T, op string, policy mls.Config, forgetful, competitor bool) {
	for at := 1; ; at++ {
		m := newMortalWorld(t, policy, clienttest.Options{RefuseRepeats: forgetful}, op)
		o := m.order
		o.KillAt = at
		whole, killed := run(t, o)
		if competitor && (op != "join" || at < 3) {
			m.must(m.bob.Link.Drain(t.Context(), chat))
			m.in(m.bob, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.UpdateKeyMaterial(ctx)
				return err
			})
		}
		if op == "join" && at < 3 { // nothing is durable, or the join was overtaken
			if killed && (at == 1 || competitor) {
				continue
			}
		}
		m.afterwards()
		i, err := m.bob.Info(t.Context(), chat)
		m.must(err)
		durable := at >= 2 || !killed
		if commits := op != "send"; commits && durable && i.Epoch == m.epoch {
			t.Fatalf("killed at point %d: the commit was durable and is lost", at)
		}
		if texts := m.bob.Texts(); durable && (op == "send" && !slices.Equal(texts, []string{"a", "b"}) || op == "send and update" && !slices.Equal(texts, []string{"a"})) {
			t.Fatalf("killed at point %d: bob read %q", at, texts)
		}
		if !killed {
			if whole.Points < 6 { // a write, a call and a write, before and after each
				t.Fatalf("%d points in the whole run", whole.Points)
			}
			return
		}
	}
}
