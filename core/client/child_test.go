// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// The delivery service of the tests is in the parent; children call it over a
// Unix socket.

type remote struct{ *rpc.Client }

// What travels; net/rpc wants the names exported.
type (
	RPCCall struct {
		By      core.ClientID
		ID      core.ConversationID
		Key     string
		Message []byte
		Bundle  client.CommitBundle
		Number  int
	}
	RPCAnswer struct {
		Outcome client.Outcome
		Number  int
		Message []byte
		Welcome clienttest.Welcome
		Found   bool
		Denied  bool
		Missing bool
	}
)

// Served is what the parent offers.
type Served struct{ b clienttest.Backend }

func (s *Served) Commit(c RPCCall, a *RPCAnswer) error {
	a.Outcome = s.b.SubmitCommit(c.By, c.ID, c.Bundle)
	return nil
}
func (s *Served) Send(c RPCCall, a *RPCAnswer) error {
	a.Outcome = s.b.SendMessage(c.By, c.ID, c.Key, c.Message)
	return nil
}
func (s *Served) Next(c RPCCall, a *RPCAnswer) (err error) {
	a.Number, a.Message, err = s.b.Next(c.By, c.ID)
	a.Denied = errors.Is(err, core.ErrDenied)
	return nil
}
func (s *Served) Ack(c RPCCall, _ *RPCAnswer) error { s.b.Ack(c.By, c.ID, c.Number); return nil }
func (s *Served) Welcome(c RPCCall, a *RPCAnswer) error {
	a.Welcome, a.Found = s.b.Welcome(c.By)
	return nil
}
func (s *Served) TakeWelcome(c RPCCall, _ *RPCAnswer) error { s.b.TakeWelcome(c.By); return nil }
func (s *Served) GroupInfo(c RPCCall, a *RPCAnswer) (err error) {
	a.Message, err = s.b.GroupInfo(c.ID)
	a.Missing = err != nil
	return nil
}

func (r remote) call(name string, c RPCCall) (a RPCAnswer) {
	if err := r.Call("Served."+name, c, &a); err != nil {
		panic(err)
	}
	return a
}

func (r remote) SubmitCommit(by core.ClientID, id core.ConversationID, b client.CommitBundle) client.Outcome {
	return r.call("Commit", RPCCall{By: by, ID: id, Bundle: b}).Outcome
}

func (r remote) SendMessage(by core.ClientID, id core.ConversationID, key string, message []byte) client.Outcome {
	return r.call("Send", RPCCall{By: by, ID: id, Key: key, Message: message}).Outcome
}

func (r remote) Next(to core.ClientID, id core.ConversationID) (int, []byte, error) {
	a := r.call("Next", RPCCall{By: to, ID: id})
	if a.Denied {
		return 0, nil, core.ErrDenied
	}
	return a.Number, a.Message, nil
}

func (r remote) Ack(to core.ClientID, id core.ConversationID, number int) {
	r.call("Ack", RPCCall{By: to, ID: id, Number: number})
}

func (r remote) Welcome(to core.ClientID) (clienttest.Welcome, bool) {
	a := r.call("Welcome", RPCCall{By: to})
	return a.Welcome, a.Found
}

func (r remote) TakeWelcome(to core.ClientID) { r.call("TakeWelcome", RPCCall{By: to}) }

func (r remote) GroupInfo(id core.ConversationID) ([]byte, error) {
	a := r.call("GroupInfo", RPCCall{ID: id})
	if a.Missing {
		return nil, core.ErrNotFound
	}
	return a.Message, nil
}

// serve offers a backend, and what else there is, until the test ends.
func serve(t testing.TB, b clienttest.Backend, also ...any) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "conclave") // short: a socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer()
	for _, receiver := range append(also, &Served{b}) {
		if err := server.Register(receiver); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go server.ServeConn(conn)
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); _ = os.RemoveAll(dir) })
	return socket
}

// An order tells a child what to do, and when to die.
type order struct {
	Dir, Socket string
	Client      core.ClientID
	Op          string // of the table of operations; empty: resume
	Input       input
	KillAt      int    // the point at which to die; 0: never
	Moment      string // or, in a transaction with a boundary, the moment at which to die
	History     uint64 // or, instead of an operation, a history: its seed and one
	Berth       *berth // or it is one of several, see TestScaleOut
	Plugins     bool   // its parts are plugins
}

// A report is what a child prints at its end.
type report struct {
	Points int
	Epoch  uint64
	Secret string
}

const orderVariable = "CONCLAVE_CLIENT_TEST_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		bePlugin(role)
		os.Exit(0)
	}
	if text := os.Getenv(orderVariable); text != "" {
		var o order
		err := json.Unmarshal([]byte(text), &o)
		if err == nil {
			err = child(o)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// run executes an order in a child. killed: it died where it was told to.
func run(t testing.TB, o order) (r report, killed bool) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), orderVariable+"="+string(text))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return report{}, true
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", o.Op, err, stderr.String())
	}
	if o.History != 0 {
		return report{}, false
	}
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%s: %v: %q", o.Op, err, stdout.String())
	}
	return r, false
}

// points counts the places where a process may die, and dies at one.
type points struct {
	armed  atomic.Bool
	n      atomic.Int64
	killAt int
	at     func(n int) // called instead
}

func (p *points) pass() {
	if !p.armed.Load() {
		return
	}
	n := int(p.n.Add(1))
	if p.at != nil {
		p.at(n)
	}
	if n == p.killAt {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// mortal is a keystore with a point before and after each write.
type mortal struct {
	core.Keystore
	points *points
}

func (m *mortal) Apply(ctx context.Context, b core.Batch) error {
	m.points.pass()
	err := m.Keystore.Apply(ctx, b)
	m.points.pass()
	return err
}

// childLease is short: nobody should wait for long for a child that died.
const childLease = 100 * time.Millisecond

// child is what a child process does.
func child(o order) (err error) {
	if o.History != 0 {
		return playHistory(context.Background(), o)
	}
	if o.Berth != nil {
		return serveTasks(o)
	}
	clienttest.Run(func(t clienttest.TB) { err = play(t, o) })
	return err
}

func play(t clienttest.TB, o order) error {
	ctx := t.Context()
	conn, err := rpc.Dial("unix", o.Socket)
	if err != nil {
		return err
	}
	cfg := config()
	p := &points{killAt: o.KillAt}
	var store core.Keystore
	if o.Plugins {
		s, err := launchShelf(o.Dir, roleStore, roleKeys, roleWrapper, roleIssuer)
		if err != nil {
			return err
		}
		defer func() { _ = s.close() }()
		store, cfg.Keys = s.store(), s.keys("")
		if cfg.Store, err = seal.Open(ctx, &mortal{store, p}, s.wrapper(), "device"); err != nil {
			return err
		}
	} else if store, err = sqlite.Open(ctx, filepath.Join(o.Dir, "store")); err != nil {
		return err
	}
	cfg.Lease = childLease
	if cfg.Suites, err = newRecorder(filepath.Join(o.Dir, "keys")); err != nil {
		return err
	}
	d := clienttest.NewDevice(t, remote{conn}, o.Client, &mortal{store, p}, cfg)
	pass := func(string) error { p.pass(); return nil }
	d.Link.Before, d.Link.After = pass, pass
	p.armed.Store(true)
	switch {
	case o.Op == "":
		err = d.Resume(ctx)
	case o.Moment != "":
		err = dieAtBoundary(ctx, d, o)
	default:
		_, err = operationOf(o.Op).play(ctx, player{Device: d}, &o.Input, false)
	}
	if err != nil {
		return err
	}
	p.armed.Store(false)
	if err := d.Link.Drain(ctx, chat); err != nil {
		return err
	}
	info, err := d.Info(ctx, chat)
	if err != nil {
		return err
	}
	secret, err := d.ExportSecret(ctx, chat, 32)
	if err != nil {
		return err
	}
	r := report{Points: int(p.n.Load()), Epoch: info.Epoch, Secret: fmt.Sprintf("%x", secret.Bytes())}
	if err := errors.Join(d.Close(ctx), store.Close()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
