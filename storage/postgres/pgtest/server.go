// SPDX-License-Identifier: Apache-2.0

//go:build unix

// Package pgtest starts PostgreSQL servers for tests, which end with them. Start with
// [Shared], or with [Start] for one that the test stops, kills or changes.
//
// A server is a child of the test: an ordinary user's process with its files in a
// temporary folder, on a socket in it and on a loopback port. It writes as durably as it
// does by default, unless a test says otherwise. Nothing here is for production.
package pgtest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core/coretest"
)

// A Server is one that a test started.
type Server struct {
	Folder string // of its files; its data are in "data" below it
	Port   int    // on 127.0.0.1, for the role conclave with the password "secret"
	Log    string // the file

	bin    string
	owner  *syscall.Credential // nil if it is this process's
	keeper *exec.Cmd           // nil if the server does not run
	alive  io.Writer           // the keeper's standard input
}

var shared struct {
	once   sync.Once
	server *Server
}

// sharedDSN tells the processes that a test starts where its server is.
const sharedDSN = "CONCLAVE_PGTEST"

// Shared is the data source name of a database on a server that all tests of a binary,
// and the processes that they start, have in common: "postgres://...?host=...", to which
// "&schema=NAME" may be added. Without PostgreSQL the test is skipped, or fails when
// CONCLAVE_SHARED is set.
func Shared(t testing.TB) string {
	t.Helper()
	if dsn := os.Getenv(sharedDSN); dsn != "" {
		return dsn
	}
	bin := binaries(t)
	shared.once.Do(func() { // stays until this process ends
		server, err := create(bin)
		if err == nil {
			shared.server = server
			err = os.Setenv(sharedDSN, server.DSN())
		}
		if err != nil {
			t.Error(err)
		}
	})
	if shared.server == nil {
		t.Fatal("the shared server did not start")
	}
	return shared.server.DSN()
}

// Start starts a server of the test's own, with these lines in its postgresql.conf. It
// ends with the test.
func Start(t testing.TB, conf ...string) *Server {
	t.Helper()
	s, err := create(binaries(t), conf...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.remove(t) })
	return s
}

// DSN is the data source name of a database that belongs to the role conclave.
func (s *Server) DSN() string {
	return fmt.Sprintf("postgres://conclave@/conclave?host=%s&port=%d", s.Folder, s.Port)
}

// AdminDSN is the same database for the administrator.
func (s *Server) AdminDSN() string {
	return fmt.Sprintf("postgres://postgres@/conclave?host=%s&port=%d", s.Folder, s.Port)
}

// TCP is DSN with a password and by 127.0.0.1, with these parameters besides.
func (s *Server) TCP(parameters string) string {
	return fmt.Sprintf("postgres://conclave:secret@127.0.0.1:%d/conclave?%s", s.Port, parameters)
}

// SQL runs statements in the database of a data source name.
func SQL(t testing.TB, dsn, statements string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries(t), "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-c", statements)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", statements, err, out)
	}
}

// Stop ends the server as an administrator does, which breaks all connections.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if s.keeper != nil {
		s.end("INT")
	}
}

func (s *Server) remove(t testing.TB) {
	s.Kill(t)
	if err := os.RemoveAll(s.Folder); err != nil {
		t.Error(err)
	}
}

// Kill ends the server at once, as a crash does.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if s.keeper != nil {
		s.end("QUIT")
	}
}

// Run starts a server that was stopped or killed.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
}

// Restart is Stop and Run.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t)
	s.Run(t)
}

// Standby starts a server that follows this one. Promote makes it a primary.
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	standby, err := newServer(s.bin)
	if err == nil {
		err = standby.tool("pg_basebackup", "-D", standby.data(), "-h", s.Folder, "-p", strconv.Itoa(s.Port), "-U", "postgres", "-R", "-c", "fast", "--no-sync")
	}
	if err == nil {
		err = standby.run()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { standby.remove(t) })
	return standby
}

// Promote makes a standby a primary.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	s.Tool(t, "pg_ctl", "-D", s.data(), "-w", "promote")
}

// Tool runs one of PostgreSQL's programs as the owner of the server.
func (s *Server) Tool(t testing.TB, name string, args ...string) {
	t.Helper()
	if err := s.tool(name, args...); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) data(elem ...string) string {
	return filepath.Join(append([]string{s.Folder, "data"}, elem...)...)
}

// binaries finds the folder of PostgreSQL's programs.
func binaries(t testing.TB) string {
	t.Helper()
	folders, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // not in the PATH on Debian
	for _, folder := range append(filepath.SplitList(os.Getenv("PATH")), folders...) {
		if real, err := filepath.EvalSymlinks(filepath.Join(folder, "initdb")); err == nil {
			folder = filepath.Dir(real)
			if _, err := os.Stat(filepath.Join(folder, "postgres")); err == nil {
				return folder
			}
		}
	}
	coretest.Lacking(t, "needs PostgreSQL's server programs: make setup, or apt-get install postgresql")
	return ""
}

// owner is the user for a server: it refuses to run as root.
func owner() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func newServer(bin string) (*Server, error) {
	own, err := owner()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "pgtest") // short: it is the path of a socket
	if err != nil {
		return nil, err
	}
	if own != nil {
		if err := os.Chown(folder, int(own.Uid), int(own.Gid)); err != nil {
			return nil, err
		}
	}
	return &Server{Folder: folder, Log: filepath.Join(folder, "log"), bin: bin, owner: own}, nil
}

// create makes a cluster with a role and a database, and runs it.
func create(bin string, conf ...string) (*Server, error) {
	s, err := newServer(bin)
	if err != nil {
		return nil, err
	}
	if err := s.tool("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"); err != nil {
		return nil, err
	}
	conf = append([]string{"max_wal_senders = 4", "shared_buffers = 32MB", "max_connections = 200"}, conf...)
	hba := "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
	if err := errors.Join(s.add("postgresql.conf", strings.Join(conf, "\n")+"\n"), os.WriteFile(s.data("pg_hba.conf"), []byte(hba), 0o600)); err != nil {
		return nil, err
	}
	if err := s.run(); err != nil {
		return nil, err
	}
	return s, s.tool("psql", "-X", "-q", "-h", s.Folder, "-p", strconv.Itoa(s.Port), "-U", "postgres",
		"-c", "CREATE ROLE conclave LOGIN PASSWORD 'secret'", "-c", "CREATE DATABASE conclave OWNER conclave")
}

// add adds to one of the files of the server's data.
func (s *Server) add(file, text string) error {
	f, err := os.OpenFile(s.data(file), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// WriteFile writes a file, such as a key, into the server's folder, for its owner only,
// and returns its path.
func (s *Server) WriteFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(s.Folder, name)
	err := os.WriteFile(path, content, 0o600)
	if err == nil && s.owner != nil {
		err = os.Chown(path, int(s.owner.Uid), int(s.owner.Gid))
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// tool runs a program of PostgreSQL as the owner.
func (s *Server) tool(name string, args ...string) error {
	cmd := s.command(filepath.Join(s.bin, name), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func (s *Server) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = s.Folder
	cmd.Env = []string{"PATH=" + s.bin + ":" + os.Getenv("PATH"), "HOME=" + s.Folder, "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner, Setpgid: true} // not the terminal's Ctrl-C
	return cmd
}

// keeper runs the server until its standard input has a line, or ends, as it does when
// this process ends in whatever way: then the files go as well.
const keeper = `
exec 3<&0
"$@" </dev/null >>log 2>&1 3<&- &
server=$!
{
	if read -r signal <&3; then
		kill -$signal $server
	else
		kill -QUIT $server
		while kill -0 $server; do sleep 0.1; done
		cd / && rm -rf "$OLDPWD"
	fi
} >/dev/null 2>&1 &
wait $server
echo $? >ended
`

// run starts the server and waits until it lets somebody in.
func (s *Server) run() (err error) {
	fresh := s.Port == 0
	for range 5 {
		if fresh {
			if s.Port, err = freePort(); err != nil {
				return err
			}
		}
		if err = s.runOnce(); err == nil {
			return nil
		}
		time.Sleep(200 * time.Millisecond) // the port was taken, or processes of a killed server have not ended yet
	}
	return err
}

func (s *Server) runOnce() error {
	ended := filepath.Join(s.Folder, "ended")
	if err := os.Remove(ended); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cmd := s.command("/bin/sh", "-c", keeper, "keeper", filepath.Join(s.bin, "postgres"),
		"-D", s.data(), "-k", s.Folder, "-p", strconv.Itoa(s.Port), "-c", "listen_addresses=127.0.0.1")
	alive, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	s.keeper, s.alive = cmd, alive
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(s.data("postmaster.pid"))
		if lines := strings.Split(string(text), "\n"); len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready" && lines[3] == strconv.Itoa(s.Port) {
			return nil
		}
		if _, err := os.Stat(ended); err == nil {
			break
		}
	}
	log, _ := os.ReadFile(s.Log)
	s.end("QUIT")
	return fmt.Errorf("the server does not start:\n%s", log)
}

// end ends the server and waits for that: by INT as an administrator does, by QUIT as a
// crash does.
func (s *Server) end(signal string) {
	_, _ = io.WriteString(s.alive, signal+"\n")
	_ = s.keeper.Wait() // closes the pipe
	s.keeper = nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
