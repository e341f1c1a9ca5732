// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
)

var everyOperation = flag.Bool("everything", false, "TestPluginKilled plays every operation, not only those that most matter")

// killedIn are the operations that TestPluginKilled plays: one at least of each kind.
var killedIn = []string{
	"UpdateKeyMaterial", "AddMembers", "Rotate", "JoinByExternalCommit", "ProcessWelcome",
	"Send", "DecryptMessage: text", "DecryptMessage: commit", "NewCredential", "RemoveCredential", "Settle", "Open and Close",
}

// idle is where a plugin dies that has not yet got the call.
const idle = "idle"

// COM-8: the plugin of the keystore, and that of the keys, is killed at each call of an
// operation: when the call is about to be made, when the plugin has it, and when it has
// done it and not said so. The operation has happened or is an error that says that it may
// not have; when the plugin is back it can be done, all agree, no key is left over, and
// everybody goes on.
func TestPluginKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts hundreds of processes")
	}
	t.Parallel()
	common := newShelf(t, t.TempDir(), roleKeys, roleWrapper)
	for i, op := range operations {
		if !*everyOperation && !slices.Contains(killedIn, op.name) {
			continue
		}
		op.varies = append(slices.Clone(op.varies), client.TableJournal) // a key of which the provider says nothing waits to be swept
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			common := common
			instance := []string{"", "pure"}[i%2]
			if instance == "" { // its keys are counted
				common = newShelf(t, t.TempDir(), roleKeys, roleWrapper)
			}
			set := func(t testing.TB) (setting, *shelf) {
				own := newShelf(t, t.TempDir(), roleStore)
				return setting{store: own.store(), keys: common.keys(instance), wrapper: common.wrapper()}, own
			}
			o := outcomesOf(t, op, func() setting { s, _ := set(t); return s })
			for n, writes := range o.store {
				for k, where := range []string{idle, beforeIt, afterIt} {
					if !writes && where == afterIt { // it has done nothing
						continue
					}
					if turn := (n + i) % 4; !*everyOperation && (k < 2 && k != turn%2 || !writes && turn > 1) { // they take turns
						continue
					}
					t.Run(fmt.Sprintf("store/%d/%s", n+1, where), func(t *testing.T) {
						set, own := set(t)
						killStore(t, op, set, own, o, n+1, where)
					})
				}
			}
			for _, role := range []string{roleKeys, roleWrapper} {
				if role == roleKeys || op.name == "Open and Close" {
					killOther(t, op, role, instance, common, o)
				}
			}
		})
	}
}

func killStore(t *testing.T, op operation, set setting, own *shelf, o outcomes, n int, where string) {
	s := newStage(t, op, set)
	calls := 0
	hit := func() {
		if calls++; calls != n {
			return
		}
		if where == idle {
			own.kill(t, roleStore)
		} else {
			own.doom(t, roleStore, 1, where)
		}
	}
	s.faulty.PlanRead = func(int) bool { hit(); return false }
	s.faulty.Plan = func(int, core.Batch) coretest.Fault { hit(); return coretest.FaultNone }
	pid := own.pid(t, roleStore)
	gist, err := s.play(t.Context())
	mayFail(t, err)
	own.back(t)
	if own.pid(t, roleStore) == pid {
		t.Fatalf("the plugin lives: %d calls, %v", calls, err)
	}
	s.check(o, gist, err)
}

// mayFail checks what an operation says during which a plugin died.
func mayFail(t testing.TB, err error) {
	t.Helper()
	is := func(target error) bool { return errors.Is(err, target) }
	if err != nil && (!is(core.ErrUnavailable) && !is(core.ErrUnknownOutcome) || is(core.ErrNotFound) || is(core.ErrDamaged) || is(core.ErrDenied)) {
		t.Fatalf("what failed is no answer: %v", err)
	}
}

// killOther does the same with the plugin of the keys or of the wrapper, which is asked
// less often.
func killOther(t *testing.T, op operation, role, instance string, common *shelf, o outcomes) {
	for n, asked := 1, true; asked && !t.Failed(); n++ {
		for _, where := range []string{beforeIt, afterIt, idle} {
			if !asked || where == idle && n > 1 { // as after the call before
				continue
			}
			t.Run(fmt.Sprintf("%s/%d/%s", role, n, where), func(t *testing.T) {
				own := newShelf(t, t.TempDir(), roleStore, role)
				set := setting{store: own.store(), keys: common.keys(instance), wrapper: common.wrapper()}
				if role == roleKeys {
					set.keys = own.keys(instance)
				} else {
					set.wrapper = own.wrapper()
				}
				s := newStage(t, op, set)
				before, pid := len(own.calls(t, role)), own.pid(t, role)
				if where == idle {
					own.kill(t, role)
				} else {
					own.doom(t, role, n, where)
				}
				gist, err := s.play(t.Context())
				if where != idle {
					asked = len(own.calls(t, role)) >= before+n
					own.spare(t, role)
				}
				mayFail(t, err)
				own.back(t)
				if asked && own.pid(t, role) == pid {
					t.Fatalf("the plugin lives: %v", err)
				}
				s.check(o, gist, err)
				if role == roleKeys && instance == "" {
					s.keysAre(own)
				}
			})
		}
	}
}

// keysAre has alice start again, and compares the keys that the plugin keeps with those
// that her store names.
func (s *stage) keysAre(own *shelf) {
	s.Helper()
	s.must(s.alice.Close(s.Context()))
	s.open()
	answers, err := own.store().Read(s.Context(), []core.Query{{Table: client.TableKey, KeysOnly: true}})
	s.must(err)
	files, err := os.ReadDir(filepath.Join(own.folder, cabinetFolder))
	s.must(err)
	if len(files) != len(answers[0]) {
		s.Errorf("the plugin keeps %d keys, the store names %d", len(files), len(answers[0]))
	}
}

// COM-8: the plugins of an issuer, the keys and the store die at each call of an issue. It
// goes on when they are back, to one credential.
func TestPluginKilledInIssue(t *testing.T) {
	if testing.Short() {
		t.Skip("starts hundreds of processes")
	}
	t.Parallel()
	for _, instance := range []string{"", "basic"} {
		for _, role := range []string{roleStore, roleKeys, roleIssuer} {
			for _, where := range []string{beforeIt, afterIt} {
				t.Run(strings.Trim(strings.Join([]string{instance, role, where}, "/"), "/"), func(t *testing.T) {
					t.Parallel()
					for n := 1; killInIssue(t, instance, role, n, where) && !t.Failed(); n++ {
					}
				})
			}
		}
	}
}

// killInIssue says whether there was an n-th call.
func killInIssue(t *testing.T, instance, role string, n int, where string) (died bool) {
	own := newShelf(t, t.TempDir(), roleStore, roleKeys, roleIssuer)
	defer func() {
		if err := own.close(); err != nil {
			t.Error(err)
		}
	}()
	w := newWorld(t, clienttest.Options{})
	cfg := config()
	cfg.Keys = own.keys("")
	const id = "4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com"
	alice := w.deviceOn(id, own.store(), cfg)
	var h client.EnrollmentHandle
	w.do(alice, func(ctx context.Context, tx *client.Transaction) (err error) {
		if err := tx.RegisterTrustAnchor(ctx, companyRoot()); err != nil {
			return err
		}
		h, err = tx.BeginIssue(ctx, client.IssueParams{Issuer: instance, Handle: "alice_wire", DisplayName: "Alice"})
		return err
	})
	before := len(own.calls(t, role))
	own.doom(t, role, n, where)
	defer own.spare(t, role)
	issue := func() error {
		_, err := alice.Issue(t.Context(), h, own.issuer(instance), nil)
		return err
	}
	err := issue()
	died = len(own.calls(t, role)) >= before+n
	mayFail(t, err)
	own.back(t)
	if open := w.openIssues(alice); len(open) > 0 != (err != nil) && !errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("%s, call %d: %d issues are open after %v", role, n, len(open), err)
	}
	if err != nil {
		if err := issue(); err != nil && !errors.Is(err, client.ErrEnrollmentNotFound) {
			t.Errorf("%s, call %d: again: %v", role, n, err)
		}
	}
	w.must(alice.Close(t.Context()))
	alice = clienttest.NewDevice(t, w.service, id, own.store(), cfg)
	files, err := os.ReadDir(filepath.Join(own.folder, cabinetFolder))
	w.must(err)
	if list := w.credentials(alice, client.CredentialFilter{}); len(list) != 2 || len(files) != 2 || len(w.openIssues(alice)) > 0 {
		t.Errorf("%s, call %d: %d credentials, %d keys", role, n, len(list), len(files))
	}
	w.must(alice.Close(t.Context()))
	return died
}
