// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/drive"
	"github.com/conclave-mls/conclave/core/coretest"
)

// This file starts drivers and speaks to them: to ours, in this process or in one of
// its own, to that of Core Crypto, and to that of npm's @wireapp/proteus. All of them speak
// the same protocol.

// asDriver is the argument that makes the test program a driver.
const asDriver = "be-a-driver"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == asDriver {
		kill := func() {
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			if err != nil {
				panic(err)
			}
			select {}
		}
		err := drive.Serve(context.Background(), os.Stdin, os.Stdout, drive.Options{Config: parts(), Log: os.Stderr, Crash: kill})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func parts() config.Config {
	c := config.Default("")
	c.Keystore, c.Key, c.Audit = "memory:", "", "log:"
	return c
}

// A driver answers requests.
type driver struct {
	ours bool // ours, else that of Core Crypto

	mu   sync.Mutex // one request at a time
	in   io.WriteCloser
	out  *bufio.Reader
	last int
	end  func() error // after in is closed
	kill func()       // nil: in this process
}

// inProcess is a driver of ours in this process.
func inProcess(t testing.TB, more ...fx.Option) *driver {
	t.Helper()
	in, requests := io.Pipe()
	replies, out := io.Pipe()
	served := make(chan error, 1)
	go func() {
		err := drive.Serve(context.Background(), in, out, drive.Options{Config: parts(), Parts: more})
		_ = out.CloseWithError(err)
		served <- err
	}()
	d := &driver{ours: true, in: requests, out: bufio.NewReader(replies), end: func() error { return <-served }}
	return d.ready(t)
}

// ourProcess is a driver of ours in a process of its own.
func ourProcess(t testing.TB) *driver {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := process(t, self, asDriver)
	d.ours = true
	return d
}

// coreCrypto is a driver of the real Core Crypto, in a process of its own. The test is
// skipped, or fails if the shared test data is required, where it cannot run.
func coreCrypto(t testing.TB) *driver {
	t.Helper()
	return process(t, "node", filepath.Join(corePeer(t), "driver.mjs"))
}

func corePeer(t testing.TB) string {
	t.Helper()
	return installed(t, coretest.Shared(t, "peers", "core-crypto"))
}

// typeScript is the same for npm's @wireapp/proteus.
func typeScript(t testing.TB) *driver {
	t.Helper()
	return process(t, "node", filepath.Join(installed(t, filepath.Join("testdata", "wireapp-proteus")), "driver.mjs"))
}

// installed finds the folder into which make setup has put a driver, with what it needs.
func installed(t testing.TB, source string) string {
	t.Helper()
	peer := filepath.Base(source)
	if _, err := exec.LookPath("node"); err != nil {
		coretest.Lacking(t, "node is not installed: "+firstNode)
	}
	folder := filepath.Join("..", "..", "bin", "peers", peer)
	if _, err := os.Stat(filepath.Join(folder, "node_modules")); err != nil {
		coretest.Lacking(t, peer+" is not set up: make setup")
	}
	for _, name := range []string{"driver.mjs", "package-lock.json"} {
		want, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			t.Fatal(err)
		}
		if have, err := os.ReadFile(filepath.Join(folder, name)); err != nil || !bytes.Equal(have, want) {
			coretest.Lacking(t, "there is another "+peer+" now: make setup")
		}
	}
	return folder
}

const firstNode = "install Node.js 20 or later with npm, then make setup"

// process starts a program that is a driver.
func process(t testing.TB, program string, args ...string) *driver {
	t.Helper()
	cmd := exec.Command(program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &driver{in: in, out: bufio.NewReader(out), kill: func() { _ = cmd.Process.Kill() }}
	d.end = func() error {
		_, _ = io.Copy(io.Discard, d.out)
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, stderr.String())
		}
		return nil
	}
	return d.ready(t)
}

// ready waits for the first line, and has the test end the driver.
func (d *driver) ready(t testing.TB) *driver {
	t.Helper()
	line, err := d.out.ReadBytes('\n')
	var first struct {
		Ready   bool
		Version string
	}
	if err == nil {
		err = json.Unmarshal(line, &first)
	}
	if err != nil || !first.Ready || first.Version == "" {
		t.Fatalf("first line %q: %v; %v", line, err, d.stop())
	}
	t.Cleanup(func() {
		if err := d.stop(); err != nil {
			t.Errorf("the driver's end: %v", err)
		}
	})
	return d
}

// stop has the driver come to its end, once.
func (d *driver) stop() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.in == nil {
		return nil
	}
	err := errors.Join(d.in.Close(), d.end())
	d.in = nil
	return err
}

// dies waits for a driver that was killed, or kills it.
func (d *driver) dies(kill bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kill {
		d.kill()
	}
	_, _ = d.in.Close(), d.end()
	d.in = nil
}

// A failure is the error of a reply.
type failure struct {
	Kind         string
	Message      string
	Detail       map[string]any
	Bundles      []bundle
	DuringCommit bool
}

func (f *failure) Error() string { return fmt.Sprintf("%s: %s %v", f.Kind, f.Message, f.Detail) }

// kindOf is the kind of an error that a driver has answered with.
func kindOf(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.Kind
	}
	return ""
}

type bundle struct {
	Commit, Welcome, GroupInfo           []byte
	EncryptedMessage                     []byte
	GroupInfoEncryption, RatchetTreeType int
}

// A clientID is one in a reply.
type clientID struct {
	Text, RawText string
	Raw           []byte
}

// An identity is what a reply says of a member.
type identity struct {
	ClientID, Status, Thumbprint, CredentialType string
}

// A message is what became of one that was decrypted.
type message struct {
	Type             string
	Plaintext        []byte
	Sender           clientID
	Identity         identity
	IsActive         bool
	Delay            *int
	BufferedMessages []message
	Error            *failure
}

// An answer is the result of a reply: what the command does not have is absent.
type answer struct {
	Crashed bool `json:"-"`

	Bundle           *bundle
	Bundles          []bundle
	BufferedMessages []message
	Conversation     []byte
	ClientID         clientID
	KeyPackages      [][]byte
	KeyPackage       []byte
	HashRef          []byte
	Valid            bool
	Refs             json.RawMessage // bytes, or more than that
	Message          json.RawMessage // bytes, or a message
	Messages         json.RawMessage
	Members          []clientID
	Identities       []identity
	Epoch            uint64
	Ciphersuite      int
	Exists           bool
	Secret           []byte
	Key              []byte
	Data             []byte
	Bytes            []byte
	PublicKeyHash    []byte
	Credentials      []struct {
		Ciphersuite              int
		Type                     string
		PublicKey, PublicKeyHash []byte
		ClientID                 clientID
	}
	Events []struct {
		Event        string
		Conversation []byte
		Epoch        uint64
		ClientID     []byte // of a history client
		Data         []byte
	}
	HistorySecrets []struct{ ClientID, Data []byte }
	Enabled        bool
	Plaintext      []byte // of Proteus, as those below
	Prekey         []byte
	Local, Remote  string
	Store          json.RawMessage
}

// args are the arguments of a request.
type args map[string]any

// call asks for a command. An error of the reply is a *failure.
func (d *driver) call(inst, command string, a args) (answer, error) {
	request := map[string]any{"inst": inst, "cmd": command}
	for k, v := range a {
		request[k] = v
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	request["id"] = d.last
	line, err := json.Marshal(request)
	if err != nil {
		return answer{}, err
	}
	reply, err := d.line(line)
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", command, err)
	}
	var r struct {
		ID      int
		OK      bool
		Crashed bool
		Result  answer
		Error   *failure
	}
	if err := json.Unmarshal(reply, &r); err != nil {
		return answer{}, fmt.Errorf("%s: reply %q: %w", command, reply, err)
	}
	if r.ID != d.last || r.OK != (r.Error == nil) {
		return answer{}, fmt.Errorf("%s: reply %q", command, reply)
	}
	if r.Error != nil {
		return answer{}, r.Error
	}
	r.Result.Crashed = r.Crashed
	return r.Result, nil
}

// line sends one line and reads one.
func (d *driver) line(line []byte) ([]byte, error) {
	if d.in == nil {
		return nil, errors.New("the driver has ended")
	}
	if strings.ContainsRune(string(line), '\n') {
		return nil, errors.New("more than a line")
	}
	if _, err := d.in.Write(append(line, '\n')); err != nil {
		return nil, err
	}
	type read struct {
		line []byte
		err  error
	}
	answered := make(chan read, 1)
	go func() {
		line, err := d.out.ReadBytes('\n')
		answered <- read{line, err}
	}()
	select {
	case r := <-answered:
		return r.line, r.err
	case <-time.After(2 * time.Minute):
		return nil, errors.New("no answer")
	}
}
