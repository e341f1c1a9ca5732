// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// A stage is where the demonstration plays: a temporary folder and the processes
// that were started in it.
type stage struct {
	ctx    context.Context
	self   string // the executable
	folder string
	config []byte // what conclave.toml of a member begins with; with it, parts may go away
	actors []*actor
}

func newStage(ctx context.Context, config []byte) (*stage, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "conclave-demo-")
	if err != nil {
		return nil, err
	}
	return &stage{ctx: ctx, self: self, folder: folder, config: config}, nil
}

// close ends all processes and removes everything.
func (s *stage) close() error {
	for _, a := range s.actors {
		a.kill()
	}
	return os.RemoveAll(s.folder)
}

// An actor is one process, with a home folder of its own.
type actor struct {
	name    string
	stage   *stage
	process *exec.Cmd
	orders  io.WriteCloser
	replies *json.Decoder
}

// enter starts a process for a home folder, which may have been used before.
func (s *stage) enter(name string) (*actor, error) {
	a := &actor{name: name, stage: s}
	home := filepath.Join(s.folder, name)
	if err := s.furnish(home); err != nil {
		return nil, err
	}
	a.process = exec.CommandContext(s.ctx, s.self, "--home", home, "demo-member")
	a.process.Args[0] = "conclave"
	a.process.Stderr = os.Stderr
	orders, err := a.process.StdinPipe()
	if err != nil {
		return nil, err
	}
	replies, err := a.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.process.Start(); err != nil {
		return nil, err
	}
	a.orders, a.replies = orders, json.NewDecoder(replies)
	s.actors = append(s.actors, a)
	return a, nil
}

// furnish writes the configuration of a home folder that has none, if one was given.
func (s *stage) furnish(home string) error {
	if s.config == nil {
		return nil
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	file := filepath.Join(home, configName)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(file, s.config, 0o600)
}

// kill ends the process with SIGKILL and waits until it is gone.
func (a *actor) kill() {
	if a.process.ProcessState == nil {
		_ = a.process.Process.Kill() // an error means that it has ended
		_ = a.process.Wait()
	}
}

func (a *actor) pid() int { return a.process.Process.Pid }

// A result is what an actor's command printed and what became of its commits.
type result struct {
	out, err string
	commits  []int // HTTP status of each
	failed   bool
	kind     string // of the error
}

// away says that a part was not there, so that it is worth while to try again: nothing was
// done, or the next command finds out.
func (r result) away() bool {
	return r.failed && (r.kind == core.ErrUnavailable.Error() || r.kind == core.ErrUnknownOutcome.Error())
}

// errHolding: the actor waits where it was told to.
var errHolding = errors.New("holding")

// start has the actor run a command; hear waits for its end, or for the place
// where it shall be held.
func (a *actor) start(hold string, args ...string) error {
	return a.send(order{Args: args, Hold: hold})
}

func (a *actor) send(o order) error { return json.NewEncoder(a.orders).Encode(o) }

func (a *actor) hear(r *result) error {
	for {
		var said reply
		if err := a.replies.Decode(&said); err != nil {
			return fmt.Errorf("process %d of %s has ended: %w", a.pid(), a.name, errors.Join(err, a.stage.ctx.Err()))
		}
		r.out += said.Out
		r.err += said.Err
		if said.Commit != 0 {
			r.commits = append(r.commits, said.Commit)
		}
		if said.Holding {
			return errHolding
		}
		if said.Done {
			r.failed, r.kind = said.Code != 0, said.Kind
			return nil
		}
	}
}

// try runs a command to its end, whatever that is.
func (a *actor) try(args ...string) (r result, err error) {
	if err := a.start("", args...); err != nil {
		return r, err
	}
	err = a.hear(&r)
	return r, err
}

// patience is how often something is tried whose parts may go away.
const patience = 50

// again says whether to run a command once more, after a while.
func (a *actor) again(r result, try int) bool {
	if a.stage.config == nil || !r.away() || try >= patience {
		return false
	}
	select {
	case <-time.After(20 * time.Millisecond):
		return true
	case <-a.stage.ctx.Done():
		return false
	}
}

// tell runs a command until no part is away, and returns what a person has seen then: what
// was printed before, and not again, is first.
func (a *actor) tell(args ...string) (r result, err error) {
	var seen []string
	for try := 1; ; try++ {
		if r, err = a.try(args...); err != nil {
			return r, err
		}
		now := slices.Collect(strings.Lines(r.out))
		seen = append(slices.DeleteFunc(seen, func(line string) bool { return slices.Contains(now, line) }), now...)
		r.out = strings.Join(seen, "")
		if !a.again(r, try) {
			return r, nil
		}
	}
}

// do runs a command that has to succeed and returns what it printed.
func (a *actor) do(args ...string) (string, error) {
	r, err := a.tell(args...)
	return strings.TrimSpace(r.out), errors.Join(err, a.failed(r, args))
}

func (a *actor) failed(r result, args []string) error {
	if !r.failed {
		return nil
	}
	return fmt.Errorf("%s: conclave %s: %s", a.name, strings.Join(args, " "), strings.TrimSpace(r.err))
}

// holdAt runs a command up to the place where it is held.
func (a *actor) holdAt(where string, args ...string) (r result, err error) {
	for try := 1; ; try++ {
		if err := a.start(where, args...); err != nil {
			return r, err
		}
		r = result{}
		switch err := a.hear(&r); {
		case errors.Is(err, errHolding):
			return r, nil
		case err != nil:
			return r, err
		}
		if !a.again(r, try) {
			return r, fmt.Errorf("%s: conclave %s ended before it could be held: %s", a.name, strings.Join(args, " "), r.err)
		}
	}
}

// serve starts the delivery service in a process of its own.
func (s *stage) serve() (*actor, string, error) {
	a, err := s.enter("delivery")
	if err != nil {
		return nil, "", err
	}
	if err := a.start("", "delivery", "--listen", "127.0.0.1:0"); err != nil {
		return nil, "", err
	}
	var r reply
	if err := a.replies.Decode(&r); err != nil {
		return nil, "", err
	}
	address, ok := strings.CutPrefix(strings.TrimSpace(r.Out), "delivery service at ")
	if !ok {
		return nil, "", fmt.Errorf("the delivery service did not start: %s%s", r.Out, r.Err)
	}
	return a, address, nil
}
