// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
)

var pluginRuns = flag.Uint64("plugin-runs", 4, "how many random runs TestPluginsKilledAtRandom has")

// TestPluginsKilledAtRandom is TestRandomRuns with the store, the keys, the key wrapper and
// the issuer of each in a plugin, of which now one, now the other is killed: at once, or at
// some call that it will get. What a run does its seed says, but for the time that a plugin
// takes to come back.
func TestPluginsKilledAtRandom(t *testing.T) {
	t.Parallel()
	runs, deeds := *pluginRuns, 100
	if testing.Short() {
		runs, deeds = 1, 60
	}
	for seed := range runs {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			d := newDrama(t, seed)
			for _, id := range []core.ClientID{"alice", "bob", "carol"} {
				s := newShelf(t, t.TempDir(), roleStore, roleKeys, roleWrapper, roleIssuer)
				d.enter(&actor{id: id, store: s.store(), shelf: s, lost: map[client.IdempotencyKey]bool{}})
			}
			d.play(deeds)
			lives := 0
			for _, a := range d.actors {
				for role := range a.shelf.plugins {
					lives += len(a.shelf.pids(t, role)) - 1
				}
				open, err := a.OpenIssues(t.Context())
				d.must(err)
				for _, o := range open {
					_, err := a.Issue(t.Context(), o.Handle, a.shelf.issuer("basic"), nil)
					d.must(err)
				}
				d.must(a.Close(t.Context()))
				d.open(a) // which sweeps
				list, err := a.Credentials(t.Context(), client.CredentialFilter{})
				d.must(err)
				files, err := os.ReadDir(filepath.Join(a.shelf.folder, cabinetFolder))
				d.must(err)
				if len(list) != len(files) {
					t.Errorf("the plugin keeps %d keys, the store of %s names %d", len(files), a.id, len(list))
				}
			}
			t.Logf("plugins came back %d times", lives)
			if lives < 5 {
				t.Error("which is seldom")
			}
		})
	}
}

// prepare makes the configuration of an actor with plugins.
func (a *actor) prepare(d *drama, cfg *client.Config) (err error) {
	cfg.Keys = a.shelf.keys("")
	cfg.Store, err = seal.Open(d.Context(), grave{a.faulty, a.dead}, a.shelf.wrapper(), "device")
	return err
}

// doom has a plugin of an actor die, now or in what follows.
func (d *drama) doom(a *actor) {
	if !d.chance(50) {
		return
	}
	role := []string{roleStore, roleStore, roleStore, roleKeys, roleKeys, roleIssuer, roleWrapper}[d.rng.IntN(7)]
	n, where := 1+d.rng.IntN(12), []string{idle, beforeIt, afterIt}[d.rng.IntN(3)]
	d.note("the %s of %s dies: %d, %s", role, a.id, n, where)
	if where == idle {
		a.shelf.kill(d, role)
	} else {
		a.shelf.doom(d, role, n, where)
	}
}

// reprieve takes doom away, and lets the plugins of an actor come back.
func (d *drama) reprieve(a *actor) {
	if a.shelf == nil {
		return
	}
	for _, role := range []string{roleStore, roleKeys, roleWrapper, roleIssuer} {
		a.shelf.spare(d, role)
	}
	a.shelf.back(d)
}

// answered looks at what an actor with plugins was told. Who is told that a plugin is away
// waits for it, or does not.
func (d *drama) answered(a *actor, err error) {
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case a.shelf == nil:
	case is(core.ErrDamaged) || is(core.ErrRolledBack) || is(client.ErrKeyGone) || is(client.ErrOtherKey):
		d.Errorf("%s is told: %v", a.id, err)
	case (is(core.ErrUnavailable) || is(core.ErrUnknownOutcome)) && d.chance(50):
		d.reprieve(a)
	}
}

// issue goes on with an issue, or begins one.
func (d *drama) issue(ctx context.Context, a *actor) error {
	open, err := a.OpenIssues(ctx)
	if err != nil {
		return err
	}
	var h client.EnrollmentHandle
	if len(open) > 0 {
		h = open[0].Handle
	} else if err := a.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
		h, err = tx.BeginIssue(ctx, client.IssueParams{Issuer: "basic"})
		return err
	}); err != nil {
		return err
	}
	_, err = a.Issue(ctx, h, a.shelf.issuer("basic"), nil)
	return err
}
