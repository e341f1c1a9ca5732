// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// lastWords is how long we listen to what a plugin wrote before it ended: something that
// it has started may hold the other end of the pipe for ever.
const lastWords = time.Second

// A child is the process of a plugin. Its standard input is a pipe whose other end is open
// for as long as we live: its end tells the plugin that we are gone.
type child struct {
	cmd    *exec.Cmd
	socket string // the folder where it has to listen
	exited chan struct{}
	err    error // after exited

	mu             sync.Mutex
	killed         bool
	stdout, stderr *os.File
	lifeline       *os.File
	greeting       head
}

// Start starts the process, unless it is to be killed already.
func (c *child) Start(context.Context) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed {
		return fmt.Errorf("given up: %w", core.ErrUnavailable)
	}
	var open []*os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe() // closed on exec: no other child keeps it open
			open = append(open, r, w)
		}
		return r, w
	}
	stdin, lifeline := pipe()
	ourOut, stdout := pipe()
	ourErr, stderr := pipe()
	if err == nil {
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, stderr
		leadGroup(c.cmd)
		if err = keepDescriptors(); err == nil {
			err = c.cmd.Start()
		}
	}
	if err != nil {
		closeAll(open...)
		return err
	}
	closeAll(stdin, stdout, stderr)
	c.stdout, c.stderr, c.lifeline = ourOut, ourErr, lifeline
	go c.wait()
	return nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close() // nil for a pipe that could not be made
	}
}

// wait waits for the end of the process, and ends what it leaves behind.
func (c *child) wait() {
	c.err = c.cmd.Wait()
	endGroup(c.cmd)
	_ = c.lifeline.Close()
	_ = c.stdout.SetReadDeadline(time.Now().Add(lastWords))
	_ = c.stderr.SetReadDeadline(time.Now().Add(lastWords))
	close(c.exited)
}

// Wait is called once, by go-plugin, when all output is read.
func (c *child) Wait(context.Context) error {
	<-c.exited
	closeAll(c.stdout, c.stderr)
	return c.err
}

func (c *child) Kill(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	if c.cmd.Process == nil {
		return nil
	}
	if err := c.cmd.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (c *child) Stdout() io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.TeeReader(c.stdout, &c.greeting), c.stdout}
}

func (c *child) Stderr() io.ReadCloser           { return c.stderr }
func (c *child) Name() string                    { return c.cmd.Path }
func (c *child) Diagnose(context.Context) string { return "" }

// ID is empty for what has not started.
func (c *child) ID() string {
	if c.cmd.Process == nil {
		return ""
	}
	return strconv.Itoa(c.cmd.Process.Pid)
}

// PluginToHost refuses every address but that of a socket in the folder of this process,
// where nobody else can be.
func (c *child) PluginToHost(network, addr string) (string, string, error) {
	if network != "unix" || filepath.Dir(addr) != c.socket {
		return "", "", fmt.Errorf("it listens at %s %.200q and not at a Unix socket in the folder it was given", network, addr)
	}
	return network, addr, nil
}

func (c *child) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }

// A head keeps the begin of what is written to it.
type head struct {
	mu sync.Mutex
	b  []byte
}

func (h *head) Write(b []byte) (int, error) {
	const enough = 32
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b = append(h.b, b[:min(len(b), enough-len(h.b))]...)
	return len(b), nil
}

// version is that of the protocol which a plugin has chosen: the second field of its
// handshake.
func (h *head) version() (int, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fields := bytes.SplitN(h.b, []byte("|"), 3)
	if len(fields) < 3 {
		return 0, false
	}
	n, err := strconv.Atoi(string(fields[1]))
	return n, err == nil
}
