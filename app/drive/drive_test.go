// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/drive"
	"github.com/conclave-mls/conclave/core"
)

func Example() {
	requests := strings.NewReader(`{"id":1,"cmd":"init","inst":"alice"}
{"id":2,"cmd":"createConversation","inst":"alice","conversation":"dGVh"}
{"id":3,"cmd":"updateKeys","inst":"alice","conversation":"dGVh","transport":{"kind":"reject","reason":"not today"}}
{"id":4,"cmd":"updateKeys","inst":"alice","conversation":"dGVh"}
{"id":5,"cmd":"epoch","inst":"alice","conversation":"dGVh"}
`)
	var replies bytes.Buffer
	if err := drive.Serve(context.Background(), requests, &replies, drive.Options{Config: parts()}); err != nil {
		fmt.Println(err)
	}
	for line := range strings.Lines(replies.String()) {
		var r struct {
			Ready, OK bool
			ID        int
			Error     struct{ Kind string }
			Result    struct{ Epoch int }
		}
		_ = json.Unmarshal([]byte(line), &r)
		if !r.Ready {
			fmt.Println(r.ID, r.OK, r.Error.Kind, r.Result.Epoch)
		}
	}
	// Output:
	// 1 true  0
	// 2 true  0
	// 3 false Mls.MessageRejected 0
	// 4 true  0
	// 5 true  1
}

// serve answers lines and returns the replies, without the first line.
func serve(t *testing.T, o drive.Options, lines ...string) (replies []map[string]any) {
	t.Helper()
	var out bytes.Buffer
	if err := drive.Serve(t.Context(), strings.NewReader(strings.Join(lines, "\n")), &out, o); err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(&out)
	for {
		var r map[string]any
		if err := d.Decode(&r); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, r)
	}
	if len(replies) == 0 || replies[0]["ready"] != true {
		t.Fatalf("replies %v", replies)
	}
	return replies[1:]
}

// Whatever a line is, it gets one reply, and the next one is answered.
func TestLines(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		line string
		id   any
		kind string // empty: no error
	}{
		{`{"id":7,"cmd":"version"}`, 7.0, ""},
		{`{"id":"text","cmd":"version"}`, "text", ""},
		{`{"id":{"a":[1]},"cmd":"version"}`, map[string]any{"a": []any{1.0}}, ""},
		{`{"cmd":"version"}`, nil, ""},
		{`{"id":1,"cmd":"version","what is this":{}}`, 1.0, ""},
		{` {"id":1,"cmd":"version"} ` + "\r", 1.0, ""},
		{`{"id":1}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"vers`, nil, "BadRequest"},
		{`version`, nil, "BadRequest"},
		{`[]`, nil, "BadRequest"},
		{`null`, nil, "BadRequest"},
		{"\x00\xff", nil, "BadRequest"},
		{`{"id":1,"cmd":"version"}{"id":2,"cmd":"version"}`, nil, "BadRequest"},
		{`{"id":1,"cmd":5}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"proteusInit"}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"init","ciphersuites":[]}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"init","ciphersuites":[65536]}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"init","clientId":"alice"}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"init","dbKey":"AAAA"}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"init","ciphersuites":[9]}`, 1.0, "Mls.Other"},
		{`{"id":1,"cmd":"epoch","conversation":"AAAA"}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"log","level":"loud"}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"version","transport":{"kind":"pigeon"}}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"version","transport":{"kind":"crash"}}`, 1.0, "BadRequest"},
		{`{"id":1,"cmd":"version","conversation":"not base64"}`, 1.0, "BadRequest"},
		{strings.Repeat(" ", drive.MaxRequest+1), nil, "BadRequest"},
		{`{"id":1,"data":"` + strings.Repeat("A", drive.MaxRequest) + `"}`, nil, "BadRequest"},
		{`{"id":1,"cmd":"version","data":"` + strings.Repeat("A", drive.MaxRequest-1000) + `"}`, 1.0, ""},
	} {
		shown := test.line[:min(len(test.line), 80)]
		replies := serve(t, drive.Options{Config: parts()}, "", test.line, "  ", `{"id":"next","cmd":"version"}`)
		if len(replies) != 2 || replies[1]["id"] != "next" || replies[1]["ok"] != true {
			t.Errorf("%q: replies %.300v", shown, replies)
			continue
		}
		kind := ""
		if e, ok := replies[0]["error"].(map[string]any); ok {
			kind = e["kind"].(string)
		} else if took, ok := replies[0]["us"].(float64); !ok || took <= 0 {
			t.Errorf("%q: no time in %v", shown, replies[0])
		}
		if fmt.Sprint(replies[0]["id"]) != fmt.Sprint(test.id) || kind != test.kind || replies[0]["ok"] != (kind == "") {
			t.Errorf("%q: %v", shown, replies[0])
		}
	}
}

// A script that goes away, or an end of the context, is an end.
func TestEnd(t *testing.T) {
	t.Parallel()
	if err := drive.Serve(t.Context(), strings.NewReader(`{"cmd":"version"}`), broken{}, drive.Options{Config: parts()}); err == nil {
		t.Error("replies that nobody reads are no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	in, requests := io.Pipe()
	defer requests.Close()
	ended := make(chan error)
	go func() { ended <- drive.Serve(ctx, in, io.Discard, drive.Options{Config: parts()}) }()
	if _, err := requests.Write([]byte(`{"cmd":"init"}` + "\n")); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it goes on after the context has ended")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// solo is an actor of ours, on disk.
func solo(t *testing.T) *actor {
	w := newWorld(t, 1, func(int) *driver { return ourProcess(t) })
	w.folder = t.TempDir()
	return w.as("alice")
}

// Commands beside those of groups.
func TestInstanceCommands(t *testing.T) {
	t.Parallel()
	a := solo(t)
	if got := a.must("getData").Data; got != nil {
		t.Errorf("data %q", got)
	}
	a.must("setData", "data", []byte("x"))
	if got := a.must("random", "n", 40).Bytes; len(got) != 40 || bytes.Equal(got, a.must("random", "n", 40).Bytes) {
		t.Errorf("random %x", got)
	}
	a.fails("BadRequest", "random", "n", -1)
	a.fails("BadRequest", "random", "n", 1<<30)
	a.fails("BadRequest", "random")

	// Credentials: suites 1 and 3 share theirs.
	hash := a.must("addCredential", "ciphersuite", 3).PublicKeyHash
	list := a.must("credentials").Credentials
	if len(list) != 4 || list[1].Ciphersuite != 1 || list[3].Ciphersuite != 3 ||
		!bytes.Equal(list[1].PublicKeyHash, hash) || !bytes.Equal(list[3].PublicKeyHash, hash) ||
		list[0].Type != "Basic" || list[0].ClientID.Text != a.id {
		t.Errorf("credentials %+v", list)
	}
	a.fails("Mls.Other", "addCredential", "ciphersuite", 9)

	// Key packages: bare, and listed.
	made := a.must("keypackages", "n", 2, "lifetime", 3600)
	parsed := a.must("parseKeyPackage", "keyPackage", made.KeyPackages[0])
	refs := read[[][]byte](t, made.Refs)
	if !bytes.Equal(parsed.KeyPackage, made.KeyPackages[0]) || !bytes.Equal(parsed.HashRef, refs[0]) || parsed.Ciphersuite != 1 || !parsed.Valid {
		t.Errorf("key package %+v", parsed)
	}
	kept := read[[]struct {
		HashRef     []byte
		Ciphersuite int
		Valid       bool
	}](t, a.must("keypackageRefs").Refs)
	if len(kept) != 2 || !bytes.Equal(kept[1].HashRef, refs[1]) || kept[0].Ciphersuite != 1 || !kept[0].Valid {
		t.Errorf("kept key packages %+v", kept)
	}
	spoilt := slices.Clone(made.KeyPackages[0])
	spoilt[len(spoilt)-1] ^= 1
	if a.must("parseKeyPackage", "keyPackage", spoilt).Valid {
		t.Error("a key package with a wrong signature is valid")
	}
	a.fails("BadRequest", "keypackages", "lifetime", 0)
	a.fails("BadRequest", "keypackages", "n", 1001)
	a.fails("Mls.Other", "keypackages", "ciphersuite", 2)

	// Events come once.
	a.must("createConversation")
	a.must("updateKeys")
	events := a.must("events").Events
	if len(events) != 2 || events[1].Event != "epochChanged" || events[1].Epoch != 1 || string(events[1].Conversation) != string(a.w.group) {
		t.Errorf("events %+v", events)
	}
	if again := a.must("events").Events; len(again) != 0 {
		t.Errorf("events again %+v", again)
	}
	if got := a.must("exportSecret").Secret; len(got) != 32 {
		t.Errorf("secret of %d bytes", len(got))
	}
	a.fails("Mls.Other", "exportSecret", "length", 1<<20)
	a.must("log", "level", "Info")
	a.must("wipe")
	if a.must("exists").Exists {
		t.Error("wiped, and still there")
	}

	// The database: its size, its owner, its key.
	line, err := a.line([]byte(fmt.Sprintf(`{"cmd":"dbSize","inst":%q}`, a.inst)))
	var size struct{ Result map[string]int64 }
	if err == nil {
		err = json.Unmarshal(line, &size)
	}
	if err != nil || size.Result["db"] == 0 {
		t.Errorf("sizes %v, %v", size.Result, err)
	}
	a.must("close")
	a.fails("BadRequest", "close")
	other := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	if f := a.fails("Other", "init", "db", a.db, "dbKey", other); f.Detail["name"] != "WrongKey" {
		t.Errorf("another key: %v", f)
	}
	a.fails("BadRequest", "init", "db", a.db, "clientId", "00000000-0000-4000-8000-000000000000:1@elsewhere.example")
	if got := a.must("init", "db", a.db, "ciphersuites", []int{1, 2}).ClientID.Text; got != a.id {
		t.Errorf("the database is of %s", got)
	}
	a.must("keypackages", "ciphersuite", 2)
	if got := a.must("getData").Data; string(got) != "x" {
		t.Errorf("data %q", got)
	}
	a.fails("BadRequest", "updateDatabaseKey", "dbKey", []byte("short"))
	a.fails("BadRequest", "updateDatabaseKey")
	third := bytes.Repeat([]byte{8}, 32)
	a.must("updateDatabaseKey", "dbKey", other)
	a.must("updateDatabaseKey", "dbKey", third)
	a.must("setData", "data", []byte("y"))
	a.must("close")
	a.fails("Other", "init", "db", a.db)
	a.fails("Other", "init", "db", a.db, "dbKey", other)
	a.must("init", "db", a.db, "dbKey", third)
	if got := a.must("getData").Data; string(got) != "y" {
		t.Errorf("data %q", got)
	}
}

// Who never asks for events does not fill the memory with them.
func TestManyEvents(t *testing.T) {
	t.Parallel()
	d := inProcess(t)
	a := newWorld(t, 1, func(int) *driver { return d }).as("alice")
	for n := range 1001 {
		a.must("createConversation", "conversation", fmt.Append(nil, n))
	}
	if events := a.must("events").Events; len(events) != 1000 || string(events[999].Conversation) != "1000" {
		t.Errorf("%d events", len(events))
	}
}

// What came for the epoch of a commit of ours whose answer was lost is in the reply to
// the next commit.
func TestReplayedByCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(int) *driver { return ourProcess(t) })
	w.folder = t.TempDir()
	w.create("alice")
	w.add("alice", "bob")
	b := w.crashes("bob", "updateKeys")
	w.as("alice").takes(b.Commit)
	m := w.encrypt("alice", "hello")
	bob := w.reopen("bob")
	bob.fails("Mls.BufferedFutureMessage", "decrypt", "message", m)
	again := bob.must("updateKeys")
	if len(again.BufferedMessages) != 1 {
		t.Fatalf("read with the commit: %+v", again.BufferedMessages)
	}
	w.isText(bob, again.BufferedMessages[0], "alice", "hello")
	w.as("alice").takes(again.Bundle.Commit)
	w.agree()
}

// A message that is kept for later is kept although the reply is an error, unless a
// rollback is asked for.
func TestKeptMessages(t *testing.T) {
	t.Parallel()
	d := inProcess(t)
	w := newWorld(t, 1, func(int) *driver { return d })
	w.create("alice")
	w.add("alice", "bob")
	first, second := w.commit("alice", "updateKeys"), w.commit("alice", "updateKeys")
	bob := w.as("bob")
	bob.fails("Mls.BufferedFutureMessage", "decrypt", "message", second.Commit, "rollback", true)
	early := w.commit("alice", "updateKeys")
	bob.fails("Mls.WrongEpoch", "decrypt", "message", early.Commit)
	if m := bob.takes(first.Commit); len(m.BufferedMessages) != 0 {
		t.Errorf("rolled back, and kept: %+v", m)
	}
	bob.fails("Mls.BufferedFutureMessage", "decrypt", "message", early.Commit)
	if m := bob.takes(second.Commit); len(m.BufferedMessages) != 1 || m.BufferedMessages[0].Type != "Commit" {
		t.Errorf("kept: %+v", m)
	}
	w.agree()

	// What waits for our own commit is in the reply to it.
	b := w.commit("alice", "updateKeys")
	bob.takes(b.Commit)
	own := bob.must("updateKeys")
	w.as("alice").takes(own.Bundle.Commit)
	w.agree()
}

// A commit that was submitted before a crash and is refused afterwards is not given up:
// the service may have accepted it the first time.
func TestRefusedAfterCrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(int) *driver { return ourProcess(t) })
	w.folder = t.TempDir()
	w.create("alice")
	w.add("alice", "bob")
	b := w.crashes("bob", "updateKeys")
	bob := w.reopen("bob")
	f := bob.fails("Mls.Other", "updateKeys", "transport", args{"kind": "reject", "reason": "seen before"})
	if f.Detail["name"] != "PendingUnresolved" || len(f.Bundles) != 1 || !bytes.Equal(f.Bundles[0].Commit, b.Commit) {
		t.Errorf("refused after a crash: %v, %d bundles", f, len(f.Bundles))
	}
	w.as("alice").takes(b.Commit)
	w.learns("bob", b)
	w.talk()
}

// A store that fails at the end of a transaction is told from a command that fails.
func TestFailedStore(t *testing.T) {
	t.Parallel()
	var fails, soon atomic.Bool
	d := inProcess(t, fx.Decorate(func(ks core.Keystore) core.Keystore { return failing{ks, &fails, &soon} }))
	w := newWorld(t, 1, func(int) *driver { return d })
	w.create("alice")
	w.add("alice", "bob")
	a := w.as("alice")
	m := w.encrypt("bob", "hello")
	fails.Store(true)
	if f := a.fails("Other", "setData", "data", []byte("x")); !f.DuringCommit || f.Detail["name"] != "Unavailable" {
		t.Errorf("the store fails: %+v", f)
	}
	if f := a.fails("Other", "removeMembers", "clientIds", []string{a.id}); f.DuringCommit {
		t.Errorf("the command fails: %+v", f)
	}
	// Messages are not to blame: none of them is lost.
	a.fails("Other", "decryptMany", "messages", [][]byte{[]byte("garbage"), m})
	a.fails("Other", "decrypt", "message", m)
	fails.Store(false)
	a.must("setData", "data", []byte("x"))
	got := read[[]message](t, a.must("decryptMany", "messages", [][]byte{[]byte("garbage"), m}).Messages)
	if len(got) != 2 || got[0].Error == nil || got[0].Error.Kind != "Mls.Other" || string(got[1].Plaintext) != "hello" {
		t.Errorf("messages: %+v", got)
	}

	// What is durable is told, although nothing can be looked up any more.
	a.takes(w.commit("bob", "updateKeys").Commit)
	m = w.encrypt("bob", "hello again")
	soon.Store(true)
	a.reads(m, "bob", "hello again")
	a.fails("Other", "setData", "data", []byte("x"))
}

// failing is a keystore that does nothing for a while, or after its next write.
type failing struct {
	core.Keystore
	fails, soon *atomic.Bool
}

func (f failing) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	if f.fails.Load() {
		return nil, core.ErrUnavailable
	}
	return f.Keystore.Read(ctx, queries)
}

func (f failing) Apply(ctx context.Context, b core.Batch) error {
	if f.fails.Load() {
		return core.ErrUnavailable
	}
	defer func() { f.fails.Store(f.soon.Load()) }()
	return f.Keystore.Apply(ctx, b)
}

// Clients without a database of their own live in the keystore of the options, each by
// its name.
func TestSharedKeystore(t *testing.T) {
	t.Parallel()
	o := drive.Options{Config: parts()}
	o.Config.Keystore = "sqlite:" + filepath.ToSlash(filepath.Join(t.TempDir(), "clients.db"))
	init := func(inst string) string { return fmt.Sprintf(`{"cmd":"init","inst":%q}`, inst) }
	var ids []any
	for range 2 {
		for _, r := range serve(t, o, init("alice"), init("bob")) {
			if r["ok"] != true {
				t.Fatal(r)
			}
			ids = append(ids, r["result"].(map[string]any)["clientId"].(map[string]any)["text"])
		}
	}
	if ids[0] == ids[1] || ids[0] != ids[2] || ids[1] != ids[3] {
		t.Errorf("clients %v", ids)
	}
}

// Device ids with leading zeros: Core Crypto leaves them out of the identity.
func TestDeviceIDs(t *testing.T) {
	t.Parallel()
	replies := serve(t, drive.Options{Config: parts()},
		`{"cmd":"init","clientId":"ABCDEF01-0000-4000-8000-000000000000:Ab@Conclave.example"}`)
	const want = "abcdef01-0000-4000-8000-000000000000:00000000000000ab@Conclave.example"
	id := replies[0]["result"].(map[string]any)["clientId"].(map[string]any)
	if id["text"] != want || id["rawText"] != want {
		t.Errorf("client id %v", id)
	}
}

func TestInteropDeviceIDs(t *testing.T) {
	conclave, core := inProcess(t), coreCrypto(t)
	t.Parallel()
	for _, first := range []*driver{conclave, core} {
		w := newWorld(t, 1, func(role int) *driver {
			if role == 0 {
				return first
			}
			return core
		})
		w.create("alice")
		short := &actor{driver: core, w: w, name: "bob", inst: "bob of " + w.as("alice").inst, id: "00000000-0000-4000-8000-000000000000:00000000000000ab@conclave.example"}
		w.actors["bob"] = short
		short.open()
		w.add("alice", "bob")
		w.talk()
		w.remove("alice", "bob")
	}
}

// A fuzzed script: every line that is not empty has one reply, which is JSON.
func FuzzRequests(f *testing.F) {
	for line := range strings.Lines(drive.Table()) {
		name, _, _ := strings.Cut(line, " ")
		f.Add([]byte(fmt.Sprintf(`{"id":1,"cmd":%q,"conversation":"dGVh","n":1,"keyPackages":["AAEAAQ=="],"clientIds":["x"],"message":"AAEAAQ=="}`, strings.TrimSpace(name))))
	}
	f.Add([]byte(`{"cmd":"init","dbKey":"AA==","transport":{"kind":"crash"}}`))
	f.Add([]byte("{}\n\n[]\n\"\""))
	f.Fuzz(func(t *testing.T, script []byte) {
		lines := bytes.Split(script, []byte("\n"))
		for _, line := range lines {
			var r struct{ DB string }
			if _ = json.Unmarshal(line, &r); r.DB != "" {
				t.Skip("a path of the fuzzer's choice")
			}
		}
		begin := `{"cmd":"init"}` + "\n" + `{"cmd":"createConversation","conversation":"dGVh"}` + "\n"
		var out bytes.Buffer
		err := drive.Serve(t.Context(), io.MultiReader(strings.NewReader(begin), bytes.NewReader(script)), &out, drive.Options{Config: parts()})
		if err != nil {
			t.Fatal(err)
		}
		want := 3
		for _, line := range lines {
			if len(bytes.TrimSpace(line)) > 0 {
				want++
			}
		}
		replies := bytes.Split(bytes.TrimSuffix(out.Bytes(), []byte("\n")), []byte("\n"))
		if len(replies) != want {
			t.Fatalf("%d replies, not %d:\n%s", len(replies), want, out.Bytes())
		}
		for _, r := range replies {
			if !json.Valid(r) {
				t.Fatalf("reply %q", r)
			}
		}
	})
}

// The protocol has no commands that its table does not list.
func TestTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(drive.Table()) {
		name, _, _ := strings.Cut(line, " ")
		name = strings.TrimSpace(name)
		r := serve(t, drive.Options{Config: parts()}, fmt.Sprintf(`{"cmd":%q}`, name))[0]
		if e, ok := r["error"].(map[string]any); ok && strings.Contains(e["message"].(string), "unknown command") {
			t.Errorf("%s: %v", name, e)
		}
		if !bytes.Contains(text, []byte("| `"+name+"` |")) {
			t.Errorf("%s is not in README.md", name)
		}
	}
}
