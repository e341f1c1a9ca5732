// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"fmt"
	"io"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// maxReceiveChains is how many turns of the peer a state can still read late messages of.
const maxReceiveChains = 5

// A state is one double ratchet of a session. It does not change once a Session has it.
type state struct {
	root     core.Secret // 32 bytes
	previous uint32      // how far the send chain before had come
	send     sendChain
	receive  []receiveChain // the newest first
	numbers  uint32         // the next receive chain's
}

type sendChain struct {
	chain chainKey
	pair  keyPair // the ratchet key of our turn
}

type receiveChain struct {
	chain   chainKey
	ratchet PublicKey // of the peer's turn
	kept    kept
	number  uint32 // of the chain in its state, which names its records
}

// handshake gives the root key and the first chain key of a session from the three shared
// secrets of who opens it and who is called.
func handshake(secrets ...core.Secret) (root core.Secret, first chainKey) {
	master := make([]byte, 0, 96)
	for _, s := range secrets {
		master = append(master, s.Bytes()...)
		s.Wipe()
	}
	defer clear(master)
	root, first.key = derive(master, nil, "handshake")
	return root, first
}

// rootStep gives the next root key, and the chain key of a turn.
func rootStep(root core.Secret, ours keyPair, theirs PublicKey) (core.Secret, chainKey, error) {
	shared, err := ours.agree(theirs)
	if err != nil {
		return core.Secret{}, chainKey{}, err
	}
	defer shared.Wipe()
	next, key := derive(shared.Bytes(), root.Bytes(), "dh_ratchet")
	return next, chainKey{key: key}, nil
}

// initiate is the state of who opens a session. It draws the seeds of the base key and of
// the first ratchet key, in this order.
func initiate(random io.Reader, identity keyPair, bundle *PreKeyBundle) (*state, PublicKey, error) {
	base, err := generate(random)
	if err != nil {
		return nil, PublicKey{}, err
	}
	defer base.seed.Wipe()
	var secrets [3]core.Secret
	for i, d := range []struct {
		ours   keyPair
		theirs PublicKey
	}{{identity, bundle.Key}, {base, bundle.Identity}, {base, bundle.Key}} {
		if secrets[i], err = d.ours.agree(d.theirs); err != nil {
			return nil, PublicKey{}, err
		}
	}
	root, first := handshake(secrets[:]...)
	defer root.Wipe()
	s := &state{receive: []receiveChain{{chain: first, ratchet: bundle.Key}}, numbers: 1}
	if s.send.pair, err = generate(random); err != nil {
		return nil, PublicKey{}, err
	}
	if s.root, s.send.chain, err = rootStep(root, s.send.pair, bundle.Key); err != nil {
		return nil, PublicKey{}, err
	}
	return s, base.public, nil
}

// respond is the state of who was called, before the first message: its send chain carries
// none, as that message ratchets.
func respond(identity keyPair, preKey *PreKey, m *preKeyMessage) (*state, error) {
	var secrets [3]core.Secret
	var err error
	for i, d := range []struct {
		ours   keyPair
		theirs PublicKey
	}{{preKey.pair, m.identity}, {identity, m.base}, {preKey.pair, m.base}} {
		if secrets[i], err = d.ours.agree(d.theirs); err != nil {
			return nil, err
		}
	}
	s := new(state)
	s.root, s.send.chain = handshake(secrets[:]...)
	s.send.pair = keyPair{preKey.pair.seed.Clone(), preKey.pair.public}
	return s, nil
}

// seal encrypts a message in the state, and gives the next one.
func (s *state) seal(tag Tag, pending *pendingPreKey, identity PublicKey, plaintext []byte) (*state, []byte, error) {
	if s.send.chain.index > maxIndex {
		return nil, nil, failed(CodeExhausted, "state %v", tag)
	}
	keys := s.send.chain.messageKeys()
	defer keys.wipe()
	message := newMessage(pending, identity, &cipherMessage{
		tag: tag, counter: keys.counter, previous: s.previous, ratchet: s.send.pair.public, ciphertext: plaintext,
	})
	keys.crypt(message[len(message)-len(plaintext):], plaintext) // where it is now
	if len(message) > maxBytes {
		return nil, nil, fmt.Errorf("proteus: message of %d bytes: %w", len(plaintext), core.ErrTooLarge)
	}
	next := *s
	next.send.chain = s.send.chain.next()
	return &next, newEnvelope(keys.authenticate(message), message), nil
}

// open decrypts a message in the state, and gives the next one. A message of a new turn
// draws the seed of our next ratchet key. load may be nil if the state has no records.
func (s *state) open(random io.Reader, e *envelope, load func(chain uint32) loadPage) (*state, []byte, error) {
	next := *s
	next.receive = slices.Clone(s.receive)
	i := slices.IndexFunc(next.receive, func(c receiveChain) bool { return c.ratchet == e.cipher.ratchet })
	if i < 0 {
		if err := next.turn(random, e.cipher.ratchet); err != nil {
			return nil, nil, err
		}
		i = 0
	}
	var pages loadPage
	if load != nil {
		pages = load(next.receive[i].number)
	}
	c, plaintext, err := next.receive[i].open(e, pages)
	if err != nil {
		wipe(next.secrets(), s.secrets())
		return nil, nil, err
	}
	next.receive[i] = c
	return &next, plaintext, nil
}

// turn is a step of the ratchet: the chain of the peer's turn, and that of ours after it.
func (s *state) turn(random io.Reader, theirs PublicKey) (err error) {
	fresh, err := generate(random)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fresh.seed.Wipe()
		}
	}()
	root, receive, err := rootStep(s.root, s.send.pair, theirs)
	if err != nil {
		return err
	}
	defer root.Wipe()
	previous := uint32(min(s.send.chain.index, maxIndex))
	var send chainKey
	if s.root, send, err = rootStep(root, fresh, theirs); err != nil {
		return err
	}
	s.previous, s.send = previous, sendChain{send, fresh}
	s.receive = slices.Insert(s.receive, 0, receiveChain{chain: receive, ratchet: theirs, number: s.numbers})
	s.receive = s.receive[:min(len(s.receive), maxReceiveChains)]
	s.numbers++
	return nil
}

// open decrypts a message of the chain, and gives the chain after it.
func (c receiveChain) open(e *envelope, load loadPage) (receiveChain, []byte, error) {
	n := uint64(e.cipher.counter)
	switch {
	case n < c.chain.index:
		return c.openLate(e, load)
	case n-c.chain.index > maxGap && c.chain.index == 0:
		return c, nil, failed(CodeTooDistantUnused, "message %d of a chain of which none was read", n)
	case n-c.chain.index > maxGap:
		return c, nil, failed(CodeTooDistant, "message %d, the next would be %d", n, c.chain.index)
	}
	// Keys are kept only once the message is known to be good: before, a counter costs one
	// hash for each message that it claims to have passed over.
	chain := chainKey{c.chain.key.Clone(), c.chain.index}
	defer func() { chain.key.Wipe() }()
	for chain.index < n {
		chain.step()
	}
	keys := chain.messageKeys()
	defer keys.wipe()
	if !keys.verifies(e) {
		if n == c.chain.index {
			return c, nil, failed(CodeBadMACInSync, "message %d", n)
		}
		return c, nil, failed(CodeBadMACAhead, "message %d, the next would be %d", n, c.chain.index)
	}
	if n > c.chain.index {
		var later []messageKeys
		chain.key.Wipe()
		for chain = (chainKey{c.chain.key.Clone(), c.chain.index}); chain.index < n; chain.step() {
			later = append(later, chain.messageKeys())
		}
		var err error
		if c.kept, err = c.kept.with(later, load); err != nil {
			return c, nil, err
		}
	}
	c.chain = chain.next()
	plaintext := make([]byte, len(e.cipher.ciphertext))
	keys.crypt(plaintext, e.cipher.ciphertext)
	return c, plaintext, nil
}

// openLate is open for a message that was passed over, if it was.
func (c receiveChain) openLate(e *envelope, load loadPage) (receiveChain, []byte, error) {
	n := e.cipher.counter
	i, ok := c.kept.find(n)
	switch {
	case len(c.kept) > 0 && c.kept.first() > n:
		return c, nil, failed(CodeOutdated, "message %d, the oldest that was passed over is %d", n, c.kept.first())
	case !ok:
		return c, nil, failed(CodeDuplicate, "message %d", n)
	}
	page, err := c.kept[i].load(load)
	if err != nil {
		return c, nil, err
	}
	defer c.kept[i].done(page)
	keys := c.kept.get(i, n, page)
	defer keys.wipe()
	if !keys.verifies(e) {
		return c, nil, failed(CodeBadMACBehind, "message %d, the next would be %d", n, c.chain.index)
	}
	c.kept = c.kept.without(i, n, page)
	plaintext := make([]byte, len(e.cipher.ciphertext))
	keys.crypt(plaintext, e.cipher.ciphertext)
	return c, plaintext, nil
}

// secrets are all that the state holds in memory.
func (s *state) secrets() []core.Secret {
	out := make([]core.Secret, 0, 3+maxReceiveChains)
	s.eachSecret(func(secret core.Secret) {
		if !secret.IsZero() {
			out = append(out, secret)
		}
	})
	return out
}

func (s *state) eachSecret(f func(core.Secret)) {
	f(s.root)
	f(s.send.chain.key)
	f(s.send.pair.seed)
	for _, c := range s.receive {
		f(c.chain.key)
		for _, p := range c.kept {
			f(p.keys)
		}
	}
}

// unshared gives those of secrets whose memory none of others has.
func unshared(secrets, others []core.Secret) []core.Secret {
	return slices.DeleteFunc(secrets, func(s core.Secret) bool {
		return slices.ContainsFunc(others, func(o core.Secret) bool { return same(s, o) })
	})
}

// wipe erases those of secrets that are not among those to stay.
func wipe(secrets, stay []core.Secret) {
	for _, s := range unshared(secrets, stay) {
		s.Wipe()
	}
}
