// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"bytes"
	"fmt"
	"testing"
)

// crashing is the transport of a delivery service that kills whoever submits a commit
// before the answer comes.
var crashing = []any{"transport", args{"kind": "crash"}}

// crashes is a command of an actor in a process of its own that ends there. The commit
// is known.
func (w *world) crashes(name, command string, arguments ...any) *bundle {
	w.t.Helper()
	a := w.as(name)
	got := a.must(command, append(arguments, crashing...)...)
	if !got.Crashed || got.Bundle == nil {
		w.t.Fatalf("%v: %s did not crash: %+v", a, command, got)
	}
	a.dies(false)
	return got.Bundle
}

// reopen starts an actor again that was killed.
func (w *world) reopen(name string) *actor {
	w.t.Helper()
	a := w.as(name)
	a.driver = w.cast(indexOf(roles, name))
	a.open()
	return a
}

// learns has an actor that crashed hear of its own commit, which the others have taken.
// Conclave goes on from there. Core Crypto has forgotten it and has to join again.
func (w *world) learns(name string, b *bundle) {
	w.t.Helper()
	a := w.as(name)
	w.info = b.GroupInfo
	if a.ours {
		a.takes(b.Commit)
		a.fails("Mls.DuplicateMessage", "decrypt", "message", b.Commit)
		w.agree()
		return
	}
	a.fails("Mls.SelfCommitIgnored", "decrypt", "message", b.Commit)
	w.join(name)
}

// killScenarios are played with bob and erin in processes of their own: one of them is
// Conclave and one Core Crypto, or the other way round.
var killScenarios = []scenario{
	{"the answer is lost", answerLost},
	{"killed between requests", killed},
	{"the commit is lost", commitLost},
	{"the answer to a join is lost", joinLost},
}

// Somebody dies when the commit is out and the answer is not in. Others have it.
func answerLost(w *world) {
	w.create("alice")
	w.add("alice", "bob", "carol", "dave")
	w.say("bob", "I am going to die")
	b := w.crashes("bob", "updateKeys")
	for _, name := range []string{"alice", "carol", "dave"} {
		w.as(name).takes(b.Commit)
	}
	w.reopen("bob")
	w.learns("bob", b)
	w.talk()

	b = w.crashes("bob", "addMembers", "keyPackages", w.keyPackages("frank"))
	for _, name := range []string{"alice", "carol", "dave"} {
		w.as(name).takes(b.Commit)
	}
	w.welcome(b, "frank")
	w.reopen("bob")
	w.learns("bob", b)
	w.update("bob")
	w.talk()
}

// Somebody is killed while nothing is under way: everything is there, and nothing is
// sent under a key that was used.
func killed(w *world) {
	w.create("bob")
	w.add("bob", "alice", "carol", "dave")
	var sent [][]byte
	for i := range 4 {
		sent = append(sent, w.encrypt("bob", fmt.Sprint("before ", i)))
	}
	early := w.encrypt("alice", "do you read me")
	w.update("carol")
	w.as("bob").must("setData", "data", []byte("up to here"))
	w.as("bob").dies(true)

	bob := w.reopen("bob")
	if got := bob.must("getData").Data; string(got) != "up to here" {
		w.t.Errorf("%v: data %q", bob, got)
	}
	w.agree()
	bob.reads(early, "alice", "do you read me")
	for i := range 4 {
		sent = append(sent, w.encrypt("bob", fmt.Sprint("after ", i)))
	}
	for _, name := range []string{"alice", "carol", "dave"} {
		for i, m := range sent {
			w.as(name).reads(m, "bob", fmt.Sprint([]string{"before ", "after "}[i/4], i%4))
		}
	}
	w.update("bob")
	bob.key = bytes.Repeat([]byte{5}, 32)
	bob.must("updateDatabaseKey", "dbKey", bob.key)
	bob.dies(true)
	w.reopen("bob").fails("Mls.DuplicateMessage", "decrypt", "message", early)
	w.remove("bob", "dave")
	w.talk()
}

// Somebody dies with a commit that nobody gets. Another one is accepted; or it is the
// author's turn again.
func commitLost(w *world) {
	w.create("alice")
	w.add("alice", "bob", "carol", "dave")
	w.crashes("bob", "updateKeys")
	w.reopen("bob")
	w.update("carol") // bob reads this one
	w.talk()

	packages := w.keyPackages("frank")
	lost := w.crashes("bob", "addMembers", "keyPackages", packages)
	bob := w.reopen("bob")
	again := bob.must("updateKeys")
	submitted := again.Bundles
	if submitted == nil {
		submitted = []bundle{*again.Bundle}
	}
	// Conclave still has the commit and submits it first, the same bytes.
	if want := map[bool]int{true: 2, false: 1}[bob.ours]; len(submitted) != want || bob.ours && !bytes.Equal(submitted[0].Commit, lost.Commit) {
		w.t.Fatalf("%v: %d bundles after the crash", bob, len(submitted))
	}
	for i := range submitted {
		w.spread("bob", &submitted[i])
		if len(submitted[i].Welcome) > 0 {
			w.welcome(&submitted[i], "frank")
		}
	}
	w.agree()
	if !bob.ours {
		w.add("bob", "frank")
	}
	w.talk()
}

// Somebody dies while joining. The others have the commit, or nobody has.
func joinLost(w *world) {
	w.create("alice")
	w.add("alice", "bob", "carol", "dave")
	w.update("dave")
	for _, name := range []string{"erin", "bob"} { // erin is new, bob joins again
		b := w.crashes(name, "joinByExternalCommit", "groupInfo", w.info)
		w.gone(name)
		for _, other := range w.in {
			w.as(other).takes(b.Commit)
		}
		w.info = b.GroupInfo
		greeting := w.encrypt("alice", "welcome back")
		a := w.reopen(name)
		if a.ours { // it has kept what it needs
			switch name {
			case "erin":
				a.fails("Mls.UnmergedPendingGroup", "decrypt", "message", greeting)
				if m := a.takes(b.Commit); len(m.BufferedMessages) != 1 {
					w.t.Fatalf("%v: the echo of the join: %+v", a, m)
				} else {
					w.isText(a, m.BufferedMessages[0], "alice", "welcome back")
				}
			case "bob":
				a.takes(b.Commit)
				a.reads(greeting, "alice", "welcome back")
			}
			w.comes(name)
		} else {
			w.comes(name)
			w.join(name)
		}
		w.agree()
		w.talk()

		w.crashes(name, "joinByExternalCommit", "groupInfo", w.info) // nobody has it
		w.reopen(name)
		w.update("carol")
		w.join(name)
		w.talk()
	}
}

// Either side is killed and started again. In all suites one scenario, in one all.
func TestInteropKills(t *testing.T) {
	corePeer(t)
	for _, suite := range interopSuites {
		t.Run(fmt.Sprintf("suite %d", suite), func(t *testing.T) {
			t.Parallel()
			conclave, core := inProcess(t), coreCrypto(t)
			for i, s := range killScenarios {
				if i > 0 && suite != 1 && !*everything {
					continue
				}
				for _, first := range firsts(suite, i) {
					t.Run(s.name+"/"+first+" first", func(t *testing.T) {
						w := newWorld(t, suite, func(role int) *driver {
							switch mine := ours(first, role); {
							case mortal(role) && mine:
								return ourProcess(t)
							case mortal(role):
								return coreCrypto(t)
							case mine:
								return conclave
							}
							return core
						})
						w.folder = t.TempDir()
						s.play(w)
					})
				}
			}
		})
	}
}

// mortal says whether a role has a process of its own, and another after a kill.
func mortal(role int) bool { return roles[role] == "bob" || roles[role] == "erin" }

// The same without Core Crypto, everywhere.
func TestKills(t *testing.T) {
	t.Parallel()
	shared := inProcess(t)
	for _, s := range killScenarios {
		t.Run(s.name, func(t *testing.T) {
			w := newWorld(t, 1, func(role int) *driver {
				if mortal(role) {
					return ourProcess(t)
				}
				return shared
			})
			w.folder = t.TempDir()
			s.play(w)
		})
	}
}
