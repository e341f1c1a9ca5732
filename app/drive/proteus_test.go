// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/conclave-mls/conclave/core/proteus"
)

var proteusHistories = flag.Uint64("histories", 1000, "how many random histories of Proteus are played with each peer")

// A side is one of the two devices of a history: who plays it, and what the model says.
type side struct {
	party
	*modelDevice
	called  string
	coming  []letter // messages that are on their way to it
	read    []letter // those that it has read
	bundles []publishedBundle

	before *modelDevice // of ours, when the transaction began that is open; nil: none is
	unsent []letter     // that it has encrypted
	again  []letter     // that it has read
}

// A letter is a message on its way.
type letter struct {
	bytes, plaintext []byte
	modelMessage
}

type publishedBundle struct {
	bytes []byte
	modelBundle
}

// A historyKind says what a history has more of than others.
type historyKind int

const (
	mixed  historyKind = iota
	calm               // no session is opened anew, and messages come late: there are many turns
	oneWay             // one device sends, seldom read, and most of what it sends is lost
)

// A proteusHistory is what two devices do at random, one of which is ours.
type proteusHistory struct {
	*rand.Rand
	*names
	sides [2]*side
	kind  historyKind
	log   []string
}

func (h *proteusHistory) logf(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

// oneIn is true once in n times.
func (h *proteusHistory) oneIn(n int) bool { return h.IntN(n) == 0 }

// expect compares what a party has done with what the model says.
func (h *proteusHistory) expect(s *side, code proteus.Code, err error) error {
	h.happens[fmt.Sprint(code)]++
	switch {
	case code == 0 && err != nil:
		return fmt.Errorf("%s refuses (%s): %w", s.called, s.says(err), err)
	case code != 0 && err == nil:
		return fmt.Errorf("%s does not refuse; wanted %q", s.called, s.saying(code))
	case code != 0 && !slices.Contains(s.saying(code), s.says(err)):
		return fmt.Errorf("%s refuses with %q, wanted %q: %w", s.called, s.says(err), s.saying(code), err)
	}
	return nil
}

// publish is a bundle of a device's: a new one, that of the last resort, or one that was
// published before and perhaps used.
func (h *proteusHistory) publish(s *side) (publishedBundle, error) {
	if len(s.bundles) > 0 && h.oneIn(6) {
		return s.bundles[h.IntN(len(s.bundles))], nil
	}
	b, encoded, err := s.preKey(h.oneIn(6))
	if err != nil {
		return publishedBundle{}, err
	}
	if s.preKeys[b.ID] == 0 {
		s.preKeys[b.ID] = h.fresh()
	}
	p := publishedBundle{encoded, modelBundle{b.ID, s.preKeys[b.ID], s.identity}}
	s.bundles = append(s.bundles, p)
	return p, nil
}

// open has a device open a session, in the place of one that it has.
func (h *proteusHistory) open(s, other *side) error {
	b, err := h.publish(other)
	if err != nil {
		return err
	}
	h.logf("%s opens by prekey %d", s.called, b.id)
	s.modelDevice.open(b.modelBundle)
	return h.expect(s, 0, s.openSession(b.bytes))
}

// plaintext is of any length: Core Crypto writes those of 65536 bytes or more in a form of its
// own.
func (h *proteusHistory) plaintext() []byte {
	n := h.IntN(60)
	switch {
	case h.oneIn(400):
		n = 65530 + h.IntN(20)
		h.happens["long"]++
	case h.oneIn(20):
		n = h.IntN(2000)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(h.IntN(256))
	}
	return b
}

// send has a device use n keys; the last message is sent, the others are lost.
func (h *proteusHistory) send(s, other *side, n int) error {
	if s.session == nil {
		n = 1 // Core Crypto says nothing of many
	}
	plaintext := h.plaintext()
	h.logf("%s encrypts %d times, %d bytes", s.called, n, len(plaintext))
	m, code := s.modelDevice.encrypt(n)
	message, err := s.party.encrypt(plaintext, n)
	if err := h.expect(s, code, err); err != nil || code != 0 {
		return err
	}
	w := layOut(message)
	if counter, previous := number(w.b[w.counter:]), number(w.b[w.previous:]); counter != m.counter || previous != m.previous {
		return fmt.Errorf("%s writes the counter %d after %d, wanted %d after %d", s.called, counter, previous, m.counter, m.previous)
	}
	l := letter{message, plaintext, m}
	if s.before != nil {
		s.unsent = append(s.unsent, l)
	} else {
		other.coming = append(other.coming, l)
	}
	return nil
}

// begin has ours do what follows in one transaction.
func (h *proteusHistory) begin(s *side) error {
	h.logf("%s begins a transaction", s.called)
	s.before, s.unsent, s.again = s.modelDevice.clone(), nil, nil
	return s.party.(*clientParty).begin()
}

// end ends it: it becomes durable; or is undone, perhaps when all that it has encrypted has
// left, against the rule; or the process dies, and the next one knows nothing of it.
func (h *proteusHistory) end(s, other *side, how string) (err error) {
	h.logf("the transaction of %s: %s", s.called, how)
	h.happens[how]++
	c := s.party.(*clientParty)
	if how == died {
		err = c.restart()
	} else {
		err = c.finish(how != finished)
	}
	if how == finished || how == undoneLate {
		other.coming = append(other.coming, s.unsent...)
	}
	if how != finished {
		s.modelDevice = s.modelDevice.undone(s.before, how != died)
		s.coming = append(s.coming, s.again...)
	}
	s.before = nil
	return err
}

// What becomes of a transaction.
const (
	finished   = "finished"
	undone     = "undone"
	undoneLate = "undone when all was sent"
	died       = "died"
)

// beginOrEnd has ours begin a transaction or end it, now and then.
func (h *proteusHistory) beginOrEnd(s, other *side) error {
	switch {
	case s.before == nil && h.oneIn(12):
		return h.begin(s)
	case s.before != nil && h.oneIn(4):
		return h.end(s, other, []string{finished, finished, undone, undoneLate, died}[h.IntN(5)])
	}
	return nil
}

// ours gives our side and that of the peer.
func (h *proteusHistory) ours() (s, other *side) {
	if _, ok := h.sides[0].party.(*clientParty); ok {
		return h.sides[0], h.sides[1]
	}
	return h.sides[1], h.sides[0]
}

// deliver gives a device a message.
func (h *proteusHistory) deliver(s *side, l letter, how string) error {
	inSession := s.session != nil
	_, s.ours = s.party.(*clientParty)
	code := s.modelDevice.decrypt(l.modelMessage)
	h.logf("%s reads message %d of turn %d of state %d (%s), which is %d", s.called, l.counter, l.ratchet, l.tag, how, code)
	plaintext, err := s.party.decrypt(l.bytes, inSession)
	if err := h.expect(s, code, err); err != nil {
		return err
	}
	if code == 0 && !bytes.Equal(plaintext, l.plaintext) {
		return fmt.Errorf("%s reads %x, sent was %x", s.called, plaintext, l.plaintext)
	}
	return nil
}

// receive gives a device one of the messages that wait.
func (h *proteusHistory) receive(s *side) error {
	if len(s.coming) == 0 {
		return nil
	}
	at := h.IntN(len(s.coming))
	switch {
	case h.kind == mixed && h.oneIn(2):
		at = 0
	case h.kind != mixed && !h.oneIn(5):
		at = len(s.coming) - 1
	}
	l := s.coming[at]
	s.coming = slices.Delete(s.coming, at, at+1)
	s.read = append(s.read, l)
	if s.before != nil {
		s.again = append(s.again, l)
	}
	return h.deliver(s, l, fmt.Sprint("waiting at ", at))
}

// swap has each implementation go on as the device that was the other's.
func (h *proteusHistory) swap() error {
	s, other := h.ours()
	ours, theirs := s.party.(*clientParty), other.party.(*peer)
	h.logf("the implementations change places: %s is the peer's", s.called)
	h.happens["changed places"]++
	gives, err := ours.leave()
	if err != nil {
		return fmt.Errorf("leaving: %w", err)
	}
	takes, err := theirs.leave()
	if err != nil {
		return err
	}
	if err := ours.goAway(); err != nil {
		return err
	}
	if ours, err = newClient(h.Rand, ours.folder, &takes); err != nil {
		return fmt.Errorf("arriving: %w", err)
	}
	// With one state there is one encoding.
	if other.session != nil && len(other.session.states) == 1 {
		h.happens["equal encodings"]++
		if again, err := ours.leave(); err != nil || !bytes.Equal(again.Sessions[peerSession], takes.Sessions[peerSession]) {
			return fmt.Errorf("the session was %x and is %x: %v", takes.Sessions[peerSession], again.Sessions[peerSession], err)
		}
	}
	s.party, other.party = theirs, ours
	return theirs.start(gives)
}

// step is what happens next.
func (h *proteusHistory) step() error {
	n, i := h.IntN(100), h.IntN(2)
	switch {
	case h.kind == calm && n >= 88 && n < 92:
		n = 32
	case h.kind == oneWay && !h.oneIn(10):
		n = []int{0, 32, 72, 76, 84, 84, 92}[h.IntN(7)]
		i = 0
		if n >= 32 && n < 76 {
			i = 1
		}
	}
	s, other := h.sides[i], h.sides[1-i]
	ours, theirs := h.ours()
	if err := h.beginOrEnd(ours, theirs); err != nil {
		return err
	}
	pick := func(list []letter) int { return h.IntN(len(list)) }
	switch {
	case n < 32:
		if s.session == nil && !h.oneIn(5) || s.before != nil && h.oneIn(8) {
			if err := h.open(s, other); err != nil {
				return err
			}
		}
		if h.kind == calm { // an answer
			if err := h.receive(s); err != nil {
				return err
			}
		}
		return h.send(s, other, 1)
	case n < 72:
		return h.receive(s)
	case n < 76:
		if len(s.read) == 0 {
			return nil
		}
		return h.deliver(s, s.read[pick(s.read)], "again")
	case n < 79:
		if len(s.coming) > 0 {
			at := pick(s.coming)
			s.coming = slices.Delete(s.coming, at, at+1)
			h.logf("%s does not get the message at %d", s.called, at)
		}
		return nil
	case n < 84:
		list := s.coming
		if len(list) == 0 || h.oneIn(4) {
			list = s.read
		}
		if len(list) == 0 {
			return nil
		}
		l := list[pick(list)]
		var how string
		how, l.bytes, l.modelMessage = alter(h.Rand, h.names, l.bytes, l.modelMessage)
		h.happens[how]++
		return h.deliver(s, l, "altered: "+how)
	case n < 88:
		gap := []int{2, 3, 5, 31, 32, 33, 100}[h.IntN(7)]
		if h.kind == oneWay || h.oneIn(20) {
			gap = []int{490 + h.IntN(20), 990 + h.IntN(20)}[h.IntN(2)]
		}
		return h.send(s, other, gap)
	case n < 91:
		return h.open(s, other)
	case n < 92:
		h.logf("%s loses the session", s.called)
		s.session = nil
		return h.expect(s, 0, s.drop())
	case n < 97:
		if s.before != nil {
			return h.end(s, other, died)
		}
		h.logf("%s restarts", s.called)
		return h.expect(s, 0, s.restart())
	default:
		if theirs.party.(*peer).db != "" {
			return nil // Core Crypto gives nothing away
		}
		if ours.before != nil {
			if err := h.end(ours, theirs, finished); err != nil {
				return err
			}
		}
		return h.swap()
	}
}

// play is a whole history.
func (h *proteusHistory) play() error {
	first := h.IntN(4) // 2 and 3: both at once
	for i, s := range h.sides {
		if first == i || first > 1 {
			if err := h.open(s, h.sides[1-i]); err != nil {
				return err
			}
			if err := h.send(s, h.sides[1-i], 1); err != nil {
				return err
			}
		}
	}
	steps := 8 + h.IntN(25)
	if h.kind == calm {
		steps *= 2
	}
	for range steps {
		if err := h.step(); err != nil {
			return err
		}
	}
	if s, other := h.ours(); s.before != nil {
		if err := h.end(s, other, finished); err != nil {
			return err
		}
	}
	for i, s := range h.sides {
		for _, l := range s.coming {
			if err := h.deliver(s, l, "at last"); err != nil {
				return err
			}
		}
		local, remote, err := s.fingerprints()
		if s.session == nil {
			continue
		}
		wantLocal, err1 := h.fingerprint(s)
		wantRemote, err2 := h.fingerprint(h.sides[1-i])
		if err != nil || err1 != nil || err2 != nil || local != wantLocal || remote != wantRemote {
			return fmt.Errorf("%s has a session of %s with %s: %v, %v, %v", s.called, local, remote, err, err1, err2)
		}
		if c, ok := s.party.(*clientParty); ok {
			if err := c.wholeRecords(s.session); err != nil {
				return err
			}
		}
	}
	return nil
}

// fingerprint is that of a device, by a bundle of its own.
func (h *proteusHistory) fingerprint(s *side) (string, error) {
	b, _, err := s.preKey(true)
	return b.Identity.Fingerprint(), err
}

// A caster has the devices of a peer, one after another.
type caster struct {
	d      *driver
	folder string // of databases
	rust   bool   // it is Core Crypto
	inst   string
	played int
	left   []uint16 // prekeys of the device from histories before
	last   *peer
}

// perDevice is how many histories use one device of Core Crypto, with a session each: to
// make it takes long.
const perDevice = 100

// cast gives a device of the peer's, with a session of a new name.
func (c *caster) cast() (*peer, error) {
	p := &peer{driver: c.d, inst: c.inst, session: peerSession}
	if c.rust {
		p.session = fmt.Sprint(peerSession, c.played)
		p.db = filepath.Join(c.folder, fmt.Sprintf("%s-%d.db", c.inst, c.played/perDevice))
	}
	begins := !c.rust || c.played%perDevice == 0
	c.played++
	if !begins {
		c.last = p
		return p, nil
	}
	if c.last != nil {
		if _, err := c.last.leave(); err != nil {
			return nil, err
		}
	}
	c.left, c.last = nil, p
	return p, p.start(nil)
}

func (c *caster) play(seed uint64, happens map[string]int) (h *proteusHistory, err error) {
	h = &proteusHistory{
		Rand: rand.New(rand.NewPCG(seed, 7)), names: &names{derived: map[string]name{}, happens: happens},
	}
	switch {
	case seed%50 == 0:
		h.kind = oneWay
	case seed%3 == 0:
		h.kind = calm
	}
	folder := ""
	if seed%8 == 0 {
		folder = c.folder
	}
	ours, err := newClient(h.Rand, folder, nil)
	if err != nil {
		return h, err
	}
	p, err := c.cast()
	if err != nil {
		return h, err
	}
	parties := []party{ours, p}
	if h.kind == oneWay && h.oneIn(2) {
		slices.Reverse(parties)
	}
	for i, party := range parties {
		h.sides[i] = &side{party: party, modelDevice: newModelDevice(h.names), called: []string{"alice", "bob"}[i]}
	}
	theirs := h.sides[slices.Index(parties, party(p))]
	for _, id := range c.left {
		theirs.preKeys[id] = h.fresh()
	}
	err = h.play()
	last, _ := h.ours()
	err = errors.Join(err, last.party.(*clientParty).goAway())
	c.left = theirs.ids()
	return h, err
}

// Random histories of our client with each real implementation: messages that are out of
// order, late, lost, repeated or changed on their way, sessions that both open at once, or
// again after one was lost, gaps up to the limit and beyond, restarts at any time, devices
// that move from one implementation to the other; of ours, transactions that do much or
// little and are then durable, undone, or lost with the process. Both read what is to be read
// and refuse all else for the reason that the model says.
func TestProteusHistories(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *driver{"core-crypto": coreCrypto, "wireapp-proteus": typeScript} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := start(t)
			playProteus(t, caster{d: d, folder: memoryFolder(t), rust: name == "core-crypto"}, *proteusHistories)
		})
	}
}

// memoryFolder is a folder in memory if there is one: a database that writes to a disk after
// each message would take most of the time.
func memoryFolder(t *testing.T) string {
	folder, err := os.MkdirTemp("/dev/shm", "conclave")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return folder
}

func playProteus(t *testing.T, c caster, count uint64) {
	var next atomic.Uint64
	var working sync.WaitGroup
	var mu sync.Mutex
	happened := map[string]int{}
	for worker := range 2 {
		working.Go(func() {
			c := c
			c.inst = fmt.Sprint("device ", worker)
			happens := map[string]int{}
			for n := next.Add(1) - 1; n < count && !t.Failed(); n = next.Add(1) - 1 {
				s := *seed + n
				if h, err := c.play(s, happens); err != nil {
					t.Errorf("seed %d: %v\nagain: go test ./app/drive -run '^%s$' -histories 1 -seed %d\n%s",
						s, err, t.Name(), s, strings.Join(h.log, "\n"))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for what, n := range happens {
				happened[what] += n
			}
		})
	}
	working.Wait()
	t.Log(happened)
	if t.Failed() || count < 1000 {
		return
	}
	want := []string{finished, undone, undoneLate, died, "burnt", "a turn too many", "kept keys too many", "long"}
	for code := range coreCryptoSays {
		want = append(want, fmt.Sprint(code))
	}
	if !c.rust {
		want = append(want, "changed places", "equal encodings")
	}
	for _, what := range want {
		if happened[what] == 0 {
			t.Errorf("in %d histories there is not once %q", count, what)
		}
	}
}
