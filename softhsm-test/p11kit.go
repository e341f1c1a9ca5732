// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// P11Kit makes a token of SoftHSM that a server of p11-kit has, in a process of its own:
// the module is p11-kit's client. Each process that connects has a worker there; see
// [Token.KillWorker]. It passes few mechanisms on: ECDSA, and AES keys only to make them.
func P11Kit(t testing.TB) *Token {
	t.Helper()
	client, program := p11Client.find(t), p11Client.tool(t, "p11-kit")
	local := New(t)
	k := &Token{Kind: "p11-kit", Label: local.Label, PIN: local.PIN, SOPIN: local.SOPIN, PINFile: local.PINFile, site: newSite(t), local: local}
	k.server = &server{
		socket: k.site.path("socket"), env: local.Env(), output: k.site.path("server.log"),
		args: []string{program, "server", "--foreground", "--name", k.site.path("socket"), "--provider", local.ModulePath, "pkcs11:token=" + escape(k.Label)},
	}
	var err error
	k.ModulePath, err = k.site.module(client, "P11_KIT_SERVER_ADDRESS")
	must(t, err)
	t.Cleanup(func() { k.server.stop(t) })
	k.server.start(t)
	return k
}

// Local is the token behind p11-kit, or behind [Spy], with a module of this process.
func (k *Token) Local() *Token { return k.local }

// KillWorker kills the workers of the server, which breaks every connection; new ones are
// served. There must be one. It is for tokens of [P11Kit].
func (k *Token) KillWorker(t testing.TB) {
	t.Helper()
	workers := k.server.workers()
	if len(workers) == 0 {
		t.Fatal("the server has no worker")
	}
	for _, pid := range workers {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	killed := func(pid int) bool { return !slices.Contains(k.server.workers(), pid) }
	for _, pid := range workers {
		for end := time.Now().Add(10 * time.Second); !killed(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a killed worker lives")
			}
		}
	}
}

// Workers counts the workers, one for each connection.
func (k *Token) Workers() int { return len(k.server.workers()) }

// A server is a process of p11-kit in a group with its workers.
type server struct {
	socket, output string
	env, args      []string

	keeper *exec.Cmd // nil: it does not run
	alive  io.Closer
}

// keeper ends its whole group when its standard input ends, as it does when this process
// ends in whatever way.
const keeper = `
exec 3<&0
"$@" </dev/null 3<&- &
read -r _ <&3
kill -KILL $!
wait $!
kill -KILL 0
`

func (s *server) start(t testing.TB) {
	t.Helper()
	_ = os.Remove(s.socket) // a killed server leaves it
	log, err := os.Create(s.output)
	must(t, err)
	defer log.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", keeper, "keeper"}, s.args...)...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = log, log
	s.alive, err = cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	s.keeper = cmd
	for end := time.Now().Add(20 * time.Second); !s.listens(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			text, _ := os.ReadFile(s.output)
			t.Fatalf("p11-kit server does not start:\n%s", text)
		}
	}
}

// listens is found out without a connection, which would start a worker.
func (s *server) listens() bool {
	sockets, err := os.ReadFile("/proc/net/unix")
	for line := range strings.Lines(string(sockets)) {
		f := strings.Fields(line) // address, count, protocol, flags, type, state, inode, path
		if len(f) == 8 && f[7] == s.socket && f[3] == "00010000" {
			return true
		}
	}
	if err != nil { // no Linux
		_, err = os.Stat(s.socket)
		return err == nil
	}
	return false
}

// stop ends the server and the workers.
func (s *server) stop(t testing.TB) {
	t.Helper()
	if s.keeper == nil {
		return
	}
	must(t, s.alive.Close())
	_ = s.keeper.Wait() // killed, by itself
	s.keeper = nil
}

// workers are the processes of the group that serve a connection.
func (s *server) workers() (pids []int) {
	if s.keeper == nil {
		return nil
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		// PID (NAME) STATE PARENT GROUP ..., and the name has at most 15 letters.
		before, after, _ := strings.Cut(string(text), ") ")
		number, name, _ := strings.Cut(before, " (")
		f := strings.Fields(after)
		if name != "p11-kit-remote" || len(f) < 3 || f[0] == "Z" || f[2] != strconv.Itoa(s.keeper.Process.Pid) {
			continue
		}
		if pid, err := strconv.Atoi(number); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
