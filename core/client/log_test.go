// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// logged is what a client has written, by a handler that writes text and by one that
// writes JSON.
type logged struct {
	mu         sync.Mutex
	text, json bytes.Buffer
}

func (l *logged) logger() *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelDebug}
	return slog.New(slog.NewMultiHandler(slog.NewTextHandler(locked{l, &l.text}, o), slog.NewJSONHandler(locked{l, &l.json}, o)))
}

type locked struct {
	l *logged
	b *bytes.Buffer
}

func (w locked) Write(p []byte) (int, error) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	return w.b.Write(p)
}

// lines are those with a message, as JSON.
func (l *logged) lines(t testing.TB, message string) (list []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.json.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if m["msg"] == message {
			list = append(list, m)
		}
	}
	return list
}

// hides fails if any form of a secret or an id is in the log.
func (l *logged) hides(t testing.TB, what string, secret []byte) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, form := range []string{
		string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)), strings.Trim(fmt.Sprint(secret), "[]"),
		base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret), strings.Trim(fmt.Sprintf("%q", secret), `"`),
	} {
		for name, log := range map[string]string{"text": l.text.String(), "JSON": l.json.String()} {
			if at := strings.Index(log, form); at >= 0 {
				line := log[strings.LastIndex(log[:at], "\n")+1:]
				line, _, _ = strings.Cut(line, "\n")
				t.Errorf("%s is in the log as %s: %s", what, name, line)
			}
		}
	}
}

// A long life, with everything that goes wrong on its way, leaves no id, no key and no
// text in the log; and all that is worth a line is in it.
func TestLog(t *testing.T) {
	t.Parallel()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w := newWorld(t, clienttest.Options{})
		w.policy = policy
		var log logged
		cfg := config()
		cfg.Logger = log.logger()
		refuse := core.ClientID("")
		cfg.Admit = func(_ context.Context, a client.Admission) error {
			if a.Joiner.ClientID == refuse {
				return errPolicy
			}
			return nil
		}
		alice, bob, carol := w.deviceOn("alice", memory.New(), cfg), w.deviceOn("bob", memory.New(), cfg), w.deviceOn("carol", memory.New(), cfg)
		w.create(alice)
		w.add(alice, bob)
		w.add(bob, carol)
		w.send(alice, "a text that nobody else may read")
		w.catchUp()

		// Buffered and replayed: a text of the next epoch; a commit that lacks its proposal.
		n := len(w.service.Log(chat))
		w.update(alice)
		w.send(alice, "another text")
		later := w.since(n)
		if _, err := w.give(bob, later[1]); err != nil {
			t.Fatal(err)
		}
		w.catchUp()
		n = len(w.service.Log(chat))
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeUpdate(ctx, 0)
			return err
		})
		w.must(alice.Link.Drain(t.Context(), chat))
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		for _, i := range []int{1, 0} {
			if _, err := w.give(carol, w.since(n)[i]); err != nil {
				t.Fatal(err)
			}
		}
		w.catchUp()

		// Damaged, dropped when its epoch has come.
		n = len(w.service.Log(chat))
		w.update(alice)
		w.send(alice, "a third text")
		damaged := bytes.Clone(w.since(n)[1])
		damaged[len(damaged)-1] ^= 1
		if _, err := w.give(bob, damaged); err != nil {
			t.Fatal(err)
		}
		// Overtaken, renewed, refused, missed, kept out, aborted, nothing done.
		w.in(bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeRemove(ctx, "carol")
			return err
		})
		w.catchUp()
		dave := w.device("dave")
		refuse = "dave"
		p := w.keyPackage(dave)
		if err := in(t.Context(), bob, func(ctx context.Context, c *client.Conversation) error { _, err := c.AddMembers(ctx, p); return err }); !errors.Is(err, client.ErrNotAdmitted) {
			t.Fatal(err)
		}
		refuse = ""
		undo := errors.New("undo")
		if err := in(t.Context(), bob, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeAdd(ctx, p)
			return errors.Join(err, undo)
		}); !errors.Is(err, undo) {
			t.Fatal(err)
		}
		w.do(bob, func(context.Context, *client.Transaction) error { return nil })
		bob.SetTransport(nil)
		w.in(bob, func(ctx context.Context, c *client.Conversation) error { return c.SetParent(ctx, chat) })
		_, err := bob.Rejoin(t.Context(), chat)
		if !errors.Is(err, client.ErrNoTransport) {
			t.Fatal(err)
		}
		bob.SetTransport(bob.Link)
		w.in(alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
		n = len(w.service.Log(chat))
		for range 3 {
			w.update(alice)
		}
		_, _ = w.give(bob, w.since(n)[2]) // beyond the next
		w.catchUp()
		_, err = bob.Rejoin(t.Context(), chat)
		w.must(err)
		w.catchUp()
		w.agree(alice, bob)
		made := len(log.lines(t, "proposal made"))
		w.in(alice, func(ctx context.Context, c *client.Conversation) error { // with a boundary
			if _, err := c.ProposeUpdate(ctx, 0); err != nil {
				return err
			}
			if _, err := c.CommitPendingProposals(ctx); err != nil {
				return err
			}
			_, err := c.Send(ctx, []byte("x"), nil)
			return err
		})
		if n := len(log.lines(t, "proposal made")) - made; n != 1 {
			t.Errorf("one proposal has %d lines", n)
		}
		w.in(bob, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })

		for message, atLeast := range map[string]int{
			"conversation entered": 3, "conversation joined": 1, "conversation left": 2, "epoch advanced": 10, "proposal made": 2, "proposal received": 4,
			"message buffered": 3, "buffered message replayed": 2, "buffered message dropped": 1, "commits seem to be missing": 1, "a transaction has changed nothing": 1,
		} {
			if n := len(log.lines(t, message)); n < atLeast {
				t.Errorf("%d lines %q, want %d", n, message, atLeast)
			}
		}
		var first map[string]any
		for _, line := range log.lines(t, "epoch advanced") {
			if line["level"] != "INFO" || line["conversation"] != chat.LogValue().String() {
				t.Errorf("%v", line)
			}
			if added, _ := line["added"].([]any); first == nil && len(added) > 0 {
				first = line
				if kinds := fmt.Sprint(line["proposals"]); kinds != "[add]" || added[0] != core.ClientID("bob").LogValue().String() {
					t.Errorf("%v", line)
				}
			}
		}
		for _, line := range log.lines(t, "proposal made") { // not what was undone
			if line["level"] != "DEBUG" {
				t.Errorf("%v", line)
			}
		}

		for _, id := range []string{"alice", "bob", "carol", "dave", string(chat)} {
			log.hides(t, "the id "+id, []byte(id))
		}
		for _, text := range []string{"nobody else", "another text", "third text"} {
			log.hides(t, "a text", []byte(text))
		}
		s, err := alice.View(chat).ExportSecret(t.Context(), 32)
		w.must(err)
		log.hides(t, "a secret", s.Bytes())
		members, err := alice.View(chat).Members(t.Context())
		w.must(err)
		for _, m := range members {
			log.hides(t, "a key", m.SignatureKey)
		}
		for _, message := range w.service.Log(chat) {
			log.hides(t, "a message", message[:16])
		}
		log.mu.Lock()
		defer log.mu.Unlock()
		if log.text.Len() < 1000 {
			t.Error("next to nothing is logged")
		}
	})
}
