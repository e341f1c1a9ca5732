// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// A durable is what is left of a transaction with a boundary in its middle:
//
//	SetData("before"); Send("one"); the boundary; SetData("after"); Send("two")
type durable struct {
	epochs  uint64 // that alice is ahead of where she was
	pending bool   // her commit waits for its answer
	data    string
	read    string // by bob
}

func (d durable) String() string {
	return fmt.Sprintf("%d epochs, pending %v, data %q, bob read %q", d.epochs, d.pending, d.data, d.read)
}

// A fate is what becomes of the transaction at a moment: before the boundary, at it,
// while the service has the commit, and after it, at the end. Durable at once is what
// alice has then, and in the end what she has when she has settled the conversation.
type fate struct {
	moment, ends string
	atOnce       durable
	inTheEnd     durable
}

var (
	nothing = durable{0, false, "", ""}
	waits   = durable{0, true, "before", "one"} // the first half, and the commit
	half    = durable{1, false, "before", "one"}
	whole   = durable{1, false, "after", "one two"}
)

// Of a boundary that commits.
var fatesOfCommits = []fate{
	{"before", "abort", nothing, nothing},
	{"before", "error", nothing, nothing},
	{"before", "panic", nothing, nothing},
	{"before", "cancel", nothing, nothing},
	{"before", "kill", nothing, nothing},
	{"at", "abort", whole, whole}, // refused: the transaction waits for the service
	{"at", "error", waits, half},
	{"at", "panic", waits, half},
	{"at", "cancel", waits, half},
	{"at", "kill", waits, half},
	{"after", "abort", half, half},
	{"after", "error", half, half},
	{"after", "panic", half, half},
	{"after", "cancel", half, half},
	{"after", "kill", half, half},
}

// Of a boundary that joins: who is not in the chat sends nothing before it.
var fatesOfJoins = []fate{
	{"before", "abort", nothing, nothing},
	{"before", "error", nothing, nothing},
	{"before", "panic", nothing, nothing},
	{"before", "cancel", nothing, nothing},
	{"before", "kill", nothing, nothing},
	{"at", "abort", durable{1, false, "after", "two"}, durable{1, false, "after", "two"}},
	{"at", "error", durable{0, true, "before", ""}, durable{1, false, "before", ""}},
	{"at", "panic", durable{0, true, "before", ""}, durable{1, false, "before", ""}},
	{"at", "cancel", durable{0, true, "before", ""}, durable{1, false, "before", ""}},
	{"at", "kill", durable{0, true, "before", ""}, durable{1, false, "before", ""}},
	{"after", "abort", durable{1, false, "before", ""}, durable{1, false, "before", ""}},
	{"after", "error", durable{1, false, "before", ""}, durable{1, false, "before", ""}},
	{"after", "panic", durable{1, false, "before", ""}, durable{1, false, "before", ""}},
	{"after", "cancel", durable{1, false, "before", ""}, durable{1, false, "before", ""}},
	{"after", "kill", durable{1, false, "before", ""}, durable{1, false, "before", ""}},
}

// Of a boundary that joins again: what was sent before it is not sent before the commit,
// as elsewhere, but encrypted again behind it.
var fatesOfRejoins = []fate{
	{"before", "abort", nothing, nothing},
	{"before", "error", nothing, nothing},
	{"before", "panic", nothing, nothing},
	{"before", "cancel", nothing, nothing},
	{"before", "kill", nothing, nothing},
	{"at", "abort", whole, whole},
	{"at", "error", durable{0, true, "before", ""}, half},
	{"at", "panic", durable{0, true, "before", ""}, half},
	{"at", "cancel", durable{0, true, "before", ""}, half},
	{"at", "kill", durable{0, true, "before", ""}, half},
	{"after", "abort", half, half},
	{"after", "error", half, half},
	{"after", "panic", half, half},
	{"after", "cancel", half, half},
	{"after", "kill", half, half},
}

// Of a staged commit, which is no boundary: all is durable at once, or nothing. "At"
// is while the service has the commit, when the transaction has ended; so is "after".
var fatesOfStaged = []fate{
	{"before", "abort", nothing, nothing},
	{"before", "error", nothing, nothing},
	{"before", "panic", nothing, nothing},
	{"before", "cancel", nothing, nothing},
	{"before", "kill", nothing, nothing},
	{"at", "abort", whole, whole}, // there is nothing to abort
	{"at", "error", durable{0, true, "after", "one"}, whole},
	{"at", "panic", durable{0, true, "after", "one"}, whole},
	{"at", "cancel", durable{0, true, "after", "one"}, whole},
	{"at", "kill", durable{0, true, "after", "one"}, whole},
	{"after", "abort", nothing, nothing},
	{"after", "error", nothing, nothing},
	{"after", "panic", nothing, nothing},
	{"after", "cancel", nothing, nothing},
	{"after", "kill", nothing, nothing},
}

// members tells whom a boundary brings and takes.
var members = map[string][]core.ClientID{
	"AddMembers":                 {"alice", "bob", "carol", "dave"},
	"RemoveMembers":              {"alice", "bob"},
	"EnableHistorySharing":       {"alice", "bob", "carol", "history-client"},
	"DisableHistorySharing":      {"alice", "bob", "carol"},
	"RemoveMembers, a new era":   {"alice", "bob", "history-client"},
	"JoinByExternalCommit":       {"bob", "carol", "alice"},
	"JoinByExternalCommit again": {"alice", "bob", "carol"},
	"StageCommit":                {"alice", "bob", "carol", "dave"},
}

func fatesOf(op operation) []fate {
	switch {
	case op.outside:
		return fatesOfJoins
	case op.name == "JoinByExternalCommit again":
		return fatesOfRejoins
	case op.name == "StageCommit":
		return fatesOfStaged
	}
	return fatesOfCommits
}

// atBoundary runs the transaction; hit is called at each moment. In a process that is to
// be killed that is all there is.
func atBoundary(ctx context.Context, d *clienttest.Device, op operation, in *input, hit func(ctx context.Context, moment string, tx *client.Transaction) error) error {
	var open *client.Transaction
	d.Link.After = func(call string) error {
		if call != clienttest.CallCommit {
			return nil
		}
		d.Link.After = nil
		return hit(ctx, "at", open)
	}
	send := func(ctx context.Context, tx *client.Transaction, text string) error {
		c, err := tx.Conversation(ctx, chat)
		if errors.Is(err, client.ErrConversationNotFound) {
			return nil
		}
		if err == nil {
			_, err = c.Send(ctx, []byte(text), nil)
		}
		return err
	}
	return d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		open = tx
		if err := errors.Join(tx.SetData(ctx, []byte("before")), send(ctx, tx, "one"), hit(ctx, "before", tx)); err != nil {
			return err
		}
		if _, err := op.tx(ctx, tx, in); err != nil {
			return err
		}
		return errors.Join(tx.SetData(ctx, []byte("after")), send(ctx, tx, "two"), hit(ctx, "after", tx))
	})
}

// COM-1: every operation that asks the delivery service, in a
// transaction that comes to an end before it, at it and after it, in every way. What is
// durable then is in the tables above.
func TestBoundaries(t *testing.T) {
	t.Parallel()
	for i, op := range append(slices.Clone(boundaries), operationOf("StageCommit")) {
		for j, f := range fatesOf(op) {
			if testing.Short() && i != j%len(boundaries) {
				continue
			}
			t.Run(strings.Join([]string{op.name, f.moment, f.ends}, "/"), func(t *testing.T) {
				t.Parallel()
				if f.ends == "kill" {
					killedAtBoundary(t, op, f)
				} else {
					endedAtBoundary(t, op, f)
				}
			})
		}
	}
}

// endedAtBoundary is for what ends a transaction and not the process.
func endedAtBoundary(t *testing.T, op operation, f fate) {
	s := newStage(t, op, setting{})
	s.alice.Link.After, s.alice.Link.Before = nil, nil
	before := s.epoch()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := 0
	hit := func(ctx context.Context, moment string, tx *client.Transaction) error {
		if moment != f.moment {
			return nil
		}
		ended++
		switch f.ends {
		case "abort":
			err := tx.Abort(ctx)
			if f.moment != "at" {
				return errors.Join(err, errAbort)
			}
			if !errors.Is(err, client.ErrNestedTransaction) && !errors.Is(err, client.ErrInvalidTransaction) {
				t.Errorf("abort while the service has the commit: %v", err)
			}
			return nil
		case "error":
			return errAbort
		case "panic":
			panic(errAbort)
		}
		cancel()
		return nil
	}
	err := func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = p.(error)
			}
		}()
		return atBoundary(ctx, s.alice, op, &s.input, hit)
	}()
	if fails := f.atOnce != whole && !(f.ends == "abort" && f.moment == "at") && !(op.name == "StageCommit" && f.moment == "at" && f.ends != "panic"); fails == (err == nil) || ended != 1 {
		t.Fatalf("%d moments, error %v", ended, err)
	}
	if err != nil && f.atOnce.pending && f.ends != "panic" && !errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("the commit waits, and nobody is told: %v", err)
	}
	s.nothingHeld()
	s.is("at once", before, f.atOnce)
	s.must(s.alice.Resume(t.Context()))
	s.catchUp()
	s.is("in the end", before, f.inTheEnd)
	s.whoIsThere(f.inTheEnd)
	s.lives()
}

// killedAtBoundary is for a process that is killed, and one that comes after it.
func killedAtBoundary(t *testing.T, op operation, f fate) {
	dir := t.TempDir()
	ks, err := sqlite.Open(t.Context(), filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStage(t, op, setting{store: ks, lease: childLease})
	before := s.epoch()
	s.must(s.alice.Close(t.Context()))
	s.must(ks.Close())
	o := order{Dir: dir, Socket: serve(t, s.service), Client: "alice", Op: op.name, Input: s.input, Moment: f.moment}
	if _, killed := run(t, o); !killed {
		t.Fatal("it was not killed")
	}
	s.store, err = sqlite.Open(t.Context(), filepath.Join(dir, "store"))
	s.must(err)
	t.Cleanup(func() { _ = s.store.Close() })
	s.open()
	s.is("at once", before, f.atOnce)
	s.must(s.alice.Resume(t.Context()))
	s.catchUp()
	s.is("in the end", before, f.inTheEnd)
	s.whoIsThere(f.inTheEnd)
	s.lives()
}

// dieAtBoundary is the child's part of it.
func dieAtBoundary(ctx context.Context, d *clienttest.Device, o order) error {
	return atBoundary(ctx, d, operationOf(o.Op), &o.Input, func(_ context.Context, moment string, _ *client.Transaction) error {
		if moment == o.Moment {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	})
}

// epoch is alice's; of the chat if she is not in it yet.
func (s *stage) epoch() uint64 {
	s.Helper()
	i, err := s.alice.Info(s.Context(), chat)
	if errors.Is(err, client.ErrConversationNotFound) {
		i, err = s.bob.Info(s.Context(), chat)
	}
	s.must(err)
	return i.Epoch
}

// is compares what alice has and what bob has read to what is expected.
func (s *stage) is(when string, before uint64, want durable) {
	s.Helper()
	var got durable
	got.pending = s.waits()
	i, err := s.alice.Info(s.Context(), chat)
	if err == nil {
		got.epochs = i.Epoch - before
	}
	data, _, err := s.alice.Data(s.Context())
	s.must(err)
	got.data = string(data)
	s.must(s.bob.Link.Drain(s.Context(), chat))
	s.bobs = append(s.bobs, untold(s.bob.Texts())...)
	got.read = strings.Join(s.bobs, " ")
	if got != want {
		s.Errorf("%s: %v, want %v", when, got, want)
	}
}

// whoIsThere compares the members to what the operation should make of them.
func (s *stage) whoIsThere(d durable) {
	s.Helper()
	want := s.were
	if to := members[s.op.name]; to != nil && d.epochs > 0 {
		want = to
	}
	got, err := s.bob.ClientIDs(s.Context(), chat)
	s.must(err)
	if got = slices.Sorted(slices.Values(nameless(got))); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		s.Errorf("the members are %q, want %q", got, want)
	}
}
