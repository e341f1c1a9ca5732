// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// A household is two people and their service. Alice's keystore may go away.
type household struct {
	*testing.T
	folder string
	calls  int // of alice's keystore by her last command
}

// away runs a command of alice whose keystore is away from its n-th call on; 0: it stays.
func (h *household) away(n int, args ...string) (out, stderr string, code int) {
	h.calls = 0
	file := filepath.Join(h.folder, "alice", "store.db")
	open := func(ctx context.Context, _ config.URI) (core.Keystore, error) {
		store, err := sqlite.Open(ctx, file)
		if err != nil {
			return nil, err
		}
		faulty := &coretest.Faulty{Keystore: store}
		gone := func() bool {
			if h.calls++; h.calls == n {
				faulty.Break()
			}
			return n > 0 && h.calls >= n
		}
		faulty.PlanRead = func(int) bool { return gone() }
		faulty.Plan = func(int, core.Batch) coretest.Fault {
			if gone() {
				return coretest.FaultBefore
			}
			return coretest.FaultNone
		}
		return faulty, nil
	}
	var stdout, text bytes.Buffer
	p := &program{in: http.NoBody, out: &stdout, err: &text, options: []fx.Option{modules.Scheme("away", open)}}
	if err := p.execute(h.Context(), append([]string{"--home", filepath.Join(h.folder, "alice"), "--keystore", "away:"}, args...)); err != nil {
		p.complain(err)
		code = 1
	}
	return stdout.String(), text.String(), code
}

func (h *household) does(who string, args ...string) string {
	h.Helper()
	out, stderr, code := output(h.T, append([]string{"--home", filepath.Join(h.folder, who)}, args...)...)
	if code != 0 {
		h.Fatalf("%s: %q: %s", who, args, stderr)
	}
	return out
}

func (h *household) epoch() (epoch uint64) {
	h.Helper()
	var v view
	if err := json.Unmarshal([]byte(h.does("bob", "chat", "info", "friends", "--json")), &v); err != nil {
		h.Fatal(err)
	}
	return v.Epoch
}

func newHousehold(t *testing.T) *household {
	t.Helper()
	h := &household{T: t, folder: t.TempDir()}
	server, err := delivery.New(memory.New(), delivery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := delivery.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"alice", "bob"} {
		h.does(name, "init", name, "--delivery", "http://"+l.Addr().String())
	}
	h.does("alice", "chat", "create", "friends")
	h.does("alice", "chat", "add", "friends", "bob")
	h.does("bob", "chat", "read", "friends")
	return h
}

// points are calls of the keystore in a command, which runs once without trouble: some of
// those at its beginning, and each of the last ones, where something has been done.
func (h *household) points(args ...string) iter.Seq[int] {
	h.Helper()
	if _, stderr, code := h.away(0, args...); code != 0 {
		h.Fatalf("%q: %s", args, stderr)
	}
	last := h.calls
	return func(yield func(int) bool) {
		for n := 1; n <= last; n++ {
			if (n%5 == 0 || n > last-16) && !yield(n) {
				return
			}
		}
	}
}

// A keystore that goes away at any call of a command, and is back for the next one: a text
// is sent once, or kept and sent once with the next command, or not sent, and that is what
// the sender is told.
func TestKeystoreGoesAwayWhileSending(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	for n := range h.points("chat", "send", "friends", "all is well") {
		text := fmt.Sprint("text ", n)
		_, stderr, code := h.away(n, "chat", "send", "friends", text)
		h.does("alice", "chat", "read", "friends")
		got := strings.Count(h.does("bob", "chat", "read", "friends"), text)
		want := 0
		if code == 0 || strings.Contains(stderr, "the message is kept") {
			want = 1
		}
		if got != want {
			t.Errorf("away from call %d: bob reads it %d times, alice was told %d %q", n, got, code, stderr)
		}
	}
}

// A commit that is said not to have happened has not, and one that has is not done again by
// whoever looks first.
func TestKeystoreGoesAwayWhileCommitting(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	for n := range h.points("chat", "update", "friends") {
		before := h.epoch()
		_, stderr, code := h.away(n, "chat", "update", "friends")
		h.does("alice", "chat", "read", "friends")
		came := h.epoch() - before
		switch unknown := strings.Contains(stderr, "unknown outcome"); {
		case code == 0 && came != 1, came > 1, code != 0 && !unknown && came != 0:
			t.Errorf("away from call %d: %d commits, alice was told %d %q", n, came, code, stderr)
		}
	}
}
