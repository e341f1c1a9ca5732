// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"
)

// A scenario is played by several castings in several suites.
type scenario struct {
	name string
	play func(w *world)
}

// scenarios run in memory with whatever drivers; what needs a disk or a kill is in
// kill_test.go.
var scenarios = []scenario{
	{"a group comes and goes", comesAndGoes},
	{"external joins", externalJoins},
	{"out of order", outOfOrder},
	{"refused commits", refused},
	{"simultaneous commits", simultaneous},
	{"a commit is missed", missed},
	{"proposals from outside", externalProposals},
	{"proposals from outside, JWK", jwkProposals},
	{"errors", mistakes},
	{"history", historyIsShared},
}

// The members of a group of four and more add, remove and update, whoever they are.
func comesAndGoes(w *world) {
	w.create("alice")
	w.update("alice") // alone
	w.add("alice", "bob")
	w.talk()
	w.add("bob", "carol", "dave") // two at once
	for _, name := range w.in {
		w.update(name)
	}
	w.talk()
	w.add("carol", "erin")
	w.remove("dave", "carol") // a blank leaf
	w.update("erin")
	w.talk()
	w.add("bob", "carol") // into the blank
	w.remove("erin", "alice", "dave")
	w.add("carol", "dave", "alice", "frank")
	for _, name := range w.in {
		w.update(name)
		w.say(name, "still here")
	}
	w.remove("frank", "bob", "carol", "erin", "dave")
	w.talk()
	w.remove("alice", "frank")
}

// Everybody joins, and joins again, by external commit.
func externalJoins(w *world) {
	w.create("alice")
	w.update("alice")
	for _, name := range []string{"bob", "carol", "dave"} {
		w.join(name)
		w.say(name, "may I")
		w.talk()
	}
	for _, name := range []string{"dave", "alice", "carol"} { // with no blank leaf before them
		w.join(name)
		w.talk()
	}
	w.remove("bob", "dave")
	w.join("dave")
	w.update("carol")
	w.remove("dave", "alice")
	w.join("erin") // in the blank
	w.add("erin", "alice")
	w.talk()
}

// Application messages arrive in another order, twice, late and early.
func outOfOrder(w *world) {
	w.create("alice")
	w.add("alice", "bob", "carol", "dave")
	for _, from := range w.in {
		var texts []string
		var messages [][]byte
		for i := range 12 {
			texts = append(texts, fmt.Sprintf("%s says %d", from, i))
			messages = append(messages, w.encrypt(from, texts[i]))
		}
		for _, to := range w.in {
			a := w.as(to)
			if to == from {
				a.fails("Mls.DuplicateMessage", "decrypt", "message", messages[0]) // our own
				continue
			}
			for _, i := range []int{1, 0, 2, 4, 3, 11} {
				a.reads(messages[i], from, texts[i])
			}
			a.fails("Mls.DuplicateMessage", "decrypt", "message", messages[11])
			a.reads(messages[10], from, texts[10])
			tooOld := "Mls.MessageEpochTooOld"
			if !a.ours {
				tooOld = "Mls.DuplicateMessage"
			}
			a.fails(tooOld, "decrypt", "message", messages[9]) // of more than a few no key is kept
		}
	}

	// From the three epochs before this one.
	late := map[string][]string{}
	sent := map[string][]byte{}
	for i, by := range []string{"bob", "carol", "alice"} {
		for _, from := range w.in {
			text := fmt.Sprintf("%s in epoch %d", from, i)
			late[from] = append(late[from], text)
			sent[text] = w.encrypt(from, text)
		}
		w.update(by)
	}
	for _, to := range w.in {
		for _, from := range w.in {
			for i := range late[from] {
				if text := late[from][2-i]; to != from {
					w.as(to).reads(sent[text], from, text)
				}
			}
		}
	}

	// Before the commit that begins its epoch: kept, and read with the commit. Core
	// Crypto can keep it within a transaction only.
	for _, by := range []string{"alice", "bob"} {
		b := w.commit(by, "updateKeys")
		early := w.encrypt(by, "too early")
		for _, to := range w.in {
			if to == by {
				continue
			}
			a := w.as(to)
			got := read[[]message](w.t, a.must("decryptMany", "messages", [][]byte{early, b.Commit}).Messages)
			if len(got) != 2 || got[0].Error == nil || got[0].Error.Kind != "Mls.BufferedFutureMessage" || got[1].Type != "Commit" || len(got[1].BufferedMessages) != 1 {
				w.t.Fatalf("%v: early message and commit were %+v", a, got)
			}
			w.isText(a, got[1].BufferedMessages[0], by, "too early")
		}
		w.agree()
	}
	w.talk()
}

// The delivery service refuses commits of every kind: nothing has changed, and the next
// one is accepted.
func refused(w *world) {
	no := []any{"transport", args{"kind": "reject", "reason": "not today"}}
	refuse := func(name, command string, arguments ...any) *failure {
		w.t.Helper()
		f := w.as(name).fails("Mls.MessageRejected", command, append(arguments, no...)...)
		if f.Detail["reason"] != "not today" || len(f.Bundles) != 1 || len(f.Bundles[0].Commit) == 0 {
			w.t.Fatalf("%v: %s was refused with %+v", w.as(name), command, f)
		}
		return f
	}
	w.create("alice")
	w.add("alice", "bob", "carol", "dave")
	for _, name := range w.in {
		before := w.agree()
		mine := refuse(name, "updateKeys").Bundles[0].Commit
		refuse(name, "addMembers", "keyPackages", w.keyPackages("erin"))
		refuse(name, "removeMembers", "clientIds", w.ids([]string{w.in[(indexOf(w.in, name)+1)%len(w.in)]}))
		if w.agree() != before {
			w.t.Fatal("the epoch changed")
		}
		w.as(name).fails("Mls.SelfCommitIgnored", "decrypt", "message", mine) // if it comes after all
		if got := read[[]message](w.t, w.as(name).must("decryptMany", "messages", [][]byte{mine}).Messages); len(got) != 1 || got[0].Error == nil || got[0].Error.Kind != "Mls.SelfCommitIgnored" {
			w.t.Errorf("among others: %+v", got)
		}
		w.talk()
		w.update(name)
	}
	for _, name := range []string{"erin", "frank"} { // of each side one
		refuse(name, "joinByExternalCommit", "groupInfo", w.info)
		if w.as(name).must("exists").Exists {
			w.t.Fatalf("%v: joined", w.as(name))
		}
		w.join(name)
	}
	w.talk()
}

func indexOf(list []string, name string) int {
	for i := range list {
		if list[i] == name {
			return i
		}
	}
	return -1
}

// Several commit in one epoch: one wins, and the others learn of it and try again.
func simultaneous(w *world) {
	w.create("alice")
	w.add("alice", "bob", "carol", "dave")
	lose := []any{"transport", args{"kind": "reject", "reason": "another commit came first"}}
	for i, winner := range w.in {
		loser, third := w.in[(i+1)%4], w.in[(i+2)%4]
		packages := w.keyPackages("erin")
		w.as(loser).fails("Mls.MessageRejected", "addMembers", append([]any{"keyPackages", packages}, lose...)...)
		b := w.commit(winner, "updateKeys")
		w.as(third).fails("Mls.MessageRejected", "updateKeys", lose...)
		w.spread(winner, b)
		w.agree()

		// Whoever reads it twice is told so, the author as well.
		for _, name := range w.in {
			w.as(name).fails("Mls.DuplicateMessage", "decrypt", "message", b.Commit)
		}

		b = w.commit(loser, "addMembers", "keyPackages", packages)
		w.spread(loser, b)
		w.welcome(b, "erin")
		w.agree()
		w.update(third)
		w.remove(third, "erin")
	}
	w.talk()
}

// Somebody misses a commit, hears of later ones, and catches up.
func missed(w *world) {
	w.create("alice")
	w.add("alice", "bob", "carol", "dave")
	for i, late := range []string{"carol", "dave"} { // of each side one
		by := w.in[i]
		var commits [][]byte
		for range 3 {
			b := w.commit(by, "updateKeys")
			commits = append(commits, b.Commit)
			w.info = b.GroupInfo
			for _, name := range w.in {
				if name != by && name != late {
					w.as(name).takes(b.Commit)
				}
			}
		}
		text := w.encrypt(by, "where are you")
		a := w.as(late)
		a.fails("Mls.WrongEpoch", "decrypt", "message", commits[2])
		a.fails("Mls.WrongEpoch", "decrypt", "message", text)
		a.fails("Mls.BufferedFutureMessage", "decrypt", "message", commits[1])
		// Conclave has kept the second and reads it with the first. Core Crypto has lost it.
		if m := a.takes(commits[0]); a.ours != (len(m.BufferedMessages) == 1) {
			w.t.Fatalf("%v: the commit that was missed: %+v", a, m)
		}
		if !a.ours {
			a.takes(commits[1])
		}
		a.takes(commits[2])
		a.reads(text, by, "where are you")
		a.fails("Mls.StaleCommit", "decrypt", "message", commits[0])
		w.agree()
	}
	w.talk()
}

// What is refused is refused alike, and changes nothing.
func mistakes(w *world) {
	w.create("alice")
	w.add("alice", "bob", "carol", "dave")
	epoch := w.agree()
	for _, name := range []string{"alice", "bob", "erin", "frank"} {
		a := w.as(name)
		a.fails("BadRequest", "no such command")
		a.fails("BadRequest", "encrypt", "plaintext", 5)
		a.fails("BadRequest", "init")
		a.fails("BadRequest", "epoch", "conversation", nil)
		a.fails("Mls.Other", "epoch", "conversation", []byte("of nobody"))
		a.fails("Mls.Other", "encrypt", "conversation", []byte("of nobody"), "plaintext", []byte("x"))
		a.fails("Mls.Other", "wipe", "conversation", []byte("of nobody"))
		a.fails("Mls.Other", "decrypt", "message", []byte("garbage"))
		a.fails("Mls.Other", "processWelcome", "welcome", []byte("garbage"))
		if _, err := a.call("joinByExternalCommit", "groupInfo", []byte("garbage")); !strings.HasSuffix(kindOf(err), "Other") {
			w.t.Errorf("%v: a garbled GroupInfo: %v", a, err)
		}
		if a.must("exists", "conversation", []byte("of nobody")).Exists {
			w.t.Errorf("%v: a conversation that nobody made", a)
		}
		if !w.member(name) {
			continue
		}
		exists := a.fails("Mls.ConversationAlreadyExists", "createConversation")
		if len(exists.Detail["conversationId"].(string)) == 0 {
			w.t.Errorf("%v: %v", a, exists)
		}
		a.fails("Mls.Other", "addMembers", "keyPackages", [][]byte{})
		a.fails("Mls.Other", "addMembers", "keyPackages", [][]byte{[]byte("garbage")})
		a.fails("Mls.Other", "removeMembers", "clientIds", []string{})
		a.fails("Mls.Other", "removeMembers", "clientIds", w.ids([]string{"frank"}))
		a.fails("Mls.Other", "removeMembers", "clientIds", w.ids([]string{name}))
		a.fails("BadRequest", "removeMembers", "clientIds", []string{"me"})
		if got := a.must("commitPending"); got.Bundle != nil {
			w.t.Errorf("%v: a commit of nothing", a)
		}
		m := w.encrypt(name, "damaged on its way")
		m[len(m)-1] ^= 1
		for _, other := range w.in {
			if other != name {
				w.as(other).fails("Mls.Other", "decrypt", "message", m)
			}
		}
	}
	if w.agree() != epoch {
		w.t.Error("the epoch changed")
	}
	w.talk()

	// A Welcome for somebody else, and twice.
	b := w.commit("bob", "addMembers", "keyPackages", w.keyPackages("erin", "frank"))
	w.spread("bob", b)
	for _, name := range []string{"alice", "dave"} {
		w.as(name).fails("Mls.OrphanWelcome", "processWelcome", "welcome", b.Welcome)
	}
	w.welcome(b, "erin", "frank")
	for _, name := range []string{"erin", "frank"} {
		w.as(name).fails("Mls.OrphanWelcome", "processWelcome", "welcome", b.Welcome)
	}
	w.agree()
}

// Conclave alone plays all roles: this runs everywhere.
func TestScenarios(t *testing.T) {
	t.Parallel()
	one, other := inProcess(t), inProcess(t)
	for _, suite := range []int{1, 6} { // the second is none of Core Crypto's
		for _, s := range scenarios {
			t.Run(fmt.Sprintf("suite %d/%s", suite, s.name), func(t *testing.T) {
				s.play(newWorld(t, suite, func(role int) *driver { return []*driver{one, other}[role%2] }))
			})
		}
	}
}

// interopSuites are those that Core Crypto has.
var interopSuites = []int{1, 2, 3, 5, 7}

// firsts says which side plays the first role, and every second one: in a cheap suite
// either, in others they take turns from one scenario to the next.
func firsts(suite, scenario int) []string {
	both := []string{"Conclave", "Core Crypto"}
	if suite == 1 || suite == 3 || *everything {
		return both
	}
	n := (suite/2 + scenario) % 2
	return both[n : n+1]
}

var everything = flag.Bool("everything", false, "all scenarios in all suites with either side first")

// ours says whether a role is Conclave's.
func ours(first string, role int) bool { return (first == "Conclave") == (role%2 == 0) }

// Conclave and the real Core Crypto, in turn, play the members of one group.
func TestInterop(t *testing.T) {
	corePeer(t)
	for _, suite := range interopSuites {
		t.Run(fmt.Sprintf("suite %d", suite), func(t *testing.T) {
			t.Parallel()
			conclave, core := inProcess(t), coreCrypto(t)
			for i, s := range scenarios {
				for _, first := range firsts(suite, i) {
					t.Run(s.name+"/"+first+" first", func(t *testing.T) {
						s.play(newWorld(t, suite, func(role int) *driver {
							if ours(first, role) {
								return conclave
							}
							return core
						}))
					})
				}
			}
		})
	}
}

// One client, with credentials for all suites, is in a group of each at once.
func TestInteropManySuites(t *testing.T) {
	conclave, core := inProcess(t), coreCrypto(t)
	t.Parallel()
	w := newWorld(t, 0, func(role int) *driver { return []*driver{conclave, core}[role%2] })
	w.suites = interopSuites
	type group struct {
		suite      int
		id         []byte
		in, leaves []string
	}
	var groups []group
	for i, suite := range interopSuites {
		w.suite, w.group, w.in, w.leaves = suite, fmt.Appendf(nil, "%s, suite %d", w.group, suite), nil, nil
		members := []string{"alice", "bob", "carol", "dave"}
		members = append(members[i%4:], members[:i%4]...)
		w.create(members[0])
		w.add(members[0], members[1:]...)
		groups = append(groups, group{suite, w.group, w.in, w.leaves})
	}
	for _, g := range groups {
		w.suite, w.group, w.in, w.leaves = g.suite, g.id, g.in, g.leaves
		w.agree()
		w.update(w.in[1])
		w.talk()
	}
}
