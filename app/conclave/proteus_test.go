// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// writeFiles makes a folder with files.
func writeFiles(folder string, files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(folder, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// writeCryptobox makes the folder of a cryptobox with a session, a prekey and that of last
// resort. secrets are what must not be shown of it.
func writeCryptobox(t *testing.T, folder string) (secrets [][]byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	seed := byte(0)
	draw := func() *strings.Reader {
		seed++
		s := strings.Repeat(string(rune('A'+seed)), 32)
		secrets = append(secrets, []byte(s))
		return strings.NewReader(s)
	}
	identity, err := proteus.GenerateIdentity(draw())
	must(err)
	carol, err := proteus.GenerateIdentity(nil)
	must(err)
	hers, err := proteus.GeneratePreKey(nil, 1)
	must(err)
	session, err := proteus.SessionFromPreKey(&proteus.Env{Identity: identity}, hers.Bundle(carol))
	must(err)
	stored, err := session.Marshal(t.Context(), nil)
	must(err)
	files := map[string][]byte{"identities/local_identity": identity.Marshal(), "sessions/carol": stored}
	for _, id := range []uint16{7, proteus.LastResortPreKeyID} {
		k, err := proteus.GeneratePreKey(draw(), id)
		must(err)
		files[fmt.Sprint("prekeys/", id)] = k.Marshal()
	}
	must(writeFiles(folder, files))
	return secrets
}

// What earlier clients have really stored.
func TestCryptoboxScripts(t *testing.T) {
	file, err := os.ReadFile(coretest.Shared(t, "vectors", "proteus", "stores.json"))
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		Stores []struct {
			Name       string
			IndexedDB  json.RawMessage
			Serialised json.RawMessage `json:"serialised_cryptobox"`
			Files      map[string][]byte
			After      []struct {
				Session            string
				Message, Plaintext []byte
			}
		}
	}
	if err := json.Unmarshal(file, &recorded); err != nil {
		t.Fatal(err)
	}
	// box NAME PATH writes a store, a folder or a file as it is; beside it, as PATH-0 and so
	// on, the messages that can be read then, and as PATH-0.text what is in them. box -exported
	// writes the form that a browser's cryptobox exports itself.
	box := func(ts *testscript.TestScript, _ bool, args []string) {
		exported := args[0] == "-exported"
		if exported {
			args = args[1:]
		}
		for _, store := range recorded.Stores {
			if store.Name != args[0] {
				continue
			}
			path := ts.MkAbs(args[1])
			for i, a := range store.After {
				ts.Check(writeFiles(filepath.Dir(path), map[string][]byte{
					fmt.Sprintf("%s-%d", filepath.Base(path), i):      []byte(base64.StdEncoding.EncodeToString(a.Message)),
					fmt.Sprintf("%s-%d.text", filepath.Base(path), i): a.Plaintext,
				}))
			}
			switch {
			case store.Files != nil:
				ts.Check(writeFiles(path, store.Files))
			case exported:
				ts.Check(os.WriteFile(path, store.Serialised, 0o600))
			default:
				ts.Check(os.WriteFile(path, store.IndexedDB, 0o600))
			}
			return
		}
		ts.Fatalf("no store %q", args[0])
	}
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/cryptobox",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"box": box},
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}

// Nothing that a command prints, in words, as JSON or in the log, has a secret key in it,
// also where it complains of the record.
func TestProteusKeepsSecrets(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	secrets := writeCryptobox(t, at("box"))
	for _, name := range []string{"identities/local_identity", "prekeys/7", "sessions/carol"} {
		whole, err := os.ReadFile(at("box/" + name))
		if err != nil {
			t.Fatal(err)
		}
		// A text where there should be a number, a record that is cut, one with a byte too much.
		for _, damaged := range []map[string][]byte{
			{name: whole[1:]}, {name: whole[:len(whole)-1]}, {name: append(whole[:len(whole):len(whole)], 0)}, {"prekeys/" + string(secrets[0]): nil},
		} {
			broken := at("broken")
			if err := errors.Join(os.RemoveAll(broken), os.CopyFS(broken, os.DirFS(at("box"))), writeFiles(broken, damaged)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.RemoveAll(at("home")), os.RemoveAll(at("home2"))); err != nil {
				t.Fatal(err)
			}
			var all strings.Builder
			for _, args := range [][]string{
				{"--home", at("home"), "-vv", "proteus", "migrate", broken},
				{"--home", at("home2"), "--json", "proteus", "migrate", broken},
				{"--home", at("home2"), "--json", "proteus", "migrate", at("box")},
				{"--home", at("home2"), "-vv", "proteus", "prekeys", "2"},
				{"--home", at("home2"), "-vv", "proteus", "sessions"},
				{"--home", at("home2"), "-vv", "proteus", "encrypt", "carol"},
			} {
				out, stderr, _ := output(t, args...)
				all.WriteString(out + stderr)
			}
			for _, secret := range secrets {
				if _, named := damaged["prekeys/"+string(secret)]; named {
					continue // the name of a file is shown
				}
				for _, form := range []string{string(secret), hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret)[:36], fmt.Sprint(secret)} {
					if strings.Contains(all.String(), form) {
						t.Errorf("%s: %q is in\n%s", name, form, all.String())
					}
				}
			}
		}
	}
}

// What a peer wrote does not reach a terminal as it is.
func TestProteusPlaintext(t *testing.T) {
	t.Parallel()
	const hostile = "two\nlines\x1b]0;owned\a\n"
	for _, c := range []struct {
		terminal bool
		want     string
	}{{false, hostile}, {true, "two\nlines\ufffd]0;owned\ufffd\n"}} {
		var out strings.Builder
		p := &program{out: &out}
		if err := p.printPlaintext("bob", []byte(hostile), sessionOpened{}, c.terminal); err != nil || out.String() != c.want {
			t.Errorf("%q, %v, want %q", out.String(), err, c.want)
		}
	}
}

func TestFreePreKeys(t *testing.T) {
	t.Parallel()
	const last = proteus.LastResortPreKeyID
	for _, c := range []struct {
		taken  []uint16
		n      int
		first  uint16
		chosen bool
		want   string
		err    error
	}{
		{taken: nil, n: 2, want: "1, 2"},
		{taken: []uint16{0, 1, 3, last}, n: 3, want: "2, 4, 5"},
		{taken: []uint16{1}, n: 2, first: 0, chosen: true, err: client.ErrPreKeyExists},
		{taken: []uint16{2}, n: 2, first: 0, chosen: true, want: "0, 1"},
		{taken: []uint16{last}, n: 1, first: last - 1, chosen: true, want: "65534"},
		{taken: []uint16{last}, n: 2, first: last - 1, chosen: true, err: client.ErrNoFreePreKey},
		{taken: []uint16{9}, n: last - 2, want: "1 to 8, 10 to 65534"},
		{taken: []uint16{9}, n: last - 1, err: client.ErrNoFreePreKey},
	} {
		ids, err := freePreKeys(c.taken, c.n, c.first, c.chosen)
		if got := ranges(ids); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
}

// What is said of conversations otherwise.
func TestProteusTrouble(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		hint string
	}{
		{nil, ""},
		{client.ErrRecovering, "open it again by another prekey"},
		{core.ErrDamaged, "conclave proteus sessions shows which"},
		{core.ErrUnknownOutcome, "no key is used twice"},
		{hint(core.ErrDamaged, "its own"), "its own"},
		{core.ErrRolledBack, "run conclave recover"},
	} {
		if got := hintOf(proteusTrouble(c.err)); !strings.Contains(got, c.hint) || c.hint == "" && got != "" {
			t.Errorf("%v: %q", c.err, got)
		}
	}
}

func TestProteusInput(t *testing.T) {
	t.Parallel()
	p := &program{in: io.LimitReader(zeros{}, maxInput+1)}
	if _, err := p.read("", "the message"); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("too much: %v", err)
	}
	p.in = strings.NewReader("as it is\n")
	if data, err := p.read("", "the message"); string(data) != "as it is\n" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// A bundle that is signed has a signature that holds.
func TestSignedPreKeyFingerprint(t *testing.T) {
	t.Parallel()
	identity, err := proteus.GenerateIdentity(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := proteus.GeneratePreKey(nil, 3)
	if err != nil {
		t.Fatal(err)
	}
	b := k.SignedBundle(identity)
	show := func() (out, stderr string, code int) {
		return output(t, "--json", "proteus", "fingerprint", "--prekey", base64.StdEncoding.EncodeToString(b.Marshal()))
	}
	if out, stderr, code := show(); code != 0 || !strings.Contains(out, `"prekey":3,"signed":true`) {
		t.Errorf("%s%s", out, stderr)
	}
	b.Signature[0] ^= 1
	if out, stderr, code := show(); code != 1 || out != "" || !strings.Contains(stderr, `"code":407`) {
		t.Errorf("%s%s", out, stderr)
	}
}

// homeWith is a home with sessions by the prekeys of others.
func homeWith(t *testing.T, sessions ...string) *program {
	t.Helper()
	home := filepath.Join(t.TempDir(), "home")
	if out, stderr, code := output(t, "--home", home, "proteus", "init"); code != 0 {
		t.Fatal(out, stderr)
	}
	for _, name := range sessions {
		openIn(t, home, name)
	}
	return &program{home: home, out: io.Discard, err: io.Discard}
}

func openIn(t *testing.T, home, name string) {
	t.Helper()
	identity, err := proteus.GenerateIdentity(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := proteus.GeneratePreKey(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	bundle := base64.StdEncoding.EncodeToString(k.Bundle(identity).Marshal())
	if out, stderr, code := output(t, "--home", home, "proteus", "encrypt", name, "--replace", "--prekey", bundle); code != 0 {
		t.Fatal(out, stderr)
	}
}

// A session that goes while the others are listed is no error.
func TestProteusSessionsMeanwhile(t *testing.T) {
	t.Parallel()
	p := homeWith(t, "first")
	err := p.withSessions(t.Context(), func(ctx context.Context, c *client.Client) error {
		identity, err := proteus.GenerateIdentity(nil)
		if err != nil {
			return err
		}
		k, err := proteus.GeneratePreKey(nil, 1)
		if err != nil {
			return err
		}
		err = inProteus(ctx, c, func(ctx context.Context, x client.Proteus) error {
			for i := range 60 {
				if err := x.SessionFromPreKey(ctx, fmt.Sprint(i), k.Bundle(identity).Marshal()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		n := 0
		err = eachSession(ctx, c, func(line sessionLine) error {
			if n++; line.Session == "59" || line.State != sessionOpen {
				t.Errorf("%+v", line)
			}
			return inProteus(ctx, c, func(ctx context.Context, x client.Proteus) error { return x.Delete(ctx, "59") })
		})
		if n != 60 {
			t.Errorf("%d sessions", n)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// One damaged session hides no other, doctor finds it, and it can be replaced and deleted.
func TestProteusDamagedSession(t *testing.T) {
	t.Parallel()
	home := homeWith(t, "bob").home
	records := func(change ...core.Put) (all map[string]core.Put) {
		t.Helper()
		ks, err := sqlite.Open(t.Context(), filepath.Join(home, "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		all = map[string]core.Put{}
		for table := core.Table(1); table < 64; table++ { // 0 is of the store itself
			answers, err := ks.Read(t.Context(), []core.Query{{Table: table}})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range answers[0] {
				all[fmt.Sprintf("%d %x", table, r.Key)] = core.Put{Table: table, Key: r.Key, Value: r.Value, Version: r.Version}
			}
		}
		if err := errors.Join(ks.Apply(t.Context(), core.Batch{Puts: change}), ks.Close()); err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := records()
	openIn(t, home, "carol")
	found := 0
	for name, put := range records() {
		if _, old := before[name]; old {
			continue
		}
		whole := put.Value
		put.Value = append(whole[:len(whole)-1:len(whole)-1], whole[len(whole)-1]^1)
		records(put)
		out, stderr, code := output(t, "--home", home, "--json", "proteus", "sessions")
		if code == 0 {
			found++
			if !strings.Contains(out, `{"session":"carol","state":"damaged"}`) || !strings.Contains(out, `"session":"bob","remote":"`) {
				t.Error(out)
			}
			if out, _, code := output(t, "--home", home, "doctor"); code == 0 || !strings.Contains(out, "fail  proteus       1 of 2 sessions are damaged: carol\n") {
				t.Errorf("doctor, %d: %s", code, out)
			}
			_, stderr, _ := output(t, "--home", home, "proteus", "encrypt", "carol")
			if !strings.Contains(stderr, "proteus sessions shows which session it is") {
				t.Error(stderr)
			}
			if out, stderr, code := output(t, "--home", home, "proteus", "sessions", "--delete", "carol"); code != 0 {
				t.Error(out, stderr)
			}
			openIn(t, home, "carol")
			if out, stderr, code := output(t, "--home", home, "proteus", "encrypt", "carol"); code != 0 {
				t.Error(out, stderr)
			}
			break // the other records are not the same any more
		}
		if !strings.Contains(stderr, "damaged") { // the list itself
			t.Error(stderr)
		}
		put.Value = whole
		records(put)
	}
	if found == 0 {
		t.Error("no session was damaged")
	}
}
