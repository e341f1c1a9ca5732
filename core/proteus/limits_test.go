// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// Section 4.5: with the hundredth state the oldest goes, and its records. Reading in a state
// makes it the one to send in, not a younger one. With the last resort prekey a message
// revives it.
func TestStatesLimit(t *testing.T) {
	t.Parallel()
	random := seeded(10)
	alice, bob := newDevice(t, random), newDevice(t, random, LastResortPreKeyID)
	var sessions []*Session
	var first []byte // of the first state, not read
	var toAlice *Session
	for i := range maxStates + 2 {
		s := alice.opens(t, bob, LastResortPreKeyID)
		s, _ = sends(t, s, "")
		s, message := sends(t, s, "open")
		if i == 0 {
			first = message
		}
		before := toAlice
		toAlice = bob.reads(t, toAlice, message, "open")
		sessions = append(sessions, s)
		if i == 50 { // the first is used again
			sessions[0], message = sends(t, sessions[0], "again")
			toAlice = bob.reads(t, toAlice, message, "again")
			if toAlice.current != sessions[0].current || toAlice.states[0].tag != sessions[0].current {
				t.Fatal("the state that was read in is not the current one in its place")
			}
		}
		if before == nil {
			bob.stored = new(records)
		}
		w := toAlice.Changes(before)
		bob.stored.apply(w)
		if err := bob.stored.whole(toAlice); err != nil {
			t.Fatal(err)
		}
		if want := min(i+1, maxStates); len(toAlice.states) != want {
			t.Fatalf("%d states after %d", len(toAlice.states), i+1)
		}
		if i >= maxStates {
			if toAlice.find(sessions[i-maxStates].current) >= 0 || len(w.Dels) != 2 {
				t.Errorf("state %d is still there; deleted %v", i-maxStates, w.Dels)
			}
		}
		if i == 30 || i == 99 {
			toAlice = bob.load(t)
		}
	}
	_, err := toAlice.Decrypt(t.Context(), bob.env(), first)
	if err != nil {
		t.Fatalf("a state that was dropped is not revived: %v", err)
	}
	_, err = toAlice.Decrypt(t.Context(), bob.env(), first)
	if err != nil {
		t.Fatal("the value has changed")
	}
	again := bob.reads(t, toAlice, first, "open")
	if again.current != sessions[0].current || len(again.states) != maxStates || again.states[maxStates-1].tag != sessions[0].current || again.find(sessions[2].current) >= 0 {
		t.Error("a revived state is not the youngest")
	}
	delete(bob.preKeys, LastResortPreKeyID)
	_, err = toAlice.Decrypt(t.Context(), bob.env(), first)
	refused(t, "a state that was dropped, without the prekey", err, CodePreKeyNotFound)
}

// A state that was dropped and opened again before anything was stored leaves no records of
// its first time.
func TestRevivedState(t *testing.T) {
	t.Parallel()
	random := seeded(25)
	alice, bob := newDevice(t, random), newDevice(t, random, LastResortPreKeyID)
	first, message := sends(t, skips(t, alice.opens(t, bob, LastResortPreKeyID), 3), "first")
	stored := bob.store(t, bob.reads(t, nil, message, "first"))
	toAlice := stored
	for range maxStates {
		_, m := sends(t, alice.opens(t, bob, LastResortPreKeyID), "open")
		toAlice = bob.reads(t, toAlice, m, "open")
	}
	if toAlice.find(first.current) >= 0 {
		t.Fatal("the state is not dropped")
	}
	toAlice = bob.reads(t, toAlice, message, "first")
	bob.stored.apply(toAlice.Changes(stored))
	if err := bob.stored.whole(toAlice); err != nil {
		t.Error(err)
	}
}

// A stored session may have more states than we keep. Then one goes with each message, the
// oldest, and never the one that was read in.
func TestManyStates(t *testing.T) {
	t.Parallel()
	random := seeded(25)
	alice, bob := newDevice(t, random), newDevice(t, random, LastResortPreKeyID)
	s := alice.opens(t, bob, LastResortPreKeyID)
	s, m := sends(t, s, "")
	toAlice := bob.reads(t, nil, m, "")
	for i := range 120 {
		tag := Tag{1, byte(i)}
		if i == 0 {
			tag = s.current
		}
		if toAlice.find(tag) < 0 {
			toAlice.states = append(toAlice.states, taggedState{tag, uint32(i), toAlice.states[0].state})
		}
	}
	for i := range 22 {
		s, m = sends(t, s, "")
		before := toAlice
		toAlice = bob.reads(t, toAlice, m, "")
		if want := max(120-i-1, maxStates); len(toAlice.states) != want || toAlice.states[0].tag != s.current {
			t.Fatalf("%d states, want %d", len(toAlice.states), want)
		}
		if i < 21 && toAlice.find(before.states[1].tag) >= 0 {
			t.Fatal("not the oldest is gone")
		}
	}
}

// Section 4.3: late messages of five turns of the peer can be read, not of the sixth; then
// the chain is unknown, and the message is one of a new turn with a wrong MAC.
func TestChainsLimit(t *testing.T) {
	t.Parallel()
	alice, bob, toBob, toAlice := talking(t, 11)
	toAlice = bob.store(t, toAlice)
	var late [][]byte
	for turn := range maxReceiveChains + 1 {
		for i := range late { // all earlier ones can be read
			if _, err := toAlice.Decrypt(t.Context(), bob.env(), late[i]); err != nil {
				t.Errorf("turn %d, message of turn %d: %v", turn, i, err)
			}
		}
		var lost, read []byte
		toBob, lost = sends(t, toBob, "lost")
		toBob, read = sends(t, toBob, "read")
		before := toAlice
		toAlice = bob.reads(t, toAlice, read, "read")
		bob.stored.apply(toAlice.Changes(before))
		if err := bob.stored.whole(toAlice); err != nil {
			t.Error(err)
		}
		toAlice = bob.load(t)
		late = append(late, lost)
		toAlice, read = sends(t, toAlice, "answer")
		toBob = alice.reads(t, toBob, read, "answer")
	}
	if n := len(toAlice.states[0].state.receive); n != maxReceiveChains {
		t.Errorf("%d receive chains", n)
	}
	// As others store it the chains have no numbers; when it is ours again they do.
	imported, err := UnmarshalSession(toAlice.local, marshalled(t, toAlice, bob.env()))
	if err != nil {
		t.Fatal(err)
	}
	moved := *bob
	moved.stored = nil
	imported = moved.store(t, imported)
	for _, m := range late[1:] {
		moved.reads(t, imported, m, "lost")
	}
	for i, m := range late {
		d, err := toAlice.Decrypt(t.Context(), bob.env(), m)
		if i == 0 {
			refused(t, "a message of the sixth turn", err, CodeBadMACInSync)
			continue
		}
		if err != nil || string(d.Plaintext) != "lost" {
			t.Errorf("message of turn %d: %v", i, err)
		}
	}
}

// Section 4.3: a thousand messages may be missing, in a chain that is new or not; a thousand
// keys are kept.
func TestGapLimit(t *testing.T) {
	t.Parallel()
	_, bob, toBob, toAlice := talking(t, 12)
	var messages [][]byte
	for range 2003 {
		var m []byte
		toBob, m = sends(t, toBob, "")
		messages = append(messages, m)
	}
	before := inMemory(toAlice)
	_, err := toAlice.Decrypt(t.Context(), bob.env(), messages[1001])
	refused(t, "1001 ahead of an unused chain", err, CodeTooDistantUnused)
	if !bytes.Equal(before, inMemory(toAlice)) {
		t.Error("the session has changed")
	}
	bob.reads(t, toAlice, messages[1000], "")
	toAlice = bob.reads(t, toAlice, messages[0], "")
	_, err = toAlice.Decrypt(t.Context(), bob.env(), messages[1002])
	refused(t, "1001 ahead", err, CodeTooDistant)
	toAlice = bob.store(t, bob.reads(t, toAlice, messages[1001], "")) // keeps 1 to 1000
	_, err = toAlice.Decrypt(t.Context(), bob.env(), messages[0])
	refused(t, "read, and older than all that are kept", err, CodeOutdated)
	_, err = toAlice.Decrypt(t.Context(), bob.env(), messages[1001])
	refused(t, "read", err, CodeDuplicate)
	bob.reads(t, toAlice, messages[1], "")
	toAlice = bob.reads(t, toAlice, messages[1004], "") // drops 1 and 2
	for i, code := range map[int]Code{1: CodeOutdated, 2: CodeOutdated, 3: 0, 1000: 0, 1001: CodeDuplicate, 1002: 0, 1003: 0, 1004: CodeDuplicate} {
		if _, err := toAlice.Decrypt(t.Context(), bob.env(), messages[i]); CodeOf(err) != code {
			t.Errorf("message %d: %v, want %d", i, err, code)
		}
	}
}

// What is used up gives no later message away: a chain that has read all is duplicate only.
func TestDuplicateAndOutdated(t *testing.T) {
	t.Parallel()
	_, bob, toBob, toAlice := talking(t, 13)
	var messages [][]byte
	for i := range 4 {
		var m []byte
		toBob, m = sends(t, toBob, fmt.Sprint(i))
		messages = append(messages, m)
	}
	code := func(i int) Code {
		_, err := toAlice.Decrypt(t.Context(), bob.env(), messages[i])
		return CodeOf(err)
	}
	toAlice = bob.reads(t, toAlice, messages[0], "0")
	if code(0) != CodeDuplicate {
		t.Error(code(0))
	}
	toAlice = bob.reads(t, toAlice, messages[1], "1")
	toAlice = bob.reads(t, toAlice, messages[3], "3")
	if code(0) != CodeOutdated || code(3) != CodeDuplicate {
		t.Error(code(0), code(3))
	}
	toAlice = bob.reads(t, toAlice, messages[2], "2")
	if code(0) != CodeDuplicate || code(2) != CodeDuplicate {
		t.Error(code(0), code(2))
	}
}

// Section 4.5: who answers for a session stays; the prekey that opens a state is told, and is
// looked for only where the message cannot be read without it.
func TestPreKeyMessageInSession(t *testing.T) {
	t.Parallel()
	random := seeded(14)
	alice, bob := newDevice(t, random), newDevice(t, random, 1, 2, LastResortPreKeyID)
	mallory := newDevice(t, random)
	toBob := alice.opens(t, bob, 1)
	toBob, first := sends(t, toBob, "first")
	_, second := sends(t, toBob, "second")
	_, fromMallory := sends(t, mallory.opens(t, bob, 2), "it is alice")
	lookups := []uint16{}
	env := bob.env()
	find := env.PreKey
	failure := errors.New("the store is away")
	env.PreKey = func(ctx context.Context, id uint16) (*PreKey, error) {
		if lookups = append(lookups, id); id == 2 {
			return nil, failure
		}
		return find(ctx, id)
	}
	d, err := SessionFromMessage(t.Context(), env, first)
	if err != nil || d.UsedPreKey == nil || *d.UsedPreKey != 1 || d.Session.Remote() != alice.identity.Public() || d.Session.Local() != bob.identity.Public() {
		t.Fatal(d, err)
	}
	toAlice := d.Session
	_, err = toAlice.Decrypt(t.Context(), env, fromMallory)
	refused(t, "another identity", err, CodeRemoteIdentityChanged)
	_, err = toAlice.Decrypt(t.Context(), env, first)
	refused(t, "repeated", err, CodeDuplicate)
	if d, err = toAlice.Decrypt(t.Context(), env, second); err != nil || d.UsedPreKey != nil {
		t.Errorf("the second message: %v, %v", d, err)
	}
	if !slices.Equal(lookups, []uint16{1}) {
		t.Errorf("prekeys %d were looked for", lookups)
	}
	// An error of the store is no refusal of the message.
	_, other := sends(t, alice.opens(t, bob, 2), "")
	if _, err = toAlice.Decrypt(t.Context(), env, other); !errors.Is(err, failure) || CodeOf(err) != 0 {
		t.Errorf("the store fails: %v", err)
	}
	if _, err = SessionFromMessage(t.Context(), env, other); !errors.Is(err, failure) || CodeOf(err) != 0 {
		t.Errorf("the store fails: %v", err)
	}
	// Who has no prekeys cannot be made to panic.
	env.PreKey = nil
	_, err = toAlice.Decrypt(t.Context(), env, other)
	refused(t, "no prekeys in a session", err, CodePreKeyNotFound)
	_, err = SessionFromMessage(t.Context(), env, other)
	refused(t, "no prekeys", err, CodePreKeyNotFound)
	// A session is not opened by a message of a session.
	toAlice, _ = sends(t, toAlice, "")
	_, answer := sends(t, toAlice, "answer")
	_, err = SessionFromMessage(t.Context(), alice.env(), answer)
	refused(t, "a cipher message opens", err, CodeNoPreKeyMessage)
	_, err = (&Session{remote: bob.identity.Public()}).Decrypt(t.Context(), alice.env(), answer)
	refused(t, "a message of an unknown state", err, CodeNoState)
	// The last resort prekey stays, and opens the same state again in another session.
	_, last := sends(t, alice.opens(t, bob, LastResortPreKeyID), "last resort")
	for range 2 {
		d, err := SessionFromMessage(t.Context(), bob.env(), last)
		if err != nil || *d.UsedPreKey != LastResortPreKeyID {
			t.Fatal(err)
		}
		_, err = d.Session.Decrypt(t.Context(), bob.env(), last)
		refused(t, "repeated with the last resort prekey", err, CodeDuplicate)
	}
}

// A message that has opened a state by the prekey of last resort comes again when the state
// has gone on so far that its chain is gone: it is not read a second time, and the state
// stays. So it is with one that has opened none, but is of a state that is there.
func TestOpenedBefore(t *testing.T) {
	t.Parallel()
	random := seeded(24)
	alice, bob := newDevice(t, random), newDevice(t, random, LastResortPreKeyID)
	toBob, first := sends(t, alice.opens(t, bob, LastResortPreKeyID), "first")
	toBob, late := sends(t, toBob, "late")
	toAlice := bob.reads(t, nil, first, "first")
	for range maxReceiveChains + 1 {
		var m []byte
		toAlice, m = sends(t, toAlice, "ping")
		toBob = alice.reads(t, toBob, m, "ping")
		toBob, m = sends(t, toBob, "pong")
		toAlice = bob.reads(t, toAlice, m, "pong")
	}
	before := inMemory(toAlice)
	for what, m := range map[string][]byte{"again": first, "late": late} {
		_, err := toAlice.Decrypt(t.Context(), bob.env(), m)
		refused(t, what, err, CodeOutdated)
	}
	if !bytes.Equal(inMemory(toAlice), before) {
		t.Error("the session has changed")
	}
	first[len(first)-1] ^= 1
	_, err := toAlice.Decrypt(t.Context(), bob.env(), first)
	refused(t, "again, and altered", err, CodeBadMACInSync)
}

// The pending prekey goes with every message until one was read, which need not be an answer.
func TestPending(t *testing.T) {
	t.Parallel()
	random := seeded(15)
	alice, bob := newDevice(t, random, 3), newDevice(t, random, 1)
	toBob := alice.opens(t, bob, 1)
	for i := range 3 {
		var m []byte
		toBob, m = sends(t, toBob, "")
		e, err := parseEnvelope(m)
		if err != nil || e.preKey == nil || e.preKey.id != 1 || e.preKey.identity != alice.identity.Public() || e.cipher.counter != uint32(i) {
			t.Fatalf("message %d: %+v, %v", i, e, err)
		}
	}
	own := toBob.current
	toAlice, m := sends(t, bob.opens(t, alice, 3), "crossing")
	toBob = alice.reads(t, toBob, m, "crossing")
	if toBob.current != toAlice.current || toBob.current == own || toBob.pending != nil {
		t.Error("the state that was read in is not the one to send in")
	}
	_, m = sends(t, toBob, "")
	if e, err := parseEnvelope(m); err != nil || e.preKey != nil || e.cipher.tag != toAlice.current {
		t.Errorf("%+v, %v", e, err)
	}
}

// A chain has 2^32 counters. After the last one it is exhausted, for others to store it as
// well; our records have it still.
func TestExhausted(t *testing.T) {
	t.Parallel()
	alice, bob, toBob, toAlice := talking(t, 16)
	state := *toBob.states[0].state
	state.send.chain.index = maxIndex - 1
	toBob = only(toBob, &state)
	toBob, one := sends(t, toBob, "the last but one")
	marshalled(t, toBob, nil)
	toBob, two := sends(t, toBob, "the last")
	for _, s := range []*Session{toBob, alice.store(t, toBob)} {
		next, m, err := s.Encrypt(nil)
		refused(t, "after the last", err, CodeExhausted)
		if next != nil || m != nil || !errors.Is(err, core.ErrUnavailable) {
			t.Error("it gave a message", err)
		}
		_, err = s.Marshal(t.Context(), alice.env())
		refused(t, "marshal", err, CodeExhausted)
	}
	for i, m := range [][]byte{one, two} {
		if e, err := parseEnvelope(m); err != nil || e.cipher.counter != maxIndex-1+uint32(i) {
			t.Errorf("counter %d, %v", e.cipher.counter, err)
		}
	}
	// The other side.
	turned := *toAlice.states[0].state
	if err := turned.turn(seeded(17), toBob.states[0].state.send.pair.public); err != nil {
		t.Fatal(err)
	}
	turned.receive[0].chain.index = maxIndex - 1
	toAlice = only(toAlice, &turned)
	toAlice = bob.reads(t, toAlice, two, "the last")
	for _, s := range []*Session{toAlice, bob.store(t, toAlice)} {
		_, err := s.Decrypt(t.Context(), bob.env(), two)
		refused(t, "the last, again", err, CodeDuplicate)
		bob.reads(t, s, one, "the last but one")
		_, err = s.Marshal(t.Context(), bob.env())
		refused(t, "marshal", err, CodeExhausted)
	}
	// An answer gives a new chain, whose messages say how far the old one had come.
	_, answer := sends(t, toAlice, "answer")
	toBob = alice.reads(t, toBob, answer, "answer")
	toBob, m := sends(t, toBob, "of a new chain")
	if e, err := parseEnvelope(m); err != nil || e.cipher.counter != 0 || e.cipher.previous != maxIndex {
		t.Errorf("%+v, %v", e.cipher, err)
	}
	marshalled(t, toBob, alice.env())
	// What others store has no index beyond the last counter.
	b := marshalled(t, toAliceAt(t, toAlice, maxIndex), bob.env())
	at := bytes.Index(b, []byte{1, 0x1a, 0xff, 0xff, 0xff, 0xff})
	if at < 0 {
		t.Fatal("no index of 32 bits")
	}
	wide := slices.Concat(b[:at], []byte{1, 0x1b, 0, 0, 0, 1, 0, 0, 0, 0}, b[at+6:])
	_, err := UnmarshalSession(toAlice.local, wide)
	refused(t, "an index of 33 bits", err, CodeMalformed)
	wide = slices.Concat(b[:at], []byte{1, 0x1b, 0, 0, 0, 0, 0, 0, 0, 5}, b[at+6:])
	_, err = UnmarshalSession(toAlice.local, wide)
	refused(t, "an index in 64 bits", err, CodeMalformed)
}

// only is a session with one state.
func only(s *Session, state *state) *Session {
	return &Session{local: s.local, remote: s.remote, current: s.current, states: []taggedState{{tag: s.current, state: state}}}
}

// toAliceAt is a session without late keys whose receive chain is at an index.
func toAliceAt(t *testing.T, s *Session, index uint64) *Session {
	t.Helper()
	state := *s.states[0].state
	state.receive = slices.Clone(state.receive[:1])
	state.receive[0].chain.index = index
	state.receive[0].kept = nil
	return only(s, &state)
}

// A message has at most 5 MiB, with what goes with it: neither is a larger one sent, nor read.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	_, bob, toBob, toAlice := talking(t, 18)
	_, m := sends(t, toBob, strings.Repeat("x", 100000))
	overhead := 0
	if e, err := parseEnvelope(m); err != nil {
		t.Fatal(err)
	} else {
		overhead = len(e.message) - len(e.cipher.ciphertext)
	}
	largest := strings.Repeat("x", maxBytes-overhead)
	_, m = sends(t, toBob, largest)
	bob.reads(t, toAlice, m, largest)
	for _, n := range []int{len(largest) + 1, maxBytes, maxBytes + 1} {
		s, m, err := toBob.Encrypt(make([]byte, n))
		if !errors.Is(err, core.ErrTooLarge) || s != nil || m != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	e := newMessage(nil, PublicKey{}, &cipherMessage{ciphertext: make([]byte, len(largest)+1)})
	_, err := toAlice.Decrypt(t.Context(), bob.env(), newEnvelope(make([]byte, 32), e))
	refused(t, "a message that is too large", err, CodeMalformed)
	// An empty one is none the less a message.
	_, m = sends(t, toBob, "")
	bob.reads(t, toAlice, m, "")
}

// The points of small order, the ways to write them, and other encodings that are none.
func badKeys() map[string]struct {
	key  PublicKey
	code Code
} {
	bad := map[string]struct {
		key  PublicKey
		code Code
	}{}
	add := func(name, key string, code Code) {
		b, err := hex.DecodeString(key)
		if err != nil || len(b) != 32 {
			panic(name)
		}
		bad[name] = struct {
			key  PublicKey
			code Code
		}{PublicKey(b), code}
	}
	zeros, ones := strings.Repeat("00", 30), strings.Repeat("ff", 30)
	add("the neutral element", "01"+zeros+"00", CodeDegenerateKey)
	add("the neutral element, x negative", "01"+zeros+"80", CodeDegenerateKey)
	add("order 2", "ec"+ones+"7f", CodeDegenerateKey)
	add("order 2, x negative", "ec"+ones+"ff", CodeDegenerateKey)
	add("order 4", "00"+zeros+"00", CodeDegenerateKey)
	add("order 4, x negative", "00"+zeros+"80", CodeDegenerateKey)
	for i, y := range []string{
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	} {
		add(fmt.Sprintf("order 8, %d", i), y, CodeDegenerateKey)
	}
	for first := 0xed; first <= 0xff; first++ { // p to 2^255 - 1
		add(fmt.Sprintf("y is %#x, not reduced", first), fmt.Sprintf("%02x", first)+ones+"7f", CodeBadPoint)
		add(fmt.Sprintf("y is %#x, not reduced, x negative", first), fmt.Sprintf("%02x", first)+ones+"ff", CodeBadPoint)
	}
	add("no point", "02"+zeros+"00", CodeBadPoint)
	return bad
}

// Keys that no honest peer sends are refused wherever they come to be used; nothing changes.
func TestBadKeys(t *testing.T) {
	t.Parallel()
	random := seeded(19)
	alice, bob := newDevice(t, random, 1), newDevice(t, random, 1)
	toBob := alice.opens(t, bob, 1)
	_, m := sends(t, toBob, "")
	first, err := parseEnvelope(m)
	if err != nil {
		t.Fatal(err)
	}
	toAlice := bob.reads(t, nil, m, "")
	bob = newDevice(t, seeded(20), 1, LastResortPreKeyID)
	bob.identity = &IdentityKeyPair{keyPair{bob.identity.pair.seed, toAlice.local}}
	before := inMemory(toAlice)
	for name, bad := range badKeys() {
		for where, change := range map[string]func(b *PreKeyBundle){
			"prekey":   func(b *PreKeyBundle) { b.Key = bad.key },
			"identity": func(b *PreKeyBundle) { b.Identity = bad.key },
		} {
			b := bob.preKeys[1].Bundle(bob.identity)
			change(b)
			b, err := UnmarshalPreKeyBundle(b.Marshal())
			if err != nil {
				t.Fatal(err)
			}
			s, err := SessionFromPreKey(alice.env(), b)
			refused(t, where+" of a bundle: "+name, err, bad.code)
			if s != nil || !errors.Is(err, ErrBadKey) || !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for where, change := range map[string]func(e *envelope){
			"base key":    func(e *envelope) { e.preKey.base = bad.key },
			"identity":    func(e *envelope) { e.preKey.identity = bad.key },
			"ratchet key": func(e *envelope) { e.cipher.ratchet = bad.key },
		} {
			e := *first
			opens := *first.preKey
			e.preKey = &opens
			change(&e)
			m := newEnvelope(e.mac[:], newMessage(&e.preKey.pendingPreKey, e.preKey.identity, &e.cipher))
			d, err := SessionFromMessage(t.Context(), bob.env(), m)
			refused(t, where+" of a prekey message: "+name, err, bad.code)
			if d != nil {
				t.Error("it opened a session")
			}
			if where == "ratchet key" {
				for _, pending := range []*pendingPreKey{nil, &opens.pendingPreKey} {
					_, err := toAlice.Decrypt(t.Context(), bob.env(), newEnvelope(e.mac[:], newMessage(pending, opens.identity, &e.cipher)))
					refused(t, "ratchet key of a message: "+name, err, bad.code)
				}
			}
		}
	}
	if !bytes.Equal(before, inMemory(toAlice)) {
		t.Error("the session has changed")
	}
}

// Keys that are nearly not reduced are as good as others.
func TestReduced(t *testing.T) {
	t.Parallel()
	pair := newDevice(t, seeded(26)).identity.pair
	for _, c := range []struct {
		key    []byte
		change int // the byte that makes it a point
	}{
		{slices.Concat([]byte{0xff}, make([]byte, 30), []byte{0x7f}), 2},
		{slices.Concat([]byte{0xec}, bytes.Repeat([]byte{0xff}, 30), []byte{0x7f}), 0},
		{slices.Concat(bytes.Repeat([]byte{0xff}, 31), []byte{0x7e}), 31},
		{slices.Concat([]byte{0xff, 0xfe}, bytes.Repeat([]byte{0xff}, 30)), 1},
	} {
		p := PublicKey(c.key)
		for _, err := pair.agree(p); err != nil && p[c.change] != 1; _, err = pair.agree(p) {
			p[c.change]--
		}
		if _, err := pair.agree(p); err != nil {
			t.Errorf("%x: %v", c.key, err)
		}
	}
}

// A key that has a part of small order agrees like the one without, as X25519 has it.
func TestMixedOrder(t *testing.T) {
	t.Parallel()
	d := newDevice(t, seeded(21), 1, 2)
	torsion := badKeys()["order 8, 0"].key
	point, err := new(edwards25519.Point).SetBytes(d.preKeys[2].pair.public[:])
	if err != nil {
		t.Fatal(err)
	}
	small, err := new(edwards25519.Point).SetBytes(torsion[:])
	if err != nil {
		t.Fatal(err)
	}
	want, err := d.preKeys[1].pair.agree(d.preKeys[2].pair.public)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.preKeys[1].pair.agree(PublicKey(point.Add(point, small).Bytes()))
	if err != nil || !got.Equal(want) {
		t.Errorf("another secret, %v", err)
	}
	other, err := d.preKeys[2].pair.agree(d.preKeys[1].pair.public)
	if err != nil || !other.Equal(want) {
		t.Errorf("the other side has another secret, %v", err)
	}
}

// A signature must be good where there is one, whoever looks.
func TestBundleSignature(t *testing.T) {
	t.Parallel()
	random := seeded(22)
	alice, bob, mallory := newDevice(t, random), newDevice(t, random, 1, 2), newDevice(t, random)
	good := bob.preKeys[1].SignedBundle(bob.identity)
	if err := good.Verify(); err != nil {
		t.Error(err)
	}
	if _, err := SessionFromPreKey(alice.env(), good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(b *PreKeyBundle){
		"another key":      func(b *PreKeyBundle) { b.Key = bob.preKeys[2].pair.public },
		"another identity": func(b *PreKeyBundle) { b.Identity = mallory.identity.Public() },
		"another":          func(b *PreKeyBundle) { b.Signature = bob.preKeys[2].SignedBundle(bob.identity).Signature },
		"cut short":        func(b *PreKeyBundle) { b.Signature = b.Signature[:63] },
		"no point":         func(b *PreKeyBundle) { b.Identity = badKeys()["no point"].key },
	} {
		b := *good
		change(&b)
		refused(t, name, b.Verify(), CodeBadSignature)
		s, err := SessionFromPreKey(alice.env(), &b)
		refused(t, name, err, CodeBadSignature)
		if s != nil {
			t.Errorf("%s opens a session", name)
		}
	}
	unsigned := bob.preKeys[1].Bundle(mallory.identity)
	if err := unsigned.Verify(); err != nil {
		t.Error(err)
	}
}

// Random bytes that cannot be had are an error, after which nothing has changed.
func TestNoRandom(t *testing.T) {
	t.Parallel()
	alice, bob, toBob, toAlice := talking(t, 23)
	_, m := sends(t, toBob, "turn")
	bundle := bob.preKeys[2].Bundle(bob.identity)
	opened, err := SessionFromPreKey(alice.env(), bundle)
	if err != nil {
		t.Fatal(err)
	}
	_, opening := sends(t, opened, "")
	before := inMemory(toAlice)
	for name, c := range map[string]struct {
		needs int
		f     func(env *Env) error
	}{
		"open":              {80, func(env *Env) error { _, err := SessionFromPreKey(env, bundle); return err }},
		"turn":              {32, func(env *Env) error { _, err := toAlice.Decrypt(t.Context(), env, m); return err }},
		"open from message": {32, func(env *Env) error { _, err := SessionFromMessage(t.Context(), env, opening); return err }},
		"identity":          {32, func(env *Env) error { _, err := GenerateIdentity(env.Random); return err }},
		"prekey":            {32, func(env *Env) error { _, err := GeneratePreKey(env.Random, 1); return err }},
	} {
		for n := range c.needs + 1 {
			env := bob.env()
			random := io.LimitReader(seeded(1), int64(n))
			env.Random = random
			err := c.f(env)
			if enough := n == c.needs; enough != (err == nil) || !enough && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s with %d bytes: %v", name, n, err)
			}
		}
	}
	if !bytes.Equal(before, inMemory(toAlice)) {
		t.Error("the session has changed")
	}
	// Without a source it is the system's: twice the same would be chance.
	one, err1 := GeneratePreKey(nil, 1)
	two, err2 := GeneratePreKey(nil, 1)
	if err := errors.Join(err1, err2); err != nil || one.pair.public == two.pair.public {
		t.Error("the same prekey twice", err)
	}
}

// allocated is how many bytes f allocates. Its test is not parallel to others.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// What a peer claims costs little: a length or a count nothing before the bytes are there, a
// counter one hash for each message that it claims to have passed over, and nothing if these
// are too many.
func TestClaims(t *testing.T) {
	_, bob, toBob, toAlice := talking(t, 24)
	turn, m := sends(t, toBob, "")
	toAlice = bob.reads(t, toAlice, m, "")
	_, m = sends(t, turn, "")
	e, err := parseEnvelope(m)
	if err != nil {
		t.Fatal(err)
	}
	at := func(counter uint32) []byte {
		c := e.cipher
		c.counter = counter
		return newEnvelope(e.mac[:], newMessage(nil, PublicKey{}, &c))
	}
	var huge [][]byte
	for _, major := range []byte{majorBytes, majorText, majorArray, majorMap} {
		for _, n := range []uint64{1000, 1001, maxBytes, maxBytes + 1, 1 << 31, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
			head := appendHead(nil, major, n)
			for _, prefix := range [][]byte{nil, {0xa3, 0, 1, 1}, {0xa3, 0, 1, 1, 0xa1, 0}, {0xa3, 0, 1, 2}, {0xa3, 24}, {0xa6, 0, 1, 1}, {0xa6, 5}, {0xa6, 4}, {0xa5, 4},
				append(bytes.Repeat([]byte{0xa1, 24}, maxNesting), 24), {0xa6, 5, 0xa1, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa4, 0, 0x81, 0xa3, 2}} {
				huge = append(huge, slices.Concat(prefix, head), slices.Concat(prefix, head, make([]byte, 100)))
			}
		}
	}
	for _, data := range huge {
		n := allocated(func() {
			_, err1 := toAlice.Decrypt(context.Background(), bob.env(), data)
			_, err2 := UnmarshalPreKeyBundle(data)
			_, err3 := UnmarshalSession(PublicKey{}, data)
			_, err4 := UnmarshalPreKey(data)
			_, err5 := UnmarshalIdentity(data)
			_, err6 := UnmarshalIdentityFile(data)
			_, err7 := DecodeSession([][]record.Record{{{Kind: RecordHead, Value: append([]byte{recordFormat}, data...)}}, nil})
			for i, err := range []error{err1, err2, err3, err4, err5, err6} {
				if CodeOf(err) != CodeMalformed {
					t.Errorf("%x, %d: %v", data, i, err)
				}
			}
			if !errors.Is(err7, core.ErrDamaged) {
				t.Errorf("%x: %v", data, err7)
			}
		})
		if n > 100<<10 {
			t.Errorf("%x: %d bytes", data, n)
		}
	}
	for _, c := range []struct {
		counter uint32
		code    Code
		bytes   uint64
	}{
		{1, CodeBadMACInSync, 10 << 10}, {1001, CodeBadMACAhead, 1 << 20}, {1002, CodeTooDistant, 8 << 10}, {maxIndex, CodeTooDistant, 8 << 10},
	} {
		m := at(c.counter)
		if c.counter == 1 {
			m[10] ^= 1
		}
		n := allocated(func() {
			_, err := toAlice.Decrypt(context.Background(), bob.env(), m)
			refused(t, fmt.Sprintf("counter %d", c.counter), err, c.code)
		})
		if n > c.bytes {
			t.Errorf("counter %d: %d bytes", c.counter, n)
		}
	}
}
