// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// maxStates is how many states a session may have; at the hundredth the oldest goes.
const maxStates = 99

// An Env is what an operation needs from outside the engine. A Session keeps nothing of it.
type Env struct {
	// Identity is ours. Decrypt needs it only of a message that opens a state: PreKey, which it
	// calls before, may set it.
	Identity *IdentityKeyPair
	// PreKey finds a prekey of ours: core.ErrNotFound if there is none; nil: there are none.
	PreKey func(ctx context.Context, id uint16) (*PreKey, error)
	// Fetch reads the records of the session that the operation is called on; nil if it
	// was never stored.
	Fetch record.Fetch
	// Random is where seeds and tags come from, in the order in which the description of
	// each operation says; nil: crypto/rand.
	Random io.Reader
}

// A Session is what two devices have with one another. It has a state for each time that
// one of them opened it from a prekey, and sends in that which was last read in.
type Session struct {
	local, remote PublicKey
	current       Tag
	pending       *pendingPreKey
	states        []taggedState // the oldest first
	left          []Floor       // of send chains that were used and then left; not stored
}

type taggedState struct {
	tag    Tag
	number uint32 // which names its records: the tag is on the wire, and says too much in a store
	state  *state
}

// SessionFromPreKey opens a session by a bundle of the peer's. A signature that the bundle
// has must be good: ErrInvalidSignature. It draws the base key's seed, the ratchet key's
// seed, 32 bytes each, and the tag, 16 bytes.
func SessionFromPreKey(env *Env, bundle *PreKeyBundle) (*Session, error) {
	if err := bundle.Verify(); err != nil {
		return nil, err
	}
	state, base, err := initiate(env.Random, env.Identity.pair, bundle)
	if err != nil {
		return nil, err
	}
	s := &Session{local: env.Identity.Public(), remote: bundle.Identity, pending: &pendingPreKey{bundle.ID, base}}
	if _, err := io.ReadFull(source(env.Random), s.current[:]); err != nil {
		return nil, fmt.Errorf("proteus: random bytes: %w", err)
	}
	s.states = []taggedState{{tag: s.current, state: state}}
	return s, nil
}

// A Decrypted is a message, and what reading it has made of a session.
type Decrypted struct {
	Session   *Session
	Plaintext []byte
	// UsedPreKey is the prekey by which the message has opened a state. It is to be deleted
	// in the same write that stores the session, unless it is LastResortPreKeyID.
	UsedPreKey *uint16
}

// SessionFromMessage opens a session by a message of a peer who had one of our prekeys, and
// reads the message. Who the peer is, is in it: see [Session.Remote]. ErrInvalidMessage if
// it is none that opens a session, ErrPreKeyNotFound if we do not have the prekey. It draws
// the seed of a ratchet key.
func SessionFromMessage(ctx context.Context, env *Env, message []byte) (*Decrypted, error) {
	e, err := parseEnvelope(message)
	if err != nil {
		return nil, err
	}
	if e.preKey == nil {
		return nil, e.refused(failed(CodeNoPreKeyMessage, "it is not the first of a session"))
	}
	d, err := (&Session{local: env.Identity.Public(), remote: e.preKey.identity}).openFromPreKey(ctx, env, e)
	return d, e.refused(err)
}

// Encrypt encrypts a message for the peer. The result is to be sent once the session that
// comes with it is stored, and never a second message in the session before: both would
// have the same key. core.ErrTooLarge above some 5 MiB, ErrSessionNotFound if the
// session's current state is gone.
func (s *Session) Encrypt(plaintext []byte) (*Session, []byte, error) {
	i := s.find(s.current)
	if i < 0 {
		return nil, nil, failed(CodeSessionNotFound, "no state %v", s.current)
	}
	state, message, err := s.states[i].state.seal(s.current, s.pending, s.local, plaintext)
	if err != nil {
		return nil, nil, err
	}
	next := *s
	next.states = slices.Clone(s.states)
	next.states[i].state = state
	return &next, message, nil
}

// Decrypt reads a message of the session, also one that opens another state of it; a state
// that is there is not opened again: ErrOutdatedMessage. After an error nothing has changed.
// It draws the seed of a ratchet key for the first message of each turn of the peer's, and
// another where it then opens a state.
func (s *Session) Decrypt(ctx context.Context, env *Env, message []byte) (*Decrypted, error) {
	e, err := parseEnvelope(message)
	if err != nil {
		return nil, err
	}
	if e.preKey != nil && e.preKey.identity != s.remote {
		return nil, e.refused(failed(CodeRemoteIdentityChanged, "it was %s and is %s", s.remote.Fingerprint(), e.preKey.identity.Fingerprint()))
	}
	d, err := s.open(ctx, env, e)
	if e.preKey != nil && (errors.Is(err, ErrInvalidSignature) || errors.Is(err, ErrInvalidMessage)) {
		d, err = s.openFromPreKey(ctx, env, e)
	}
	return d, e.refused(err)
}

// open reads a message in the state that it names.
func (s *Session) open(ctx context.Context, env *Env, e *envelope) (*Decrypted, error) {
	i := s.find(e.cipher.tag)
	if i < 0 {
		return nil, failed(CodeNoState, "state %v", e.cipher.tag)
	}
	state, plaintext, err := s.states[i].state.open(env.Random, e, env.pages(ctx, s.states[i].number))
	if err != nil {
		return nil, err
	}
	return &Decrypted{Session: s.with(e.cipher.tag, state), Plaintext: plaintext}, nil
}

// openFromPreKey reads a message in a new state, which it opens.
func (s *Session) openFromPreKey(ctx context.Context, env *Env, e *envelope) (*Decrypted, error) {
	var preKey *PreKey
	err := core.ErrNotFound
	if env.PreKey != nil {
		preKey, err = env.PreKey(ctx, e.preKey.id)
	}
	if errors.Is(err, core.ErrNotFound) {
		return nil, failed(CodePreKeyNotFound, "prekey %d", e.preKey.id)
	}
	if err != nil {
		return nil, err
	}
	called, err := respond(env.Identity.pair, preKey, e.preKey)
	if err != nil {
		return nil, err
	}
	defer wipe([]core.Secret{called.root, called.send.chain.key, called.send.pair.seed}, nil)
	state, plaintext, err := called.open(env.Random, e, nil) // which keeps nothing that is to be read
	if err != nil {
		return nil, err
	}
	if s.find(e.cipher.tag) >= 0 {
		// The prekey of last resort opens as often as the message comes. A new state would
		// take the place of the one that it has opened before, and nobody have the other half.
		wipe(state.secrets(), nil)
		clear(plaintext)
		return nil, failed(CodeOutdated, "it has opened state %v, which is there", e.cipher.tag)
	}
	return &Decrypted{Session: s.with(e.cipher.tag, state), Plaintext: plaintext, UsedPreKey: &e.preKey.id}, nil
}

// with is the session after a message was read: its state is the current one.
func (s *Session) with(tag Tag, state *state) *Session {
	next := *s
	next.pending, next.current = nil, tag
	next.states = slices.Clone(s.states)
	if i := s.find(tag); i >= 0 {
		next.leave(next.states[i].state, state)
		next.states[i].state = state
	} else {
		next.states = append(next.states, taggedState{tag, next.number(), state})
	}
	if len(next.states) > maxStates { // one each time, as both implementations do
		oldest := 0
		if next.states[0].tag == tag {
			oldest = 1
		}
		next.leave(next.states[oldest].state, nil)
		next.states = slices.Delete(next.states, oldest, oldest+1)
	}
	return &next
}

// number is one that no state has.
func (s *Session) number() (n uint32) {
	for _, t := range s.states {
		n = max(n, t.number+1)
	}
	return n
}

func (s *Session) find(tag Tag) int {
	return slices.IndexFunc(s.states, func(t taggedState) bool { return t.tag == tag })
}

// Local is our identity key.
func (s *Session) Local() PublicKey { return s.local }

// Remote is the peer's identity key.
func (s *Session) Remote() PublicKey { return s.remote }

// Format shows the peer's fingerprint only, by whatever verb.
func (s *Session) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "Session("+s.remote.Fingerprint()+")")
}

// Wipe erases the secrets that the session holds in memory, but for those that another value
// of it shares, which may be nil.
func (s *Session) Wipe(but *Session) {
	if but == nil {
		for _, t := range s.states {
			t.state.eachSecret(core.Secret.Wipe)
		}
		return
	}
	for _, secret := range s.secrets(but) {
		secret.Wipe()
	}
}

// secrets are all that the session holds in memory, and another value of it, which may be nil,
// does not. States with different tags share none.
func (s *Session) secrets(but *Session) (out []core.Secret) {
	for _, t := range s.states {
		other := new(state)
		if but != nil {
			if i := but.find(t.tag); i >= 0 {
				other = but.states[i].state
			}
		}
		if t.state != other {
			out = append(out, unshared(t.state.secrets(), other.secrets())...)
		}
	}
	return out
}
