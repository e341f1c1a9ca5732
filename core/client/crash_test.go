// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// A mortalWorld is a stage where alice's process will die. Until the end bob and carol,
// who live in this one, are alone on it.
type mortalWorld struct {
	*stage
	order order
	out   *outgoing
	first uint64 // epoch
}

func newMortalWorld(t testing.TB, policy mls.Config, options clienttest.Options, op operation, plugins bool) *mortalWorld {
	m := &mortalWorld{order: order{Dir: t.TempDir(), Client: "alice", Op: op.name, Plugins: plugins}}
	set := setting{policy: policy, options: options}
	var parts *shelf
	var err error
	if plugins {
		parts = newShelf(t, m.order.Dir, roleStore, roleKeys, roleWrapper)
		set.store, set.keys, set.wrapper = parts.store(), parts.keys(""), parts.wrapper()
	} else if set.store, err = sqlite.Open(t.Context(), filepath.Join(m.order.Dir, "store")); err != nil {
		t.Fatal(err)
	}
	suites, err := newRecorder(filepath.Join(m.order.Dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	set.suites = suites
	m.stage = newStage(t, op, set)
	m.out = &outgoing{Backend: m.service, who: "alice"}
	if !op.outside { // her first generations are used
		m.send(m.alice, "before")
		m.catchUp()
		m.bob.Received()
		for _, message := range m.service.Log(chat) {
			m.out.note("alice", message)
		}
	}
	m.first = m.epoch()
	m.order.Input = m.input
	m.must(m.alice.Close(t.Context()))
	m.must(set.store.Close())
	if parts != nil {
		m.must(parts.close())
	}
	m.devices = slices.DeleteFunc(m.devices, func(d *clienttest.Device) bool { return d == m.alice })
	m.order.Socket = serve(t, m.out)
	return m
}

// afterwards lets alice come back, and checks that all agree.
func (m *mortalWorld) afterwards() report {
	m.Helper()
	o := m.order
	o.Op, o.KillAt = "", 0
	r, _ := run(m, o)
	m.catchUp()
	if r2, _ := run(m, o); r2.Points != 0 { // nothing is left to do
		m.Fatalf("a second resume did something: %+v", r2)
	}
	members := []*clienttest.Device{m.bob}
	for _, d := range []*clienttest.Device{m.carol, m.dave} {
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
	ops := slices.Clone(boundaries[:len(boundaries)-1]) // who joins again has read nothing
	for _, name := range []string{"Send", "Send and UpdateKeyMaterial", "StageCommit"} {
		ops = append(ops, operationOf(name))
	}
	for i, op := range ops {
		if testing.Short() && op.name != "UpdateKeyMaterial" {
			continue
		}
		for policyName, policy := range map[string]mls.Config{"public": mls.DefaultConfig, "private": private} {
			for _, forgetful := range []bool{false, true} {
				if forgetful == (i%2 == 0) && (testing.Short() || op.name != "UpdateKeyMaterial") { // half of them each
					continue
				}
				competitor := forgetful == (policyName == "private")
				name := fmt.Sprintf("%s/%s/forgetful=%v/competitor=%v", op.name, policyName, forgetful, competitor)
				t.Run(name, func(t *testing.T) { killEverywhere(t, op, policy, forgetful, competitor, false) })
			}
		}
	}
}

func killEverywhere(t *testing.T, op operation, policy mls.Config, forgetful, competitor, plugins bool) {
	step := 1
	if testing.Short() { // before the writes only
		step = 2
	}
	for at := 1; ; at += step {
		m := newMortalWorld(t, policy, clienttest.Options{RefuseRepeats: forgetful}, op, plugins)
		o := m.order
		o.KillAt = at
		whole, killed := run(t, o)
		if plugins {
			noOrphans(t, o.Dir)
		}
		if competitor && (!op.outside || at < 3) {
			m.must(m.bob.Link.Drain(t.Context(), chat))
			m.in(m.bob, update)
		}
		if op.outside && at < 3 { // nothing is durable, or the join was overtaken
			if killed && (at == 1 || competitor) {
				continue
			}
		}
		m.afterwards()
		i, err := m.bob.Info(t.Context(), chat)
		m.must(err)
		durable := at >= 2 || !killed
		if commits := op.name != "Send"; commits && durable && i.Epoch == m.first {
			t.Fatalf("killed at point %d: the commit was durable and is lost", at)
		}
		if texts := m.bob.Texts(); durable && strings.HasPrefix(op.name, "Send") && !slices.Equal(texts, []string{"one"}) {
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

// TestKilledWithPlugins is TestKilled for a process whose parts are plugins: they end with
// it, and those of the next process go on.
func TestKilledWithPlugins(t *testing.T) {
	if testing.Short() {
		t.Skip("starts hundreds of processes")
	}
	t.Parallel()
	for i, name := range []string{"UpdateKeyMaterial", "Send"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			killEverywhere(t, operationOf(name), mls.DefaultConfig, i == 0, i == 0, true)
		})
	}
}

// noOrphans waits for the end of all plugins that have lived in a folder.
func noOrphans(t testing.TB, folder string) {
	t.Helper()
	s := &shelf{folder: folder}
	for _, role := range []string{roleStore, roleKeys, roleWrapper, roleIssuer} {
		for _, pid := range s.pids(t, role) {
			for end := time.Now().Add(20 * time.Second); alive(pid); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
					t.Fatalf("the plugin %s outlives its client", role)
				}
			}
		}
	}
}

// alive says whether a process runs: one that has ended may still have its number.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil { // there is no such process, or no /proc
		return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}
