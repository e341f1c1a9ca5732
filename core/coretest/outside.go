// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// A Check is one rule of a contract, for a program that is not a test, such as one that
// examines implementations which it did not build.
type Check struct {
	Name string
	run  func(t testing.TB)
}

// A Result is what a check has found.
type Result struct {
	Name     string
	Failures []string // what was expected, and what came instead; none: all is well
	Skipped  string   // why there was nothing to look at, or ""
}

// Run makes the check. If it ends before its time, because of the context, that is a failure.
func (c Check) Run(ctx context.Context) Result {
	r := recorded(ctx, nil, c.run)
	out := Result{Name: c.Name, Failures: r.report}
	if err := ctx.Err(); err != nil && len(r.report) == 0 {
		out.Failures = []string{fmt.Sprintf("the check has not come to its end: %v", err)}
	}
	if len(out.Failures) == 0 {
		out.Skipped = strings.Join(r.logged, "; ")
	}
	return out
}

// An Open opens what is examined in a folder of its own, which is empty at first. Opened
// there again, it is the same one, and has what it had. ErrUnavailable: it is open already,
// and can be only once. ErrSkip: there is none, and the check says nothing.
type Open[T any] func(ctx context.Context, folder string) (T, error)

// ErrSkip is why an [Open] gives nothing.
var ErrSkip = errors.New("there is none")

// KeystoreChecks are those of [TestDurableKeystore]. Crash ends the processes of all stores
// that are open, at once; closing a store ends its process, too.
func KeystoreChecks(open Open[core.Keystore], crash func()) []Check {
	var all []Check
	for _, c := range keystoreChecks {
		all = append(all, Check{c.name, func(t testing.TB) {
			c.run(t, func() core.Keystore { return opened(t, open, t.TempDir()) })
		}})
	}
	for _, c := range durableChecks {
		all = append(all, Check{c.name, func(t testing.TB) { c.run(t, func() OpenAt { return OpenAt(open) }) }})
	}
	return append(all, Check{"killed", func(t testing.TB) {
		location := t.TempDir()
		keystoreKilled(t, OpenAt(open), location, func(during func()) int { return crashOnce(t, OpenAt(open), location, crash, during) }, time.Sleep)
	}})
}

// ProviderChecks are those of [TestCryptoProvider], and that keys outlive a crash, which
// ends the processes of all providers that are open, at once.
func ProviderChecks(open Open[core.CryptoProvider], crash func()) []Check {
	return append(within(providerChecks, open, nil), outlives("keys outlive a crash", open, crash, providerOutlives))
}

// IssuerChecks are those of [TestCredentialIssuer]. They say nothing about an issuer that
// needs a person, a hook or a file if it is no [Answerer]. Crash ends the processes of all
// issuers that are open, at once.
func IssuerChecks(open Open[core.CredentialIssuer], crash func()) []Check {
	return within(issuerChecks, func(ctx context.Context, folder string) (core.CredentialIssuer, error) {
		issuer, err := open(ctx, folder)
		if _, ok := issuer.(Answerer); ok || err != nil {
			return issuer, err
		}
		return alone{issuer}, nil
	}, func(check string) {
		if check == afterRestart {
			crash()
		}
	})
}

// WrapperChecks are those of [TestKeyWrapper] for the keys 0 and 1, and that what was wrapped
// outlives a crash, which ends the processes of all wrappers that are open, at once.
func WrapperChecks(open func(ctx context.Context, folder string, key int) (core.KeyWrapper, error), crash func()) []Check {
	var all []Check
	for _, c := range wrapperChecks {
		all = append(all, Check{c.name, func(t testing.TB) {
			folder := t.TempDir()
			c.run(t, func() openWrapper {
				return func(key int) core.KeyWrapper {
					return opened(t, func(ctx context.Context, folder string) (core.KeyWrapper, error) { return open(ctx, folder, key) }, folder)
				}
			})
		}})
	}
	first := func(ctx context.Context, folder string) (core.KeyWrapper, error) { return open(ctx, folder, 0) }
	return append(all, outlives("keys outlive a crash", first, crash, wrapperOutlives))
}

// within has each check open all in one folder. Before is called before each time but the first.
func within[T any](checks []check[T], open Open[T], before func(check string)) (all []Check) {
	for _, c := range checks {
		all = append(all, Check{c.name, func(t testing.TB) {
			folder := t.TempDir()
			var again atomic.Bool // a check may open several at once
			c.run(t, func() T {
				if again.Swap(true) && before != nil {
					before(c.name)
				}
				return opened(t, open, folder)
			})
		}})
	}
	return all
}

func opened[T any](t testing.TB, open Open[T], folder string) T {
	v, err := open(t.Context(), folder)
	if errors.Is(err, ErrSkip) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return v
}

// alone is an issuer with nobody to help it.
type alone struct{ core.CredentialIssuer }

var errNobody = errors.New("this issuer wants something that only its own tests can give")

// Answer implements [Answerer].
func (alone) Answer(_ context.Context, need core.Need) (core.Input, error) {
	switch {
	case need.Visit != nil:
		return core.Input{}, fmt.Errorf("%w: that a person visits %.100q", errNobody, need.Visit.URL)
	case need.Call != nil:
		return core.Input{}, fmt.Errorf("%w: a call of %.100q", errNobody, need.Call.Kind)
	}
	return core.Input{}, fmt.Errorf("%w: a file", errNobody)
}

// crashOnce applies batches until the store is crashed, and returns the number of the last.
func crashOnce(t testing.TB, open OpenAt, location string, crash func(), during func()) (reported int) {
	store := openAt(t, open, location)
	defer store.Close() // of what is no more
	var killer sync.WaitGroup
	err := applyOn(&kit{TB: t, store: store}, func(n int) {
		if reported == 0 {
			killer.Go(func() {
				during()
				crash()
			})
		}
		reported = n
	})
	if reported == 0 {
		t.Fatalf("apply: %v", err)
	}
	killer.Wait()
	return reported
}

// A life is what is opened, and how to have it opened again after a crash.
type life[T any] struct {
	first  T
	reopen func() T
}

func outlives[T any](name string, open Open[T], crash func(), run func(t testing.TB, l life[T])) Check {
	return Check{name, func(t testing.TB) {
		folder := t.TempDir()
		run(t, life[T]{opened(t, open, folder), func() T {
			crash()
			return opened(t, open, folder)
		}})
	}}
}

func providerOutlives(t testing.TB, l life[core.CryptoProvider]) {
	k := &provider{t, l.first, t.Context()}
	var keys []core.PrivateKey
	var specs []core.KeySpec
	for _, alg := range k.algorithms() {
		spec := keySpec(alg)
		key, err := k.GenerateKey(k.ctx, spec)
		if err != nil {
			t.Fatalf("GenerateKey(%s): %v", alg, err)
		}
		keys, specs = append(keys, key), append(specs, spec)
	}
	k.CryptoProvider = l.reopen()
	for i, key := range keys {
		again, err := k.OpenKey(k.ctx, key.Ref(), material(key))
		if err != nil {
			t.Errorf("%s: OpenKey of a key that was made before the crash: %v", key.Algorithm(), err)
			continue
		}
		k.forget(again)
		k.works(again, key.Public())
		if _, software := key.(core.SoftwareKey); software {
			continue // which nobody keeps
		}
		same, err := k.GenerateKey(k.ctx, specs[i])
		if err != nil {
			t.Errorf("%s: GenerateKey with the id of a key from before the crash: %v", key.Algorithm(), err)
			continue
		}
		if same.Ref() != key.Ref() || !bytes.Equal(same.Public(), key.Public()) {
			k.forget(same)
			t.Errorf("%s: GenerateKey with the id of a key from before the crash gave another one, %s, want %s", key.Algorithm(), same.Ref(), key.Ref())
		}
	}
}

func wrapperOutlives(t testing.TB, l life[core.KeyWrapper]) {
	dek, raw := wrapperKey()
	blob, id := wrap(t, l.first, dek, "aad"), l.first.ID()
	w := l.reopen()
	if w.ID() != id {
		t.Errorf("the same key has the id %q, and after the crash %q", id, w.ID())
	}
	got, err := w.Unwrap(t.Context(), blob, []byte("aad"))
	if err != nil || !bytes.Equal(got.Bytes(), raw) {
		t.Errorf("unwrap what was wrapped before the crash: got another key, or error %v", err)
	}
}
