// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// mortal is a store whose process could be killed: then it does nothing any more.
type mortal struct {
	core.Keystore
	dead, closed atomic.Bool
}

func (m *mortal) Apply(ctx context.Context, b core.Batch) error {
	if m.dead.Load() {
		return core.ErrUnavailable
	}
	return m.Keystore.Apply(ctx, b)
}

func (m *mortal) Close() error {
	m.closed.Store(true)
	if m.dead.Load() {
		return nil
	}
	return m.Keystore.Close()
}

// mortals are stores in files, each open only once, and what kills all that are.
func mortals(open OpenAt) (Open[core.Keystore], func()) {
	var mu sync.Mutex
	lives := map[string]*mortal{}
	return func(ctx context.Context, folder string) (core.Keystore, error) {
			mu.Lock()
			defer mu.Unlock()
			if m := lives[folder]; m != nil && !m.closed.Load() && !m.dead.Load() {
				return nil, core.ErrUnavailable
			}
			store, err := open(ctx, folder)
			lives[folder] = &mortal{Keystore: store}
			return lives[folder], err
		}, func() {
			mu.Lock()
			defer mu.Unlock()
			for _, m := range lives {
				m.dead.Store(true)
			}
		}
}

// results makes all checks, and gives the names of those that failed.
func results(t *testing.T, checks []Check) (failed []string, all map[string]Result) {
	t.Helper()
	all = map[string]Result{}
	for _, c := range checks {
		r := c.Run(t.Context())
		if _, twice := all[c.Name]; twice || r.Name != c.Name {
			t.Errorf("check %q is there twice, or is called %q", c.Name, r.Name)
		}
		all[c.Name] = r
		if len(r.Failures) > 0 {
			failed = append(failed, c.Name)
		}
	}
	return failed, all
}

func TestKeystoreChecksOutsideATest(t *testing.T) {
	t.Parallel()
	failed, all := results(t, KeystoreChecks(mortals(openFiled(""))))
	if len(failed) > 0 {
		t.Errorf("a right store fails: %q", failed)
	}
	if len(all) != len(keystoreChecks)+3 {
		t.Errorf("%d checks", len(all))
	}
	for wrong, want := range map[string]string{
		"forgets": "reopened", "writes a little later": "killed", "writes when closed": "killed",
	} {
		checks := slices.DeleteFunc(KeystoreChecks(mortals(openFiled(wrong))), func(c Check) bool { return c.Name != want })
		if failed, _ := results(t, checks); !slices.Equal(failed, []string{want}) {
			t.Errorf("%s: %q", wrong, failed)
		}
	}
}

// naively opens a store that is wrong in one way.
func naively(wrong string) Open[core.Keystore] {
	return func(context.Context, string) (core.Keystore, error) { return newNaive(wrong), nil }
}

// What was found is told, but not without end.
func TestResults(t *testing.T) {
	t.Parallel()
	find := func(name string) func(Check) bool { return func(c Check) bool { return c.Name == name } }
	checks := KeystoreChecks(naively("applies up to the failed expectation"), func() {})
	r := checks[slices.IndexFunc(checks, find("a failed batch changes nothing"))].Run(t.Context())
	if len(r.Failures) == 0 || !strings.Contains(r.Failures[0], "the refused batch changed the store") || r.Skipped != "" {
		t.Errorf("%+v", r)
	}
	r = Check{"loops", func(t testing.TB) {
		for i := range 1000 {
			t.Errorf("failure %d", i)
			t.Log("log")
		}
	}}.Run(t.Context())
	if len(r.Failures) != maxReport+1 || r.Failures[maxReport] != "and more" || r.Failures[0] != "failure 0" || r.Skipped != "" {
		t.Errorf("%+v", r)
	}
	none := func(context.Context, string) (core.Keystore, error) { return nil, fmt.Errorf("no store: %w", ErrSkip) }
	for name, c := range map[string]struct {
		open    Open[core.Keystore]
		check   string
		skipped string
		failure string
	}{
		"nothing to look at": {none, "order", "no store: there is none", ""},
		"not opened":         {func(context.Context, string) (core.Keystore, error) { return nil, core.ErrDenied }, "order", "", "open: denied"},
		"a part is lacking":  {withoutSnapshots, "snapshots", "this store has no snapshots", ""},
		"all is well":        {naively(""), "order", "", ""},
	} {
		checks := KeystoreChecks(c.open, func() {})
		r := checks[slices.IndexFunc(checks, find(c.check))].Run(t.Context())
		if r.Skipped != c.skipped || strings.Join(r.Failures, "; ") != c.failure {
			t.Errorf("%s: %+v", name, r)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	r = Check{"waits", func(t testing.TB) { <-t.Context().Done() }}.Run(ctx)
	if len(r.Failures) != 1 || !strings.Contains(r.Failures[0], "not come to its end") {
		t.Errorf("%+v", r)
	}
}

func withoutSnapshots(context.Context, string) (core.Keystore, error) {
	return struct{ core.Keystore }{newNaive("")}, nil
}

// A wrapper that is right but for its life, and one without a second key.
func TestWrapperChecksOutsideATest(t *testing.T) {
	t.Parallel()
	for wrong, want := range map[string][]string{"": nil, "another id each time": {"round trip", "keys outlive a crash"}} {
		open := func(_ context.Context, _ string, key int) (core.KeyWrapper, error) {
			return &boxWrapper{wrong: wrong, key: byte(key)}, nil
		}
		if failed, _ := results(t, WrapperChecks(open, func() {})); !slices.Equal(failed, want) {
			t.Errorf("%q: %q", wrong, failed)
		}
	}
	life, folders := byte(0), map[string]bool{}
	open := func(_ context.Context, folder string, key int) (core.KeyWrapper, error) {
		if key == 1 {
			return nil, ErrSkip
		}
		folders[folder] = true
		return &boxWrapper{key: life}, nil
	}
	failed, all := results(t, WrapperChecks(open, func() { life++ }))
	if !slices.Equal(failed, []string{"keys outlive a crash"}) || all["another key"].Skipped == "" || all["round trip"].Skipped != "" {
		t.Errorf("%q, %+v", failed, all)
	}
	if len(folders) != len(all) {
		t.Errorf("%d checks in %d folders", len(all), len(folders))
	}
}

func TestWrappedByAnotherKeyAfterACrash(t *testing.T) {
	t.Parallel()
	one, two := &boxWrapper{key: 1}, &boxWrapper{key: 2}
	catches(t, func(t testing.TB) {
		wrapperOutlives(t, life[core.KeyWrapper]{one, func() core.KeyWrapper { return two }})
	})
	renamed := named{one, rand.Text()}
	catches(t, func(t testing.TB) {
		wrapperOutlives(t, life[core.KeyWrapper]{one, func() core.KeyWrapper { return renamed }})
	})
}

type named struct {
	core.KeyWrapper
	id string
}

func (n named) ID() string { return n.id }

// What an issuer wants of others than the suite ends the check without a verdict.
func TestIssuerThatWantsSomebody(t *testing.T) {
	t.Parallel()
	for need, want := range map[*core.Need]string{
		{Visit: &core.VisitNeed{URL: "https://idp.example/"}}: `a person visits "https://idp.example/"`,
		{Call: &core.CallNeed{Kind: "wire.nonce"}}:            `a call of "wire.nonce"`,
		{Show: &core.ShowNeed{Text: "sign this"}}:             "a file",
	} {
		_, err := alone{}.Answer(t.Context(), *need)
		if !errors.Is(err, errNobody) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
}

// valueless gives no values.
type valueless struct{ core.Keystore }

func (v valueless) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	queries = slices.Clone(queries)
	for i := range queries {
		queries[i].KeysOnly = true
	}
	return v.Keystore.Read(ctx, queries)
}

// Whatever a store gives, what comes of it is a report.
func TestStoreWithoutValues(t *testing.T) {
	t.Parallel()
	open := func(context.Context, string) (core.Keystore, error) { return valueless{newNaive("")}, nil }
	checks := slices.DeleteFunc(KeystoreChecks(open, func() {}), func(c Check) bool { return c.Name == "killed" }) // it cannot be
	if failed, _ := results(t, checks); !slices.Contains(failed, "no update is lost") || !slices.Contains(failed, "open twice") {
		t.Errorf("failed: %q", failed)
	}
}
