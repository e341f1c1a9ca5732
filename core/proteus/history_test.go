// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

var (
	histories = flag.Uint64("histories", 1000, "how many histories TestHistories compares to the model")
	history1  = flag.Uint64("history", 0, "the first of them")
)

// A history is what happens to three devices, at random, and to a model of them.
type history struct {
	rng     *rand.Rand
	model   *model
	members []*member
	network []*letter
	log     []string
	count   map[string]int // what has happened
}

// A member is a device. What it does becomes durable by a commit, or is lost.
type member struct {
	name     string
	identity *IdentityKeyPair
	random   *rand.ChaCha8
	number   int // of its identity in the model

	durable, now memory
	floors       map[*member][]Floor // of sessions that were replaced since the last commit
	used         map[int]int         // by the ratchet key's number, the counters that were used
}

// A memory is all that a device remembers: the engine's part and the model's.
type memory struct {
	preKeys  map[uint16]*PreKey
	numbers  map[uint16]int
	sessions map[*member]*talk
	read     map[reading]bool // in the sessions that there are
}

// A reading is of a letter in the session with a peer.
type reading struct {
	letter *letter
	peer   *member
}

// A talk is a session with a peer. A value of it is not changed.
type talk struct {
	session *Session
	model   *modelSession
	stored  *records // of the last commit; shared by the values
}

func (m memory) clone() memory {
	return memory{maps.Clone(m.preKeys), maps.Clone(m.numbers), maps.Clone(m.sessions), maps.Clone(m.read)}
}

// forget is for a session that is made anew: the last resort prekey may open it again.
func (m memory) forget(peer *member) {
	maps.DeleteFunc(m.read, func(r reading, _ bool) bool { return r.peer == peer })
}

// A letter is a message on its way.
type letter struct {
	from, to *member
	bytes    []byte
	model    modelMessage
}

func newHistory(seed uint64) (*history, error) {
	h := &history{rng: rand.New(rand.NewPCG(seed, 7)), model: &model{derived: map[[4]int]int{}}, count: map[string]int{}}
	for i, name := range []string{"alice", "bob", "carol"} {
		m := &member{name: name, random: seeded(seed<<2 + uint64(i)), number: h.model.draw(), floors: map[*member][]Floor{}, used: map[int]int{}}
		m.now = memory{map[uint16]*PreKey{}, map[uint16]int{}, map[*member]*talk{}, map[reading]bool{}}
		var err error
		if m.identity, err = GenerateIdentity(m.random); err != nil {
			return nil, err
		}
		if err := h.addPreKey(m, LastResortPreKeyID); err != nil {
			return nil, err
		}
		m.durable = m.now.clone()
		h.members = append(h.members, m)
	}
	return h, nil
}

func (h *history) addPreKey(m *member, id uint16) (err error) {
	m.now.numbers[id] = h.model.draw()
	m.now.preKeys[id], err = GeneratePreKey(m.random, id)
	return err
}

func (h *history) logf(what string, format string, args ...any) {
	h.count[what]++
	h.log = append(h.log, what+" "+fmt.Sprintf(format, args...))
}

// chance is true n times of a hundred.
func (h *history) chance(n int) bool { return h.rng.IntN(100) < n }

func (m *member) env(t *talk) *Env {
	env := &Env{Identity: m.identity, Random: m.random, PreKey: func(_ context.Context, id uint16) (*PreKey, error) {
		if k := m.now.preKeys[id]; k != nil {
			return k, nil
		}
		return nil, core.ErrNotFound
	}}
	if t != nil && t.stored != nil {
		env.Fetch = t.stored.fetch
	}
	return env
}

// step does one thing.
func (h *history) step() error {
	m := h.members[h.rng.IntN(len(h.members))]
	peer := h.members[h.rng.IntN(len(h.members))]
	if peer == m {
		peer = h.members[(slices.Index(h.members, m)+1)%len(h.members)]
	}
	t := m.now.sessions[peer]
	switch n := h.rng.IntN(100); {
	case n < 2 || t == nil && n < 15:
		return h.open(m, peer)
	case n < 40:
		if t != nil {
			return h.send(m, peer)
		}
	case n < 90:
		if len(h.network) > 0 {
			return h.deliver()
		}
	case n < 92:
		if t != nil {
			h.logf("delete", "%s of %s", m.name, peer.name)
			delete(m.now.sessions, peer)
			m.now.forget(peer)
			return h.commit(m)
		}
	case n < 95:
		return h.crash(m)
	case n < 97:
		return h.move(m)
	default:
		return h.commit(m)
	}
	return nil
}

// open opens a session by a prekey of the peer's, which others may have as well.
func (h *history) open(m, peer *member) error {
	ids := slices.Sorted(maps.Keys(peer.durable.preKeys))
	id := ids[h.rng.IntN(len(ids))]
	if id == LastResortPreKeyID && h.chance(80) {
		id = uint16(1 + h.rng.IntN(1000))
		if peer.now.preKeys[id] == nil {
			if err := h.addPreKey(peer, id); err != nil {
				return err
			}
			if err := h.commit(peer); err != nil {
				return err
			}
		}
	}
	preKey := peer.durable.preKeys[id]
	if preKey == nil {
		return nil
	}
	bundle, err := UnmarshalPreKeyBundle(preKey.Bundle(peer.identity).Marshal())
	if err != nil {
		return err
	}
	h.logf("open", "%s to %s by %d", m.name, peer.name, id)
	s, err := SessionFromPreKey(m.env(nil), bundle)
	if err != nil {
		return err
	}
	m.burn(peer)
	m.now.sessions[peer] = &talk{session: s, model: h.model.open(m.number, peer.number, peer.durable.numbers[id], id, s.current)}
	m.now.forget(peer)
	return h.agree(m, peer)
}

// send encrypts, and sends what is durable; or what is not, for which there is a floor then.
func (h *history) send(m, peer *member) error {
	n := 1
	switch {
	case h.chance(1):
		n = 995 + h.rng.IntN(10)
	case h.chance(10):
		n = 1 + h.rng.IntN(40)
	}
	h.logf("send", "%d, %s to %s", n, m.name, peer.name)
	for i := range n {
		t := *m.now.sessions[peer]
		text := strings.Repeat(fmt.Sprint(h.model.draw(), " "), h.rng.IntN(4))
		next, message, err := t.session.Encrypt([]byte(text))
		if err != nil {
			return err
		}
		l := &letter{from: m, to: peer, bytes: message}
		t.session = next
		t.model, l.model = h.model.encrypt(t.model, m.number, text)
		if m.used[l.model.ratchet] > l.model.counter {
			return errors.New("a key encrypts twice")
		}
		m.used[l.model.ratchet] = l.model.counter + 1
		m.now.sessions[peer] = &t
		if i == n-1 || h.chance(20) && n < 100 {
			h.network = append(h.network, l)
		}
	}
	if h.chance(20) {
		return h.agree(m, peer)
	}
	return errors.Join(h.commit(m), h.agree(m, peer))
}

// deliver has a letter read by somebody, perhaps not whom it is for, perhaps damaged.
func (h *history) deliver() error {
	at := h.rng.IntN(len(h.network))
	if h.chance(50) {
		at = 0
	}
	l := h.network[at]
	repeat := h.chance(15)
	if !repeat {
		h.network = slices.Delete(h.network, at, at+1)
	}
	if h.chance(8) {
		h.logf("lose", "")
		return nil
	}
	m, from, message, e := l.to, l.from, l.bytes, l.model
	switch {
	case h.chance(5): // damaged
		message = bytes.Clone(message)
		message[8+h.rng.IntN(32)] ^= 1 << h.rng.IntN(8)
		e.key = 0
	case h.chance(3): // said to be of another
		for _, other := range h.members {
			if other != m && other != from {
				from = other
				break
			}
		}
	case h.chance(2): // for another
		for _, other := range h.members {
			if other != m && other != from {
				m = other
				break
			}
		}
	}
	var t talk
	if had := m.now.sessions[from]; had != nil {
		t = *had
	}
	before := inMemory(t.session)
	d, err := (&device{identity: m.identity}).decryptWith(m.env(&t), t.session, message)
	next, used, code := h.model.decrypt(t.model, m.number, m.now.numbers, e)
	h.logf("deliver", "to %s by %s: counter %d, code %d", m.name, from.name, e.counter, code)
	h.count[fmt.Sprint("code ", code)]++
	if CodeOf(err) != code || (err == nil) != (code == 0) || err != nil && !isTyped(err) {
		return fmt.Errorf("got error %v, want code %d", err, code)
	}
	if !bytes.Equal(inMemory(t.session), before) {
		return errors.New("a session value has changed")
	}
	if err != nil {
		return nil
	}
	if string(d.Plaintext) != l.model.text {
		return fmt.Errorf("read %q, want %q", d.Plaintext, l.model.text)
	}
	if (used == nil) != (d.UsedPreKey == nil) || used != nil && *used != *d.UsedPreKey {
		return fmt.Errorf("used prekey %v, want %v", d.UsedPreKey, used)
	}
	if m.now.read[reading{l, from}] {
		return errors.New("read twice")
	}
	m.now.read[reading{l, from}] = true
	if used != nil && *used != LastResortPreKeyID {
		delete(m.now.preKeys, *used)
		delete(m.now.numbers, *used)
	}
	t.session, t.model = d.Session, next
	m.now.sessions[from] = &t
	if repeat {
		h.count["read and kept"]++
	}
	if h.chance(30) {
		return h.agree(m, from)
	}
	return errors.Join(h.commit(m), h.agree(m, from))
}

func (d *device) decryptWith(env *Env, s *Session, message []byte) (*Decrypted, error) {
	if s == nil {
		return SessionFromMessage(context.Background(), env, message)
	}
	return s.Decrypt(context.Background(), env, message)
}

// commit makes all durable that a device has done: one write for each session.
func (h *history) commit(m *member) error {
	h.count["commit"]++
	for _, peer := range h.members {
		t, was := m.now.sessions[peer], m.durable.sessions[peer]
		if t == nil || was != nil && t.session == was.session {
			continue
		}
		next := *t
		switch {
		case next.stored == nil:
			next.stored = new(records)
			next.stored.apply(t.session.Changes(nil))
		default:
			next.stored.apply(t.session.Changes(was.session))
		}
		if err := next.stored.whole(next.session); err != nil {
			return err
		}
		m.now.sessions[peer] = &next
	}
	m.durable = m.now.clone()
	clear(m.floors)
	if h.chance(50) {
		return nil
	}
	return h.restart(m)
}

// burn notes what a session has used of which the value that is durable knows nothing.
func (m *member) burn(peer *member) {
	if was, is := m.durable.sessions[peer], m.now.sessions[peer]; was != nil && is != nil {
		m.floors[peer] = append(m.floors[peer], was.session.Burnt(is.session)...)
	}
}

// crash loses what is not durable, but for the counters that were used.
func (h *history) crash(m *member) error {
	h.logf("crash", "%s", m.name)
	for _, peer := range h.members {
		m.burn(peer)
	}
	m.now = m.durable.clone()
	if err := h.restart(m); err != nil {
		return err
	}
	for peer, was := range m.durable.sessions {
		t := *was
		if t.session = was.session.Above(m.floors[peer]); t.session != was.session {
			h.count["floor"]++
		}
		t.model = was.model.clone()
		for tag, s := range t.model.states {
			s.send.index = max(s.send.index, m.used[s.send.ratchet])
			t.model.states[tag] = s
		}
		m.now.sessions[peer] = &t
		if err := h.agree(m, peer); err != nil {
			return err
		}
	}
	return h.commit(m)
}

// restart reads all sessions from the records.
func (h *history) restart(m *member) error {
	for peer, t := range m.durable.sessions {
		s, err := LoadSession(context.Background(), t.stored.fetch)
		if err != nil {
			return err
		}
		m.durable.sessions[peer] = &talk{s, t.model, t.stored}
	}
	m.now = m.durable.clone()
	for _, peer := range h.members {
		if err := h.agree(m, peer); err != nil {
			return err
		}
	}
	return nil
}

// move writes the sessions as others store them, and reads that.
func (h *history) move(m *member) error {
	h.logf("move", "%s", m.name)
	if err := h.commit(m); err != nil {
		return err
	}
	for peer, t := range m.now.sessions {
		b, err := t.session.Marshal(context.Background(), m.env(t))
		if err != nil {
			return err
		}
		s, err := UnmarshalSession(m.identity.Public(), b)
		if err != nil {
			return err
		}
		m.now.sessions[peer] = &talk{session: s, model: t.model}
	}
	return h.commit(m)
}

// agree compares a session with the model's.
func (h *history) agree(m, peer *member) error {
	t := m.now.sessions[peer]
	if t == nil {
		return nil
	}
	s, want := t.session, t.model
	remote := slices.IndexFunc(h.members, func(m *member) bool { return m.number == want.remote })
	if len(s.states) != len(want.states) || s.current != want.current || (s.pending == nil) != (want.pending == nil) ||
		s.pending != nil && s.pending.id != want.pending.id || s.remote != h.members[remote].identity.Public() {
		return fmt.Errorf("session of %s with %s: %d states, current %v, want %+v", m.name, peer.name, len(s.states), s.current, want)
	}
	for _, state := range s.states {
		got, want := state.state, want.states[state.tag]
		if int(got.send.chain.index) != want.send.index || int(got.previous) != want.previous || len(got.receive) != len(want.receive) {
			return fmt.Errorf("state sends from %d after %d, %d chains; want %+v", got.send.chain.index, got.previous, len(got.receive), want)
		}
		for i, c := range got.receive {
			var kept []int
			for _, p := range c.kept {
				for bit := range 32 {
					if p.has&(1<<bit) != 0 {
						kept = append(kept, int(p.number)*32+bit)
					}
				}
			}
			if int(c.chain.index) != want.receive[i].index || !slices.Equal(kept, want.receive[i].kept) {
				return fmt.Errorf("chain %d at %d keeps %d, want %+v", i, c.chain.index, kept, want.receive[i])
			}
		}
	}
	return nil
}

// Whatever happens to messages and devices, each message is read or refused as the model
// says, and read once.
func TestHistories(t *testing.T) {
	t.Parallel()
	const parts = 4
	var counts [parts]map[string]int
	t.Run("seeds", func(t *testing.T) {
		for part := range uint64(parts) {
			t.Run(fmt.Sprint(part), func(t *testing.T) {
				t.Parallel()
				counts[part] = map[string]int{}
				for seed := *history1 + part; seed < *history1+*histories; seed += parts {
					h, err := newHistory(seed)
					for step := 0; err == nil && step < 50; step++ {
						err = h.step()
					}
					if err != nil {
						t.Fatalf("history %d: %v; it was:\n%s", seed, err, strings.Join(h.log, "\n"))
					}
					for what, n := range h.count {
						counts[part][what] += n
					}
				}
			})
		}
	})
	total := map[string]int{}
	for _, c := range counts {
		for what, n := range c {
			total[what] += n
		}
	}
	if t.Failed() || *histories < 1000 {
		return
	}
	t.Log(total)
	for _, what := range []string{"open", "send", "deliver", "lose", "delete", "crash", "move", "commit", "floor", "read and kept"} {
		if total[what] < 20 {
			t.Errorf("%q has happened %d times", what, total[what])
		}
	}
	for code := range classes {
		// What a history has no way to.
		if slices.Contains([]Code{CodeMalformed, CodeMessageType, CodeLength, CodeDegenerateKey, CodeBadPoint, CodeSessionNotFound, CodeBadSignature,
			CodeLocalIdentityChanged, CodeExhausted}, code) {
			continue
		}
		if n := total[fmt.Sprint("code ", code)]; n < 5 {
			t.Errorf("code %d has come %d times", code, n)
		}
	}
}
