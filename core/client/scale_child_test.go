// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/postgres"
)

// A berth is what a process of TestScaleOut has of its own.
type berth struct {
	DSN     string
	Process int
}

// What a process is told to do, by calls over its standard input and output; net/rpc
// wants the names exported.
type (
	Task struct {
		Op           string
		Conversation core.ConversationID
		Text         string
		KeyPackage   []byte
	}
	Done struct {
		Outcome   string // see outcomeOf
		Err       string
		Runs      int   // of the transaction
		Conflicts int64 // of all batches of the process so far
		Lost      int64 // answers of the delivery service so far
		Events    []string
		Failed    []string
		State     string // for "state"
		Waits     string // for "state": what is not done yet
	}
)

// What a process tells of what it reads.
type Reading struct {
	Process int
	Taking  string   // a text that it is about to read
	Took    string   // one that it was about to read; what became of it is durable
	Texts   []string // read, durably
	Kept    bool     // to be read later
}

// Process serves the tasks.
type Process struct {
	d         *clienttest.Device
	number    int
	parent    *rpc.Client
	conflicts atomic.Int64
	lost      atomic.Int64 // answers of the delivery service
}

// counted counts the conflicts of a keystore.
type counted struct {
	core.Keystore
	conflicts *atomic.Int64
}

func (c counted) Apply(ctx context.Context, b core.Batch) error {
	err := c.Keystore.Apply(ctx, b)
	if errors.Is(err, core.ErrConflict) {
		c.conflicts.Add(1)
	}
	return err
}

// scaleLease is short, and yet long beside what a batch takes.
const scaleLease = time.Second

// serveTasks is one of several processes of the same client.
func serveTasks(o order) (err error) {
	clienttest.Run(func(t clienttest.TB) {
		ctx := t.Context()
		p := &Process{number: o.Berth.Process}
		if p.parent, err = rpc.Dial("unix", o.Socket); err != nil {
			return
		}
		store, opening := postgres.Open(ctx, o.Berth.DSN)
		if err = opening; err != nil {
			return
		}
		cfg := config()
		cfg.Lease = scaleLease
		if cfg.Suites, err = newRecorder(filepath.Join(o.Dir, "keys")); err != nil {
			return
		}
		p.d = clienttest.NewDevice(t, remote{p.parent}, o.Client, counted{store, &p.conflicts}, cfg)
		receive := p.d.Link.Receive
		p.d.Link.Receive = func(ctx context.Context, id core.ConversationID, message []byte) error {
			return p.receive(ctx, id, message, receive)
		}
		p.d.Link.After = func(call string) error { // a network loses something now and then
			if rand.IntN(50) > 0 {
				return nil
			}
			p.lost.Add(1)
			return fmt.Errorf("the answer to a %s was lost: %w", call, core.ErrUnknownOutcome)
		}
		server := rpc.NewServer()
		if err = server.Register(p); err != nil {
			return
		}
		server.ServeConn(struct {
			io.Reader
			io.Writer
			io.Closer
		}{os.Stdin, os.Stdout, os.Stdin})
		err = errors.Join(p.d.Close(ctx), store.Close())
	})
	return err
}

// tell tells the parent, at once: this process may be killed.
func (p *Process) tell(r Reading) {
	r.Process = p.number
	if err := p.parent.Call("Listener.Tell", r, &struct{}{}); err != nil {
		panic(err)
	}
}

// textOf is the text of a message, which its sender also put where all can see it.
func textOf(message []byte) string {
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil || m.PrivateMessage == nil {
		return ""
	}
	return string(m.PrivateMessage.AuthenticatedData)
}

func (p *Process) receive(ctx context.Context, id core.ConversationID, message []byte, receive func(context.Context, core.ConversationID, []byte) error) error {
	text := textOf(message)
	if text != "" {
		p.tell(Reading{Taking: text})
	}
	err := receive(ctx, id, message)
	r := Reading{Took: text}
	for _, received := range p.d.Received() { // those of another call are told as well
		r.add(received)
	}
	if text != "" || len(r.Texts) > 0 || r.Kept {
		p.tell(r)
	}
	return err
}

func (r *Reading) add(received client.Received) {
	for received := range client.All(received) {
		switch received := received.(type) {
		case *client.Text:
			r.Texts = append(r.Texts, string(received.Data))
		case *client.Buffered:
			r.Kept = true
		}
	}
}

// outcomeOf names what may happen to an operation; nothing else may.
func outcomeOf(err error) string {
	var refused *client.RefusedError
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, client.ErrPendingUnresolved):
		return "unresolved"
	case errors.Is(err, core.ErrUnknownOutcome):
		return "unknown"
	case errors.Is(err, client.ErrCommitLost):
		return "lost"
	case errors.As(err, &refused):
		return "refused"
	case errors.Is(err, core.ErrConflict):
		return "conflict"
	case errors.Is(err, core.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, client.ErrEmptyInput), strings.Contains(err.Error(), "PRP-3"): // carol came meanwhile
		return "nothing to do"
	}
	return "wrong"
}

// Do does a task.
func (p *Process) Do(task Task, done *Done) error {
	err := p.do(context.Background(), task, done)
	done.Outcome = outcomeOf(err)
	if err != nil {
		done.Err = err.Error()
	}
	done.Conflicts, done.Lost = p.conflicts.Load(), p.lost.Load()
	for _, e := range p.d.Events() {
		if _, ordinary := e.(client.EpochChanged); !ordinary {
			done.Events = append(done.Events, fmt.Sprintf("%T %+v", e, e))
		}
	}
	for _, e := range p.d.Failed() {
		done.Failed = append(done.Failed, e.Error())
	}
	return nil
}

func (p *Process) do(ctx context.Context, task Task, done *Done) error {
	switch task.Op {
	case "receive":
		return p.d.Link.Drain(ctx, task.Conversation)
	case "settle":
		return p.d.Settle(ctx, task.Conversation)
	case "state":
		return p.state(ctx, task.Conversation, done)
	}
	if task.Op == "stage" { // nobody reads before a commit that was staged is made
		if err := p.d.Link.Drain(ctx, task.Conversation); err != nil {
			return err
		}
	}
	var result *client.CommitResult
	err := p.d.In(ctx, task.Conversation, func(ctx context.Context, c *client.Conversation) (err error) {
		done.Runs++
		changes := client.Changes{Update: true}
		switch task.Op {
		case "send", "send and commit":
			if _, err = c.Send(ctx, []byte(task.Text), []byte(task.Text)); err != nil || task.Op == "send" {
				return err
			}
		case "stage":
			_, err = c.StageCommit(ctx, changes)
			return err
		case "add":
			members, err := c.ClientIDs(ctx)
			if err != nil || slices.Contains(members, carolOf(task.Conversation)) {
				return errors.Join(err, client.ErrEmptyInput)
			}
			changes = client.Changes{Add: [][]byte{task.KeyPackage}}
		case "remove":
			changes = client.Changes{Remove: []core.ClientID{carolOf(task.Conversation)}}
		}
		result, err = c.Commit(ctx, changes)
		return err
	})
	if result != nil && err == nil {
		var r Reading
		for _, x := range result.Replayed {
			r.add(x.Received)
		}
		if len(r.Texts) > 0 {
			p.tell(r)
		}
	}
	return err
}

// state tells what all devices must agree on, and what is left to do.
func (p *Process) state(ctx context.Context, id core.ConversationID, done *Done) (err error) {
	done.State, done.Waits, err = stateOf(ctx, p.d, id)
	return err
}

func stateOf(ctx context.Context, d *clienttest.Device, id core.ConversationID) (state, waits string, err error) {
	info, err := d.Info(ctx, id)
	if err != nil {
		return "", "", err
	}
	unsent, err := d.Unsent(ctx, id)
	if err != nil {
		return "", "", err
	}
	if unsent > 0 || info.PendingCommit || info.PendingProposals > 0 || info.Buffered > 0 || info.BufferedCommit {
		waits = fmt.Sprintf("%d unsent, %+v", unsent, info)
	}
	return fmt.Sprintf("epoch %d %x", info.Epoch, info.EpochAuthenticator), waits, nil
}
