// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// What was encrypted in a value that was dropped is never encrypted again, whatever else
// that value has done: turned, opened another state, lost one, or been sent to the end.
func TestBurnt(t *testing.T) {
	t.Parallel()
	alice, bob, toBob, toAlice := talking(t, 30)
	preKey := alice.preKeys[1]
	toAlice, again := sends(t, toAlice, "again")
	_, read := sends(t, bob.reads(t, toAlice, second(sends(t, toBob, "")), ""), "of a new turn")
	_, crossing := sends(t, bob.opens(t, alice, 1), "another state")
	stored := alice.store(t, toBob)
	used := skips(t, stored, 3)
	turned := alice.reads(t, used, read, "of a new turn")
	own := stored.states[0].state.send.pair.public
	for name, dropped := range map[string]*Session{
		"encrypted":                 used,
		"and turned":                turned,
		"and encrypted in the turn": skips(t, turned, 5),
		"and another state":         skips(t, alice.reads(t, turned, crossing, "another state"), 2),
	} {
		floors := stored.Burnt(dropped)
		if !slices.Equal(floors, []Floor{{own, 3}}) {
			t.Fatalf("%s: floors %v", name, floors)
		}
		before := inMemory(stored)
		s := stored.Above(floors)
		if s == stored || !bytes.Equal(before, inMemory(stored)) {
			t.Errorf("%s: the value itself was raised", name)
		}
		_, m := sends(t, s, "after")
		if e, err := parseEnvelope(m); err != nil || e.cipher.counter != 3 || e.cipher.ratchet != own {
			t.Errorf("%s: counter %d, %v", name, e.cipher.counter, err)
		}
		if want := skips(t, stored, 3); !bytes.Equal(inMemory(s), inMemory(want)) {
			t.Errorf("%s: not the session that it would be", name)
		}
		// Lower ones, and those of others, are not needed.
		if s.Above(append(floors, Floor{own, 2}, Floor{own, 3}, Floor{PublicKey{1}, 9}, Floor{own, 1<<32 + 1})) != s {
			t.Errorf("%s: raised again", name)
		}
		// The higher of two counts, in any order.
		for _, floors := range [][]Floor{{{own, 4}, {own, 7}}, {{own, 7}, {own, 4}}} {
			if s := s.Above(floors); s.states[0].state.send.chain.index != 7 {
				t.Errorf("%v: next is %d", floors, s.states[0].state.send.chain.index)
			}
		}
		w := s.Changes(stored)
		if len(w.Puts) != 1 || len(w.Retired) != 1 || !same(w.Retired[0], stored.states[0].state.send.chain.key) {
			t.Errorf("%s: %v, %d retired", name, w.Puts, len(w.Retired))
		}
	}
	// Nothing was encrypted.
	if floors := stored.Burnt(alice.reads(t, stored, read, "of a new turn")); len(floors) > 0 {
		t.Errorf("floors %v", floors)
	}
	if floors := used.Burnt(used); len(floors) > 0 {
		t.Errorf("of itself a value has floors %v", floors)
	}
	if len(used.left) > 0 || len(turned.left) != 1 || len(alice.reads(t, used, again, "again").left) > 0 {
		t.Error("a chain is noted that was not left")
	}
	if floors := used.Burnt(stored); len(floors) > 0 {
		t.Errorf("an older value has floors %v", floors)
	}
	// A state that the dropped value has lost.
	full := *used
	for i := range maxStates - 1 {
		full.states = append(full.states, taggedState{Tag{byte(i)}, uint32(i + 1), stored.states[0].state})
	}
	alice.preKeys[1] = preKey
	lost := alice.reads(t, &full, crossing, "another state")
	if lost.find(stored.current) >= 0 || !slices.Contains(stored.Burnt(lost), Floor{own, 3}) {
		t.Errorf("of a state that was lost the floors are %v", stored.Burnt(lost))
	}
	// The end of a chain.
	state := *stored.states[0].state
	state.send.chain.index = maxIndex - 1
	s := only(stored, &state).Above([]Floor{{own, maxIndex + 1}})
	_, _, err := s.Encrypt(nil)
	refused(t, "a chain that is burnt", err, CodeExhausted)
}

func second[A, B any](_ A, b B) B { return b }

// Retired is what a session held and does not hold any more, no more and no less; wiping it
// leaves the session as good, and a failure nothing behind.
func TestRetired(t *testing.T) {
	t.Parallel()
	alice, bob, toBob, toAlice := talking(t, 31)
	toBob, m0 := sends(t, toBob, "0")
	toBob, m1 := sends(t, toBob, "1")
	toBob, m2 := sends(t, toBob, "2")
	toBob, m3 := sends(t, toBob, "3")
	_, far := sends(t, skips(t, toBob, 40), "far")
	_, opens := sends(t, alice.opens(t, bob, 2), "opens")
	_ = toBob
	decrypt := func(message []byte, text string) func(*Session) *Session {
		return func(s *Session) *Session { return bob.reads(t, s, message, text) }
	}
	encrypt := func(s *Session) *Session { return skips(t, s, 1) }
	for _, step := range []struct {
		name    string
		f       func(*Session) *Session
		retires int
	}{
		{"encrypt", encrypt, 1},
		{"turn", decrypt(m1, "1"), 3}, // root, send chain, ratchet key
		{"in sync", decrypt(m2, "2"), 1},
		{"late", decrypt(m0, "0"), 1},
		{"ahead", decrypt(far, "far"), 1},
		{"late of many", decrypt(m3, "3"), 1},
		{"another state", decrypt(opens, "opens"), 0},
		{"encrypt in it", encrypt, 1},
	} {
		next := step.f(toAlice)
		had, have := map[string]bool{}, map[string]bool{}
		for _, s := range next.secrets(nil) {
			have[string(s.Bytes())] = true
		}
		retired := next.Changes(toAlice).Retired
		for _, s := range retired {
			if had[string(s.Bytes())] = true; have[string(s.Bytes())] {
				t.Errorf("%s: retires what is in use", step.name)
			}
		}
		for _, s := range toAlice.secrets(nil) {
			if !s.IsZero() && !have[string(s.Bytes())] && !had[string(s.Bytes())] {
				t.Errorf("%s: a secret of %d bytes is left over", step.name, s.Len())
			}
		}
		if len(retired) != step.retires {
			t.Errorf("%s: %d retired, want %d", step.name, len(retired), step.retires)
		}
		whole := inMemory(next)
		for _, s := range retired {
			if s.Wipe(); bytes.Count(s.Bytes(), []byte{0}) != s.Len() {
				t.Fatal("not wiped")
			}
		}
		if !bytes.Equal(whole, inMemory(next)) {
			t.Fatalf("%s: the session is damaged", step.name)
		}
		toAlice = next
	}
	_, m := sends(t, toAlice, "works")
	d, err := alice.decrypt(t.Context(), alice.opens(t, bob, LastResortPreKeyID), m)
	if err == nil || CodeOf(err) != CodeNoState {
		t.Fatal(d, err)
	}
}

// A keeper remembers where it has put random bytes, which is where the engine has seeds.
type keeper struct{ seeds [][]byte }

func (k *keeper) Read(p []byte) (int, error) {
	k.seeds = append(k.seeds, p)
	return seeded(uint64(len(k.seeds))).Read(p)
}

func isWiped(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

// A message that is refused leaves no key behind, and wipes none of ours.
func TestWiped(t *testing.T) {
	t.Parallel()
	_, bob, toBob, toAlice := talking(t, 32)
	_, turn := sends(t, toBob, "")
	preKey := bob.preKeys[2]
	seed := bytes.Clone(preKey.pair.seed.Bytes())
	mallory := newDevice(t, seeded(33))
	_, opens := sends(t, mallory.opens(t, bob, 2), "")
	before := inMemory(toAlice)
	for name, read := range map[string]func(env *Env, damage func([]byte) []byte) error{
		"turn": func(env *Env, damage func([]byte) []byte) error {
			_, err := toAlice.Decrypt(t.Context(), env, damage(turn))
			return err
		},
		"open": func(env *Env, damage func([]byte) []byte) error {
			_, err := SessionFromMessage(t.Context(), env, damage(opens))
			return err
		},
	} {
		random := new(keeper)
		env := bob.env()
		env.Random = random
		refused(t, name, read(env, damaged10), CodeBadMACInSync)
		if len(random.seeds) != 1 || !isWiped(random.seeds[0]) {
			t.Errorf("%s, refused: the ratchet key is left", name)
		}
		if err := read(env, bytes.Clone); err != nil || len(random.seeds) != 2 || isWiped(random.seeds[1]) {
			t.Errorf("%s: the ratchet key is wiped, %v", name, err)
		}
		if !bytes.Equal(preKey.pair.seed.Bytes(), seed) || !bytes.Equal(before, inMemory(toAlice)) {
			t.Fatalf("%s: what we have was wiped", name)
		}
	}
	// Who opens keeps the ratchet key, not the base key.
	random := new(keeper)
	s, err := SessionFromPreKey(&Env{Identity: mallory.identity, Random: random}, preKey.Bundle(bob.identity))
	if err != nil || len(random.seeds) != 3 || !isWiped(random.seeds[0]) || isWiped(random.seeds[1]) || isWiped(s.current[:]) {
		t.Errorf("%d seeds, %v", len(random.seeds), err)
	}
	// A session that is refused, or that is not ours, is wiped; the input is not.
	b := marshalled(t, toAlice, nil)
	whole := bytes.Clone(b)
	_, err = UnmarshalSession(mallory.identity.Public(), b)
	refused(t, "of another", err, CodeLocalIdentityChanged)
	if !bytes.Equal(b, whole) {
		t.Error("the input was wiped")
	}
	// What derived the next key, and what has read a message.
	chain := chainKey{core.NewSecret(bytes.Repeat([]byte{1}, 32)), 0}
	old := chain.key
	chain.step()
	keys := chain.messageKeys()
	keys.wipe()
	if !isWiped(old.Bytes()) || isWiped(chain.key.Bytes()) || !isWiped(keys.cipher.Bytes()) || !isWiped(keys.mac.Bytes()) {
		t.Error("a used key is left")
	}
	// Session.Wipe leaves what another value has.
	next, _ := sends(t, toAlice, "")
	toAlice.Wipe(next)
	if !isWiped(toAlice.states[0].state.send.chain.key.Bytes()) || isWiped(next.states[0].state.send.chain.key.Bytes()) || isWiped(next.states[0].state.root.Bytes()) {
		t.Error("a value that is replaced is not wiped, or the next one is")
	}
	next.Wipe(nil)
	for _, s := range next.secrets(nil) {
		if !isWiped(s.Bytes()) {
			t.Error("a session is not wiped")
		}
	}
	preKey.Wipe()
	mallory.identity.Wipe()
	if !isWiped(preKey.pair.seed.Bytes()) || !isWiped(mallory.identity.pair.seed.Bytes()) {
		t.Error("not wiped")
	}
}

func damaged10(message []byte) []byte {
	message = bytes.Clone(message)
	message[10] ^= 1
	return message
}

// looks are all the ways in which eight bytes of a secret can be seen.
func looks(secret []byte) (out []string) {
	for at := 0; at+9 <= len(secret); at += 3 {
		part := secret[at : at+8]
		decimal := strings.Trim(fmt.Sprint(part), "[]")
		out = append(out, string(part), hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)), decimal, strings.ReplaceAll(decimal, " ", ","),
			strings.ReplaceAll(decimal, " ", ", "), strings.Trim(fmt.Sprintf("%#v", part), "[]byte{}"), strings.Trim(fmt.Sprintf("%q", part), `"`),
			fmt.Sprintf("% x", part), base64.RawStdEncoding.EncodeToString(secret[at : at+9])[:11])
	}
	return out
}

// Nothing that this package exports shows a byte of a secret key, however it is printed.
func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	alice, bob, toBob, toAlice := talking(t, 35)
	toBob, _ = sends(t, toBob, "") // passed over
	_, m := sends(t, toBob, "text")
	d, err := toAlice.Decrypt(t.Context(), bob.env(), m)
	if err != nil {
		t.Fatal(err)
	}
	key := bob.preKeys[2]
	bundle := key.SignedBundle(bob.identity)
	w := d.Session.Changes(toAlice)
	_, failure := toAlice.Decrypt(t.Context(), alice.env(), damaged10(m))
	used := uint16(1)
	values := map[string][]any{
		"IdentityKeyPair": {bob.identity, *bob.identity},
		"PreKey":          {key, *key, []*PreKey{key}, []PreKey{*key}},
		"PreKeyBundle":    {bundle, *bundle},
		"Session":         {toBob, *toBob, d.Session, *d.Session, []*Session{d.Session}, struct{ S *Session }{d.Session}, struct{ s Session }{*d.Session}},
		"Decrypted":       {&Decrypted{Session: d.Session, UsedPreKey: &used}, Decrypted{Session: d.Session}},
		"Env":             {bob.env(), *bob.env()},
		"Floor":           {Floor{bundle.Key, 1}},
		"Error":           {failure, *failure.(*Error)},
	}
	var secrets [][]byte
	for _, s := range append(append(d.Session.secrets(nil), toBob.secrets(nil)...), bob.identity.pair.seed, key.pair.seed) {
		secrets = append(secrets, s.Bytes())
	}
	for _, r := range w.Puts {
		if r.Kind == RecordKept {
			secrets = append(secrets, r.Value[1:])
		}
	}
	var all []string
	for _, s := range secrets {
		all = append(all, looks(s)...)
	}
	if len(secrets) < 10 || len(all) < 500 {
		t.Fatalf("%d secrets, %d looks", len(secrets), len(all))
	}
	check := func(name, how, text string) {
		for _, look := range all {
			if strings.Contains(text, look) {
				t.Errorf("%s of a %s shows %q of a secret", how, name, look)
				return
			}
		}
	}
	for _, name := range exportedStructs(t) {
		if len(values[name]) == 0 {
			t.Errorf("the test has no %s", name)
		}
	}
	values["WriteSet"] = []any{w, *w}
	for name, list := range values {
		for _, v := range list {
			for _, flags := range []string{"", "+", "#", " "} {
				for _, verb := range "vsqxXdcteUT" {
					check(name, string(verb), fmt.Sprintf("%"+flags+string(verb), v))
				}
			}
			if b, err := json.Marshal(v); err == nil {
				check(name, "JSON", string(b))
			}
			var log bytes.Buffer
			slog.New(slog.NewJSONHandler(&log, nil)).Info("", "value", v)
			slog.New(slog.NewTextHandler(&log, nil)).Info("", "value", v)
			check(name, "slog", log.String())
		}
	}
	for v, want := range map[any]string{
		bob.identity: "IdentityKeyPair(" + bob.identity.Public().Fingerprint() + ")", key: "PreKey(2)",
		toBob: "Session(" + bob.identity.Public().Fingerprint() + ")", Tag{1, 0xab}: "01ab" + strings.Repeat("00", 14),
	} {
		if got := fmt.Sprintf("%v", v); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// exportedStructs are the names of the struct types that this package exports.
func exportedStructs(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.IsExported() {
				if _, ok := spec.Type.(*ast.StructType); ok {
					names = append(names, spec.Name.Name)
				}
			}
			return true
		})
	}
	return names
}

// Every code has its class, and a core sentinel with it, and every sentinel here has a code.
func TestErrors(t *testing.T) {
	t.Parallel()
	codes := map[error]int{}
	for code, class := range classes {
		err := fmt.Errorf("wrapped: %w", failed(code, "detail %d", 1))
		if codes[class]++; !errors.Is(err, class) || CodeOf(err) != code || !strings.Contains(err.Error(), fmt.Sprintf("(%d): detail 1", code)) {
			t.Errorf("code %d: %v", code, err)
		}
		if bare := (&Error{Code: code}).Error(); !strings.HasSuffix(bare, fmt.Sprintf("(%d)", code)) {
			t.Errorf("code %d: %v", code, bare)
		}
	}
	for class, sentinel := range map[error]error{
		ErrMalformed: core.ErrInvalid, ErrBadKey: core.ErrInvalid, ErrInvalidMessage: core.ErrInvalid, ErrInvalidSignature: core.ErrInvalid,
		ErrOutdatedMessage: core.ErrInvalid, ErrDuplicateMessage: core.ErrInvalid, ErrTooDistantFuture: core.ErrInvalid,
		ErrRemoteIdentityChanged: core.ErrDenied, ErrLocalIdentityChanged: core.ErrDenied, ErrPreKeyNotFound: core.ErrNotFound,
		ErrSessionNotFound: core.ErrNotFound, ErrExhausted: core.ErrUnavailable,
	} {
		if codes[class] == 0 || !errors.Is(class, sentinel) {
			t.Errorf("%v: %d codes", class, codes[class])
		}
		delete(codes, class)
	}
	if len(codes) > 0 {
		t.Errorf("not listed: %v", codes)
	}
	if CodeOf(nil) != 0 || CodeOf(context.Canceled) != 0 {
		t.Error("a code of another error")
	}
}

// Only the session's own records are needed to load it, and a failing store is no refusal.
func TestLoadFails(t *testing.T) {
	t.Parallel()
	failure := errors.New("the store is away")
	if _, err := LoadSession(t.Context(), func(context.Context, []record.Query) ([][]record.Record, error) { return nil, failure }); !errors.Is(err, failure) {
		t.Error(err)
	}
	for _, answers := range [][][]record.Record{nil, {nil}, {nil, nil}, {nil, nil, nil}} {
		_, err := DecodeSession(answers)
		refused(t, fmt.Sprint(len(answers)), err, CodeSessionNotFound)
	}
}
