// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// A world is one conversation and those who are in it, or may be. It is the delivery
// service: what one submits it hands to the others. Who plays whom is the casting's
// choice, and no scenario asks.
type world struct {
	t      testing.TB
	suite  int   // of the conversation
	suites []int // of the actors; nil: the same
	group  []byte
	cast   func(role int) *driver
	folder string // of databases; empty: in memory
	actors map[string]*actor
	in     []string // the members
	leaves []string // of the tree, from the left; empty: blank
	info   []byte   // the newest GroupInfo
	shared bool     // there is a history client: Core Crypto cannot tell identities then
}

// roles are who there is; a casting knows them by number.
var roles = []string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"}

// An actor is an instance of a driver.
type actor struct {
	*driver
	w    *world
	name string
	inst string
	id   string
	db   string
	key  []byte // of the database; nil: zeros
}

// run is part of the names of instances, because worlds share drivers.
var run atomic.Int64

func newWorld(t testing.TB, suite int, cast func(int) *driver) *world {
	n := run.Add(1)
	return &world{
		t: t, suite: suite, cast: cast, actors: map[string]*actor{},
		group: fmt.Appendf(nil, "conversation %d", n),
	}
}

// as is an actor; who has not appeared yet does so now.
func (w *world) as(name string) *actor {
	w.t.Helper()
	if a := w.actors[name]; a != nil {
		return a
	}
	role := slices.Index(roles, name)
	if role < 0 {
		w.t.Fatalf("%s has no role", name)
	}
	n := run.Add(1)
	a := &actor{
		driver: w.cast(role), w: w, name: name, inst: fmt.Sprintf("%s %d", name, n),
		id: fmt.Sprintf("00000000-0000-4000-8000-%012x:a%015x@conclave.example", n, role),
	}
	if w.folder != "" {
		a.db = filepath.Join(w.folder, fmt.Sprintf("%s-%d.db", name, n))
	}
	w.actors[name] = a
	a.open()
	w.t.Cleanup(func() {
		if a.driver.in != nil {
			_, _ = a.call("close")
		}
	})
	return a
}

// open makes the actor's instance, or opens it again.
func (a *actor) open() {
	a.w.t.Helper()
	suites := a.w.suites
	if suites == nil {
		suites = []int{a.w.suite}
	}
	arguments := []any{"clientId", a.id, "ciphersuites", suites}
	if a.db != "" {
		arguments = append(arguments, "db", a.db)
		if a.key != nil {
			arguments = append(arguments, "dbKey", a.key)
		}
	}
	if got := a.must("init", arguments...).ClientID.Text; got != a.id {
		a.w.t.Fatalf("%v: client id %s, not %s", a, got, a.id)
	}
}

func (a *actor) String() string {
	if a.ours {
		return a.name + " (Conclave)"
	}
	return a.name + " (Core Crypto)"
}

// arguments of a command in the conversation, as name and value in turn.
func (a *actor) arguments(list []any) args {
	out := args{"conversation": a.w.group, "ciphersuite": a.w.suite}
	for i := 0; i < len(list); i += 2 {
		out[list[i].(string)] = list[i+1]
	}
	return out
}

// call asks for a command in the conversation.
func (a *actor) call(command string, arguments ...any) (answer, error) {
	return a.driver.call(a.inst, command, a.arguments(arguments))
}

// must is call where an error ends the test.
func (a *actor) must(command string, arguments ...any) answer {
	a.w.t.Helper()
	out, err := a.call(command, arguments...)
	if err != nil {
		a.w.t.Fatalf("%v: %s: %v", a, command, err)
	}
	return out
}

// fails is call where anything but an error of a kind ends the test.
func (a *actor) fails(kind, command string, arguments ...any) *failure {
	a.w.t.Helper()
	_, err := a.call(command, arguments...)
	if kindOf(err) != kind {
		a.w.t.Fatalf("%v: %s: %v, not %s", a, command, err, kind)
	}
	return err.(*failure)
}

func read[T any](t testing.TB, raw json.RawMessage) (v T) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

// member says whether somebody is in the conversation.
func (w *world) member(name string) bool { return slices.Contains(w.in, name) }

func (w *world) create(name string, arguments ...any) {
	w.t.Helper()
	w.as(name).must("createConversation", arguments...)
	w.comes(name)
	w.agree()
}

// commit is a command of a member that commits. The bundle is not handed on yet.
func (w *world) commit(name, command string, arguments ...any) *bundle {
	w.t.Helper()
	got := w.as(name).must(command, arguments...)
	if got.Bundle == nil || len(got.Bundle.Commit) == 0 || len(got.Bundle.GroupInfo) == 0 ||
		got.Bundle.GroupInfoEncryption != 1 || got.Bundle.RatchetTreeType != 1 {
		w.t.Fatalf("%v: %s: no bundle: %+v", w.as(name), command, got.Bundle)
	}
	return got.Bundle
}

// spread hands an accepted commit to all members but its author and makes it the
// newest.
func (w *world) spread(author string, b *bundle) {
	w.t.Helper()
	w.info = b.GroupInfo
	for _, name := range w.in {
		if name != author {
			w.as(name).takes(b.Commit)
		}
	}
}

// takes reads a commit.
func (a *actor) takes(commit []byte) message {
	a.w.t.Helper()
	m := read[message](a.w.t, a.must("decrypt", "message", commit).Message)
	if m.Type != "Commit" || !m.IsActive {
		a.w.t.Fatalf("%v: a commit was %+v", a, m)
	}
	return m
}

// keyPackages makes one of each.
func (w *world) keyPackages(names ...string) (list [][]byte) {
	w.t.Helper()
	for _, name := range names {
		list = append(list, w.as(name).must("keypackages").KeyPackages...)
	}
	if len(list) != len(names) {
		w.t.Fatalf("%d key packages of %v", len(list), names)
	}
	return list
}

// add has a member add others.
func (w *world) add(by string, others ...string) {
	w.t.Helper()
	b := w.commit(by, "addMembers", "keyPackages", w.keyPackages(others...))
	w.spread(by, b)
	w.welcome(b, others...)
	w.agree()
}

// welcome has those who were added join.
func (w *world) welcome(b *bundle, others ...string) {
	w.t.Helper()
	for _, name := range others {
		if got := w.as(name).must("processWelcome", "welcome", b.Welcome).Conversation; string(got) != string(w.group) {
			w.t.Fatalf("%v: welcome to %q", w.as(name), got)
		}
	}
	w.comes(others...)
}

// comes puts names on the list of members, and each in the first blank leaf.
func (w *world) comes(names ...string) {
	for _, name := range names {
		w.in = append(w.in, name)
		if blank := indexOf(w.leaves, ""); blank >= 0 {
			w.leaves[blank] = name
		} else {
			w.leaves = append(w.leaves, name)
		}
	}
}

// remove has a member remove others, who hear of it.
func (w *world) remove(by string, others ...string) {
	w.t.Helper()
	b := w.commit(by, "removeMembers", "clientIds", w.ids(others))
	w.gone(others...)
	w.spread(by, b)
	for _, name := range others {
		w.as(name).leaves(b.Commit)
	}
	w.agree()
}

// gone takes names off the list of members.
func (w *world) gone(names ...string) {
	w.in = slices.DeleteFunc(w.in, func(name string) bool { return slices.Contains(names, name) })
	for i, name := range w.leaves {
		if slices.Contains(names, name) {
			w.leaves[i] = ""
		}
	}
	for len(w.leaves) > 0 && w.leaves[len(w.leaves)-1] == "" {
		w.leaves = w.leaves[:len(w.leaves)-1]
	}
}

// leaves reads the commit that removes us.
func (a *actor) leaves(commit []byte) {
	a.w.t.Helper()
	if m := read[message](a.w.t, a.must("decrypt", "message", commit).Message); m.Type != "Commit" || m.IsActive {
		a.w.t.Fatalf("%v: a commit that removes us was %+v", a, m)
	}
	if a.must("exists").Exists { // Core Crypto may leave that to us
		a.must("wipe")
	}
	if a.must("exists").Exists {
		a.w.t.Fatalf("%v: is still in the conversation", a)
	}
}

func (w *world) ids(names []string) (ids []string) {
	w.t.Helper()
	for _, name := range names {
		ids = append(ids, w.as(name).id)
	}
	return ids
}

func (w *world) update(by string) {
	w.t.Helper()
	w.spread(by, w.commit(by, "updateKeys"))
	w.agree()
}

// join has somebody join by external commit, or join again.
func (w *world) join(name string) {
	w.t.Helper()
	info := w.info
	if len(w.in)%2 == 0 {
		info = info[4:] // without the header of an MLSMessage
	}
	b := w.commit(name, "joinByExternalCommit", "groupInfo", info)
	w.gone(name)
	w.spread(name, b)
	w.comes(name)
	w.agree()
}

// encrypt makes a message.
func (w *world) encrypt(from, text string) []byte {
	w.t.Helper()
	return read[[]byte](w.t, w.as(from).must("encrypt", "plaintext", []byte(text)).Message)
}

// reads decrypts a message, which must be this text.
func (a *actor) reads(m []byte, from, text string) {
	a.w.t.Helper()
	a.w.isText(a, read[message](a.w.t, a.must("decrypt", "message", m).Message), from, text)
}

func (w *world) isText(a *actor, m message, from, text string) {
	w.t.Helper()
	if m.Type != "Text" || string(m.Plaintext) != text || m.Sender.Text != w.as(from).id || m.Identity.ClientID != m.Sender.Text {
		w.t.Fatalf("%v: %q from %v was %+v", a, text, w.as(from), m)
	}
}

// say has a message read by all other members.
func (w *world) say(from, text string) {
	w.t.Helper()
	m := w.encrypt(from, text)
	for _, name := range w.in {
		if name != from {
			w.as(name).reads(m, from, text)
		}
	}
}

// talk has everybody say something.
func (w *world) talk() {
	w.t.Helper()
	for _, name := range w.in {
		w.say(name, "this is "+name)
	}
}

// identities are those of members, if they can be told.
func (a *actor) identities(ids []string) []identity {
	a.w.t.Helper()
	if a.w.shared {
		return nil
	}
	return a.must("identities", "clientIds", ids).Identities
}

// agree checks that the members agree: in epoch, secret, members and their keys. It
// returns the epoch.
func (w *world) agree() uint64 {
	w.t.Helper()
	ids := w.ids(w.in)
	slices.Sort(ids)
	views := map[string]string{}
	var epoch uint64
	for _, name := range w.in {
		a := w.as(name)
		epoch = a.must("epoch").Epoch
		var members, prints []string
		for _, m := range a.must("members").Members {
			members = append(members, m.Text)
		}
		for _, i := range a.identities(ids) {
			if i.Status != "Valid" || i.CredentialType != "Basic" {
				w.t.Fatalf("%v: identity %+v", a, i)
			}
			prints = append(prints, i.ClientID+"="+i.Thumbprint)
		}
		slices.Sort(members)
		slices.Sort(prints)
		if !slices.Equal(members, ids) {
			w.t.Fatalf("%v: members %q, not %q", a, members, ids)
		}
		views[name] = fmt.Sprintf("epoch %d, secret %x, suite %d, %s", epoch, a.must("exportSecret", "length", 20).Secret,
			a.must("ciphersuite").Ciphersuite, strings.Join(prints, " "))
	}
	if all := slices.Compact(slices.Sorted(maps.Values(views))); len(all) != 1 {
		for name, view := range views {
			w.t.Logf("%v: %s", w.as(name), view)
		}
		w.t.Fatal("the members do not agree")
	}
	return epoch
}
