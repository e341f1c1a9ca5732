// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// TestGroup: three clients, each a process of its own, sign on one token, and the real
// Core Crypto is with them and accepts what they sign. They talk, rotate their signature
// keys, are killed at rest and in the middle of a commit, and go on.
func TestGroup(t *testing.T) {
	for _, suite := range []core.SuiteID{1, 2, 5, 7} {
		t.Run(fmt.Sprintf("suite %d", suite), func(t *testing.T) {
			t.Parallel()
			g := newCast(t, suite)
			alice, bob, carol := g.ours("alice", false), g.ours("bob", true), g.ours("carol", false)
			g.in = []*actor{alice}
			alice.must("createConversation", nil)
			g.add(alice, bob)
			g.add(bob, carol)
			g.talk()
			g.rotated(func() {
				for _, who := range g.in {
					g.commit(who, "rotate")
					g.talk()
				}
			})

			dave := g.coreCrypto("dave")
			if dave != nil {
				g.add(alice, dave)
				g.commit(dave, "updateKeys")
				g.talk()
				// Somebody else commits: see below.
				g.rotated(func() {
					g.proposed(alice, dave)
					g.proposed(bob, carol)
					g.proposed(carol, alice)
				})
			}

			bob.kill()
			bob.start()
			b := carol.must("updateKeys", func(r *request) { r.Transport.Kind = "crash" }).Bundle
			carol.died()
			for _, to := range g.in {
				if to != carol {
					to.takes(b.Commit)
				}
			}
			carol.start()
			carol.takes(b.Commit)
			g.talk()
			g.commit(bob, "updateKeys")
			g.commit(carol, "updateKeys")
			g.talk()

			if dave != nil {
				// Core Crypto 10.3 wants a commit that brings a new signature key to be
				// signed with that key. RFC 9420 section 6.1 has it signed with the key that
				// the sender's leaf has in the epoch of the commit.
				commit := alice.must("rotate", nil).Bundle.Commit
				if _, err := dave.ask("decrypt", func(r *request) { r.Message = commit }); err == nil || !strings.Contains(err.Error(), "signature is invalid") {
					t.Errorf("Core Crypto and a commit that rotates a key: %v", err)
				}
				g.in = []*actor{alice, bob, carol}
				g.spread(alice, commit)
				g.talk()
			}
		})
	}
}

// A cast is one conversation and who is in it. It hands on what each of them makes.
type cast struct {
	testing.TB
	suite core.SuiteID
	token *softhsmtest.Token
	kek   string
	bare  bare
	in    []*actor

	actors int
}

func newCast(t *testing.T, suite core.SuiteID) *cast {
	g := &cast{TB: t, suite: suite, token: softhsmtest.New(t)}
	token, err := hsm.Open(t.Context(), hsm.Config{URI: g.token.URI()})
	if err != nil {
		t.Fatal(err)
	}
	if g.kek, err = token.GenerateKEK(t.Context(), "kek", ""); err != nil {
		t.Fatal(err)
	}
	if err := token.Close(); err != nil { // a module has one owner in a process
		t.Fatal(err)
	}
	g.bare = login(t, g.token)
	return g
}

// onToken lists the ids of the private keys, which come in pairs.
func (g *cast) onToken() []string {
	g.Helper()
	private, public := g.bare.ids(g, pkcs11.CKO_PRIVATE_KEY), g.bare.ids(g, pkcs11.CKO_PUBLIC_KEY)
	if !slices.Equal(private, public) {
		g.Fatalf("private keys %q, public keys %q", private, public)
	}
	return private
}

// ids lists those of the objects of a class that have one.
func (b bare) ids(t testing.TB, class uint) (ids []string) {
	t.Helper()
	for _, id := range b.values(t, class, pkcs11.CKA_ID) {
		if len(id) > 0 {
			ids = append(ids, fmt.Sprintf("%x", id))
		}
	}
	slices.Sort(ids)
	return ids
}

// values reads an attribute of all objects of a class.
func (b bare) values(t testing.TB, class, attribute uint) (list [][]byte) {
	t.Helper()
	if err := b.FindObjectsInit(b.session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)}); err != nil {
		t.Fatal(err)
	}
	found, _, err := b.FindObjects(b.session, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.FindObjectsFinal(b.session); err != nil {
		t.Fatal(err)
	}
	for _, o := range found {
		values, err := b.GetAttributeValue(b.session, o, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, values[0].Value)
	}
	return list
}

// An actor is a process that is a client.
type actor struct {
	g       *cast
	name    string
	id      core.ClientID
	command []string
	part    *part // ours; nil: Core Crypto

	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
	last   int
}

func (g *cast) actor(name string) *actor {
	g.actors++ // Core Crypto wants names like this one
	id := fmt.Sprintf("00000000-0000-4000-8000-%012x:%016x@conclave.example", g.actors, g.actors)
	return &actor{g: g, name: name, id: core.ClientID(id)}
}

// ours is one with its signature keys on the token, and its KEK too if it is sealed.
func (g *cast) ours(name string, sealed bool) *actor {
	a := g.actor(name)
	folder := g.TempDir()
	a.part = &part{Token: g.token.URI(), Latch: folder, Store: filepath.Join(folder, "store"), ID: a.id, Suite: g.suite}
	if sealed {
		a.part.KEK = g.kek
	}
	a.command = []string{os.Args[0]}
	g.Cleanup(a.stop)
	a.start()
	return a
}

// coreCrypto is the real one, which "make setup" puts below bin; nil: it is not here, and
// does not have to.
func (g *cast) coreCrypto(name string) *actor {
	g.Helper()
	a := g.actor(name)
	g.TB.(*testing.T).Run("Core Crypto", func(t *testing.T) {
		source := coretest.Shared(t, "peers", "core-crypto")
		folder := filepath.Join("..", "bin", "peers", "core-crypto")
		if _, err := exec.LookPath("node"); err != nil {
			coretest.Lacking(t, "node is not installed")
		}
		if _, err := os.Stat(filepath.Join(folder, "node_modules")); err != nil {
			coretest.Lacking(t, "Core Crypto is not set up: make setup")
		}
		want, err := os.ReadFile(filepath.Join(source, "driver.mjs"))
		if err != nil {
			t.Fatal(err)
		}
		if have, err := os.ReadFile(filepath.Join(folder, "driver.mjs")); err != nil || !bytes.Equal(have, want) {
			coretest.Lacking(t, "there is another Core Crypto now: make setup")
		}
		a.command = []string{"node", filepath.Join(folder, "driver.mjs")}
	})
	if a.command == nil {
		return nil
	}
	g.Cleanup(a.stop)
	a.start()
	a.must("init", func(r *request) { r.ClientID, r.Suites = a.id, []core.SuiteID{g.suite} })
	return a
}

func (a *actor) start() {
	a.g.Helper()
	a.cmd = exec.Command(a.command[0], a.command[1:]...)
	a.cmd.Env = os.Environ()
	if a.part != nil {
		text, err := json.Marshal(a.part)
		if err != nil {
			a.g.Fatal(err)
		}
		a.cmd.Env = append(a.cmd.Env, asMember+"="+string(text))
	}
	a.cmd.Stderr = &a.stderr
	stdin, err := a.cmd.StdinPipe()
	if err != nil {
		a.g.Fatal(err)
	}
	stdout, err := a.cmd.StdoutPipe()
	if err != nil {
		a.g.Fatal(err)
	}
	a.stdin, a.stdout = stdin, bufio.NewReader(stdout)
	if err := a.cmd.Start(); err != nil {
		a.g.Fatal(err)
	}
	if line, err := a.stdout.ReadString('\n'); err != nil || !strings.Contains(line, `"ready":true`) {
		a.died()
		a.g.Fatalf("%s begins with %q: %v\n%s", a.name, line, err, a.stderr.String())
	}
}

// kill ends the process as a power failure would.
func (a *actor) kill() {
	_ = a.cmd.Process.Kill()
	a.died()
}

// died waits for the end of a process.
func (a *actor) died() {
	_ = a.stdin.Close()
	_, _ = io.Copy(io.Discard, a.stdout)
	_ = a.cmd.Wait()
	a.cmd = nil
}

func (a *actor) stop() {
	if a.cmd == nil {
		return
	}
	_ = a.stdin.Close()
	_, _ = io.Copy(io.Discard, a.stdout)
	if err := a.cmd.Wait(); err != nil {
		a.g.Errorf("%s ends: %v\n%s", a.name, err, a.stderr.String())
	}
}

// must is ask where an error ends the test.
func (a *actor) must(command string, with func(*request)) answer {
	a.g.Helper()
	got, err := a.ask(command, with)
	if err != nil {
		a.g.Fatalf("%s: %s: %v\n%s", a.name, command, err, a.stderr.String())
	}
	return got
}

// ask asks for a command.
func (a *actor) ask(command string, with func(*request)) (answer, error) {
	process := a.cmd.Process
	defer time.AfterFunc(2*time.Minute, func() { _ = process.Kill() }).Stop()
	a.last++
	r := request{ID: a.last, Command: command, Conversation: []byte("conversation"), Suite: a.g.suite}
	if with != nil {
		with(&r)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	if _, err := a.stdin.Write(append(line, '\n')); err != nil {
		return answer{}, err
	}
	if line, err = a.stdout.ReadBytes('\n'); err != nil {
		return answer{}, err
	}
	var got reply
	if err := json.Unmarshal(line, &got); err != nil {
		return answer{}, err
	}
	switch {
	case got.Error != nil:
		return answer{}, got.Error
	case got.ID != a.last || !got.OK || got.Result == nil:
		return answer{}, fmt.Errorf("reply %q", line)
	}
	return *got.Result, nil
}

// takes gives somebody a commit.
func (a *actor) takes(commit []byte) {
	a.g.Helper()
	a.reads(commit, "Commit", "")
}

func (a *actor) reads(message []byte, kind, text string) {
	a.g.Helper()
	var got received
	answer := a.must("decrypt", func(r *request) { r.Message = message })
	if err := json.Unmarshal(answer.Message, &got); err != nil || got.Type != kind || string(got.Plaintext) != text {
		a.g.Fatalf("%s: a %s was %+v: %v", a.name, kind, got, err)
	}
}

// commit has somebody commit and hands it on.
func (g *cast) commit(by *actor, command string) {
	g.Helper()
	g.spread(by, by.must(command, nil).Bundle.Commit)
}

// proposed has somebody propose to rotate the signature key, and another commit that.
func (g *cast) proposed(who, by *actor) {
	g.Helper()
	var proposal []byte
	if err := json.Unmarshal(who.must("proposeRotation", nil).Message, &proposal); err != nil {
		g.Fatal(err)
	}
	for _, a := range g.in {
		if a != who {
			a.reads(proposal, "Proposal", "")
		}
	}
	g.commit(by, "commitPending")
	who.must("removeOld", nil)
	g.talk()
}

// rotated checks that each client has one key before and after, and another one.
func (g *cast) rotated(f func()) {
	g.Helper()
	before := g.onToken()
	f()
	after := g.onToken()
	if len(before) != 3 || len(after) != 3 || slices.ContainsFunc(before, func(id string) bool { return slices.Contains(after, id) }) {
		g.Fatalf("three clients had the keys %q on the token, and have rotated to %q", before, after)
	}
}

func (g *cast) spread(by *actor, commit []byte) {
	g.Helper()
	for _, a := range g.in {
		if a != by {
			a.takes(commit)
		}
	}
}

func (g *cast) add(by, who *actor) {
	g.Helper()
	packages := who.must("keypackages", nil).KeyPackages
	b := by.must("addMembers", func(r *request) { r.KeyPackages = packages }).Bundle
	g.spread(by, b.Commit)
	who.must("processWelcome", func(r *request) { r.Welcome = b.Welcome })
	g.in = append(g.in, who)
}

// talk has everybody say something that all others read, and checks that they agree.
func (g *cast) talk() {
	g.Helper()
	var secrets []string
	for _, from := range g.in {
		var message []byte
		text := "this is " + from.name
		answer := from.must("encrypt", func(r *request) { r.Plaintext = []byte(text) })
		if err := json.Unmarshal(answer.Message, &message); err != nil {
			g.Fatal(err)
		}
		for _, to := range g.in {
			if to != from {
				to.reads(message, "Text", text)
			}
		}
		epoch := from.must("epoch", nil).Epoch
		secrets = append(secrets, fmt.Sprintf("%d %x", epoch, from.must("exportSecret", func(r *request) { r.Length = 32 }).Secret))
	}
	if all := slices.Compact(secrets); len(all) != 1 {
		g.Fatalf("they do not agree: %q", all)
	}
}
