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
	"github.com/conclave-mls/conclave/storage/memory"
)

// packages makes key packages.
func (w *world) packages(d *clienttest.Device, o client.KeyPackageOptions, n int) (refs []string) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.MakeKeyPackages(ctx, o, n)
		for _, k := range list {
			refs = append(refs, string(k.Ref))
		}
		return err
	})
	return refs
}

// stored lists the key packages that a device keeps.
func (w *world) stored(d *clienttest.Device) (list []client.KeyPackage) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		list, err = tx.StoredKeyPackages(ctx)
		return err
	})
	return list
}

func (w *world) count(d *clienttest.Device, suite core.SuiteID, want int) {
	w.Helper()
	if n, err := d.CountKeyPackages(w.Context(), suite, 0); err != nil || n != want {
		w.Errorf("suite %v: %d key packages, want %d; %v", suite, n, want, err)
	}
}

// 13.17: the reference applies the limit before it looks at suite and type, and so
// makes packages that it has.
func TestQuirkLimitAfterFilter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	mine := w.packages(alice, client.KeyPackageOptions{Suite: suite1}, 3)
	w.packages(alice, client.KeyPackageOptions{Suite: suite3}, 5)
	w.packages(alice, client.KeyPackageOptions{Suite: suite1, LastResort: true}, 2)
	get := func(n int) (refs []string) {
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			list, err := tx.KeyPackages(ctx, suite1, 0, n)
			for _, k := range list {
				refs = append(refs, string(k.Ref))
			}
			return err
		})
		return refs
	}
	if got := get(3); !slices.Equal(got, mine) {
		t.Errorf("got %x, want the three that are there, oldest first", got)
	}
	if got := get(2); !slices.Equal(got, mine[1:]) { // 13.19: the same again, the newest of them
		t.Errorf("got %x", got)
	}
	if got := get(0); len(got) != 0 {
		t.Errorf("got %x for none", got)
	}
	w.count(alice, suite1, 3)
	if got := get(5); len(got) != 5 || !slices.Equal(got[2:], mine) {
		t.Errorf("got %x, want two fresh ones and then the three", got)
	}
	w.count(alice, suite1, 5)
	w.count(alice, suite3, 5)
}

// 13.18: the reference deletes a credential with its last key package, even that of
// a leaf.
func TestQuirkCredentialOutlivesItsKeyPackages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.device("alice"), w.device("bob")
	w.create(alice)
	w.packages(alice, client.KeyPackageOptions{Suite: suite1}, 2)
	w.newCredential(alice, suite1, 0)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.StoredKeyPackages(ctx)
		if err != nil || len(list) != 2 {
			t.Errorf("%d key packages, %v", len(list), err)
		}
		return tx.DeleteKeyPackages(ctx, list[0].Ref, list[1].Ref)
	})
	w.count(alice, suite1, 0)
	w.add(alice, bob)
	w.send(alice, "still here")
	w.reads(bob, "still here")
	w.uses(alice, 1)
	w.try(alice, client.ErrEmptyInput, func(ctx context.Context, tx *client.Transaction) error { return tx.DeleteKeyPackages(ctx) })
}

func deleteStale(suite core.SuiteID, kind core.CredentialType) step {
	return func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteStaleKeyPackages(ctx, suite, kind)
	}
}

// The reference answers with an error where there is nothing to delete.
func TestQuirkNothingStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	w.do(alice, deleteStale(suite1, 0))
	w.packages(alice, client.KeyPackageOptions{Suite: suite1}, 2)
	w.do(alice, deleteStale(suite1, 0))
	w.count(alice, suite1, 2)
	w.try(alice, client.ErrEnrollmentNotDone, deleteStale(suite1, core.CredentialX509))
	w.try(alice, client.ErrCredentialNotFound, deleteStale(suite2, 0))
}

// The reference deletes the key packages of other signature schemes too.
func TestQuirkStaleInOneSchemeOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", memory.New(), certifiedConfig())
	w.newCredential(alice, suite2, 0)
	for _, suite := range []core.SuiteID{suite1, suite2, suite3} {
		w.packages(alice, client.KeyPackageOptions{Suite: suite}, 2)
	}
	w.packages(alice, client.KeyPackageOptions{Suite: suite1, LastResort: true}, 1)
	newer := w.newCredential(alice, suite1, 1)
	fresh := w.packages(alice, client.KeyPackageOptions{Suite: suite3, CredentialRef: newer.Ref}, 1)
	w.do(alice, deleteStale(suite1, core.CredentialX509))
	w.count(alice, suite1, 0)
	w.count(alice, suite2, 2)
	w.count(alice, suite3, 0)
	list := w.stored(alice)
	if len(list) != 3 || string(list[2].Ref) != fresh[0] {
		t.Errorf("%d key packages are left", len(list))
	}
}

// By credential and with a lifetime, as far as the maximum goes.
func TestKeyPackageOptions(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	w := newWorld(t, clienttest.Options{})
	cfg := config()
	now := time.Now().Truncate(time.Second)
	cfg.Clock = func() time.Time { return now }
	cfg.MaxLifetime = 10*day + time.Hour
	alice := w.deviceOn("alice", memory.New(), cfg)
	w.newCredential(alice, suite1, 0)
	for name, test := range map[string]struct {
		o    client.KeyPackageOptions
		want error
	}{
		"longest":        {client.KeyPackageOptions{Suite: suite1, CredentialRef: 1, Lifetime: 10 * day}, nil},
		"too long":       {client.KeyPackageOptions{Suite: suite1, Lifetime: 10*day + time.Second}, core.ErrInvalid},
		"longer":         {client.KeyPackageOptions{Suite: suite1, Lifetime: 1<<63 - 1}, core.ErrInvalid},
		"the usual":      {client.KeyPackageOptions{Suite: suite1}, core.ErrInvalid}, // 84 days
		"none":           {client.KeyPackageOptions{Suite: suite1, Lifetime: time.Nanosecond}, core.ErrInvalid},
		"negative":       {client.KeyPackageOptions{Suite: suite1, Lifetime: -day}, core.ErrInvalid},
		"no credential":  {client.KeyPackageOptions{Suite: suite1, CredentialRef: 9, Lifetime: day}, client.ErrCredentialNotFound},
		"another scheme": {client.KeyPackageOptions{Suite: suite2, CredentialRef: 1, Lifetime: day}, client.ErrWrongCredential},
		"no type":        {client.KeyPackageOptions{Suite: suite1, Credential: core.CredentialX509, Lifetime: day}, client.ErrEnrollmentNotDone},
		"no suite":       {client.KeyPackageOptions{Suite: 0xfefe, Lifetime: day}, core.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) { w.try(alice, test.want, makePackage(test.o)) })
	}
	w.packages(alice, client.KeyPackageOptions{Lifetime: day, LastResort: true}, 1)
	list := w.stored(alice)
	if len(list) != 2 {
		t.Fatalf("%d key packages", len(list))
	}
	for i, want := range []client.KeyPackage{
		{Suite: suite1, Credential: 1, Expires: now.Add(10 * day)},
		{Suite: suite1, Credential: 2, Expires: now.Add(day), LastResort: true},
	} {
		got := list[i]
		if got.Suite != want.Suite || got.Credential != want.Credential || !got.Expires.Equal(want.Expires) || got.LastResort != want.LastResort {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error { return tx.DeleteKeyPackagesOf(ctx, 1) })
	if list := w.stored(alice); len(list) != 1 || list[0].Credential != 2 {
		t.Errorf("left are %+v", list)
	}
}

// What has expired does not count, and goes with whatever looks at the whole pool.
func TestExpiredKeyPackagesGo(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]step{
		"get none": func(ctx context.Context, tx *client.Transaction) error {
			list, err := tx.KeyPackages(ctx, suite1, 0, 0)
			if len(list) != 0 {
				err = fmt.Errorf("%d key packages", len(list))
			}
			return err
		},
		"make none": func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewKeyPackages(ctx, suite3, 0, 0)
			return err
		},
		"delete": func(ctx context.Context, tx *client.Transaction) error {
			return tx.DeleteKeyPackages(ctx, []byte("unknown"))
		},
		"delete of":    func(ctx context.Context, tx *client.Transaction) error { return tx.DeleteKeyPackagesOf(ctx, 99) },
		"delete stale": deleteStale(suite3, 0),
	} {
		w := newWorld(t, clienttest.Options{})
		cfg := config()
		now := time.Now()
		cfg.Clock = func() time.Time { return now }
		alice := w.deviceOn("alice", memory.New(), cfg)
		short := w.packages(alice, client.KeyPackageOptions{Suite: suite1, Lifetime: time.Hour}, 2)
		w.packages(alice, client.KeyPackageOptions{Suite: suite1}, 1)
		now = now.Add(time.Hour)
		w.count(alice, suite1, 1)
		if n := len(w.stored(alice)); n != 3 {
			t.Errorf("%s: counting took some of %d away", name, n)
		}
		w.do(alice, f)
		if list := w.stored(alice); len(list) != 1 || slices.Contains(short, string(list[0].Ref)) {
			t.Errorf("%s: %d are left", name, len(list))
		}
	}
}

// Two processes take from one pool and add to it: one of them has a conflict.
func TestPoolOfTwoProcesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, config())
	other := clienttest.NewDevice(t, w.service, "alice", ks, config())
	refs := w.packages(alice, client.KeyPackageOptions{Suite: suite1}, 2)
	tx, err := other.Begin(t.Context())
	w.must(err)
	defer func() { _ = tx.Abort(context.Background()) }()
	_, err = tx.KeyPackages(t.Context(), suite1, 0, 3)
	w.must(err)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteKeyPackages(ctx, []byte(refs[0]))
	})
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("got %v", err)
	}
	w.count(alice, suite1, 1)
}
