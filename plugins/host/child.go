// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
)

// A child is the process of a plugin. Its standard input is a pipe whose other end is open
// for as long as we live: its end tells the plugin that we are gone.
type child struct {
	cmd            *exec.Cmd
	stdout, stderr io.ReadCloser
	lifeline       *os.File
	exited         chan<- struct{}
}

func newChild(cmd *exec.Cmd, exited chan<- struct{}) (*child, error) {
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	return &child{cmd: cmd, stdout: stdout, stderr: stderr, exited: exited}, nil
}

func (c *child) Start(context.Context) error {
	r, w, err := os.Pipe() // closed on exec: no other child keeps it open
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	c.cmd.Stdin = r
	if err := c.cmd.Start(); err != nil {
		_ = w.Close()
		return err
	}
	c.lifeline = w
	return nil
}

// Wait is called once, by go-plugin, when all output is read.
func (c *child) Wait(context.Context) error {
	defer close(c.exited)
	defer func() { _ = c.lifeline.Close() }()
	return c.cmd.Wait()
}

func (c *child) Kill(context.Context) error {
	if c.cmd.Process == nil {
		return nil
	}
	if err := c.cmd.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (c *child) Stdout() io.ReadCloser           { return c.stdout }
func (c *child) Stderr() io.ReadCloser           { return c.stderr }
func (c *child) Name() string                    { return c.cmd.Path }
func (c *child) Diagnose(context.Context) string { return "" }

func (c *child) ID() string {
	if c.cmd.Process == nil { // it could not be started
		return ""
	}
	return strconv.Itoa(c.cmd.Process.Pid)
}

func (c *child) PluginToHost(network, addr string) (string, string, error) { return network, addr, nil }
func (c *child) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }
