// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/internal/parallel"
	"github.com/conclave-mls/conclave/core/proteus"
)

// there holds a session that there is: proteus.ErrSessionNotFound.
func (p Proteus) there(ctx context.Context, name string) (*heldSession, error) {
	held, err := p.hold(ctx, name)
	if err != nil {
		return nil, err
	}
	if held[0].session == nil {
		return nil, &proteus.Error{Code: proteus.CodeSessionNotFound, Detail: fmt.Sprintf("%q", name)}
	}
	return held[0], nil
}

// SessionFromPreKey opens a session by a bundle of the other side, in place of the one of
// this name if there is one: what was written in that cannot be read any more. A signature
// in the bundle must be good.
func (p Proteus) SessionFromPreKey(ctx context.Context, name string, bundle []byte) error {
	return p.t.do(ctx, func() error {
		b, err := proteus.UnmarshalPreKeyBundle(bundle)
		if err != nil {
			return err
		}
		return p.open(ctx, name, func(h *heldSession, env *proteus.Env) (*proteus.Session, error) {
			return proteus.SessionFromPreKey(env, b)
		})
	})
}

// SessionFromMessage opens a session by the first message of the other side, in place of
// the one of this name if there is one, and reads the message. The prekey that it names is
// used up, unless it is that of last resort.
func (p Proteus) SessionFromMessage(ctx context.Context, name string, message []byte) ([]byte, error) {
	return in(ctx, p.t, func() ([]byte, error) { return p.fromMessage(ctx, name, message) })
}

func (p Proteus) fromMessage(ctx context.Context, name string, message []byte) (plaintext []byte, err error) {
	err = p.open(ctx, name, func(h *heldSession, env *proteus.Env) (*proteus.Session, error) {
		d, err := proteus.SessionFromMessage(ctx, env, message)
		if err != nil {
			return nil, p.explain(ctx, h, err)
		}
		p.usedPreKey(d.UsedPreKey)
		plaintext = d.Plaintext
		return d.Session, nil
	})
	return plaintext, err
}

// open makes a session in place of what is there.
func (p Proteus) open(ctx context.Context, name string, make func(*heldSession, *proteus.Env) (*proteus.Session, error)) error {
	held, err := p.salvage(ctx, name)
	if err != nil {
		return err
	}
	env, done := p.env(name)
	defer done()
	if env.Identity, err = p.identity(ctx); err != nil {
		return err
	}
	next, err := make(held[0], env)
	if err != nil {
		return err
	}
	return p.replace(ctx, held[0], next)
}

// env is what the engine needs from us; the identity with the first prekey, as other messages
// need neither. done wipes what it got.
func (p Proteus) env(name string) (env *proteus.Env, done func()) {
	var asked []*proteus.PreKey
	env = &proteus.Env{Fetch: p.t.segment.fetch(ofSession(name))}
	env.PreKey = func(ctx context.Context, id uint16) (k *proteus.PreKey, err error) {
		if env.Identity, err = p.identity(ctx); err != nil {
			return nil, err
		}
		if k, err = p.preKey(ctx, id); err == nil {
			asked = append(asked, k)
		}
		return k, err
	}
	return env, func() {
		for _, k := range asked {
			k.Wipe()
		}
	}
}

// Encrypt encrypts for a session: proteus.ErrSessionNotFound if there is none,
// ErrRecovering if the store was put back since it was made, and its keys may have been
// used: open it again by a prekey. The result is to be sent once the transaction is
// durable.
func (p Proteus) Encrypt(ctx context.Context, name string, plaintext []byte) (message []byte, err error) {
	err = p.t.do(ctx, func() error {
		h, err := p.there(ctx, name)
		if err == nil {
			err = p.writable(h)
		}
		if err == nil {
			message, err = h.encrypt(plaintext)
		}
		return err
	})
	return message, err
}

// EncryptBatched encrypts the same for many sessions, each once, in one read and one write.
// Names that no session has are not in the result. If one of the sessions cannot be written
// in, ErrRecovering, no key of the others is used.
func (p Proteus) EncryptBatched(ctx context.Context, names []string, plaintext []byte) (messages map[string][]byte, err error) {
	messages = make(map[string][]byte, len(names))
	err = p.t.do(ctx, func() error {
		names = slices.Compact(slices.Sorted(slices.Values(names)))
		held, err := p.hold(ctx, names...)
		if err != nil {
			return err
		}
		held = slices.DeleteFunc(held, func(h *heldSession) bool { return h.session == nil })
		for _, h := range held {
			if err := p.writable(h); err != nil {
				return err
			}
		}
		sealed, errs := make([][]byte, len(held)), make([]error, len(held))
		parallel.Do(len(held), func(i int) { sealed[i], errs[i] = held[i].encrypt(plaintext) })
		for i, h := range held {
			if errs[i] != nil {
				return errs[i]
			}
			messages[h.name] = sealed[i]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return messages, nil
}

// A usedSince is [ErrRecovering] of what is no conversation: those words are not for it.
type usedSince string

func (e usedSince) Error() string { return string(e) }
func (usedSince) Unwrap() error   { return ErrRecovering }

// writable says whether the session's keys are known to be unused.
func (p Proteus) writable(h *heldSession) error {
	if h.head.accidents != p.t.client.accidents {
		return usedSince(fmt.Sprintf("session %q: the store was put back since it was made", h.name))
	}
	return nil
}

func (h *heldSession) encrypt(plaintext []byte) ([]byte, error) {
	next, message, err := h.session.Encrypt(plaintext)
	if err != nil {
		return nil, err
	}
	h.step(next)
	return message, nil
}

// Decrypt reads a message of a session: proteus.ErrSessionNotFound if there is none; see
// there for what else may be wrong. After an error nothing has changed.
func (p Proteus) Decrypt(ctx context.Context, name string, message []byte) ([]byte, error) {
	return in(ctx, p.t, func() ([]byte, error) {
		h, err := p.there(ctx, name)
		if err != nil {
			return nil, err
		}
		return p.decrypt(ctx, h, message)
	})
}

// DecryptSafe is Decrypt if there is a session, else SessionFromMessage.
func (p Proteus) DecryptSafe(ctx context.Context, name string, message []byte) ([]byte, error) {
	return in(ctx, p.t, func() ([]byte, error) {
		held, err := p.hold(ctx, name)
		if err != nil {
			return nil, err
		}
		if held[0].session == nil {
			return p.fromMessage(ctx, name, message)
		}
		return p.decrypt(ctx, held[0], message)
	})
}

func (p Proteus) decrypt(ctx context.Context, h *heldSession, message []byte) ([]byte, error) {
	env, done := p.env(h.name)
	defer done()
	d, err := h.session.Decrypt(ctx, env, message)
	if err != nil {
		return nil, p.explain(ctx, h, err)
	}
	p.usedPreKey(d.UsedPreKey)
	h.step(d.Session)
	return d.Plaintext, nil
}

// explain tells what is wrong with a message from a session that another process has
// changed meanwhile.
func (p Proteus) explain(ctx context.Context, h *heldSession, err error) error {
	if !errors.Is(err, core.ErrDamaged) && !Blames(err) {
		return err
	}
	r, _, again := newSegment(p.t.client.store).get(ctx, at(tableSession, h.name), theOnly)
	if again == nil && r.Version != h.version {
		return fmt.Errorf("the session changed while it was read: %w", core.ErrConflict)
	}
	return err
}

// Exists says whether there is a session of this name. That it cannot be read is an error.
func (p Proteus) Exists(ctx context.Context, name string) (bool, error) {
	return in(ctx, p.t, func() (bool, error) {
		held, err := p.hold(ctx, name)
		return err == nil && held[0].session != nil, err
	})
}

// Delete deletes a session, if there is one.
func (p Proteus) Delete(ctx context.Context, name string) error {
	return p.t.do(ctx, func() error {
		held, err := p.salvage(ctx, name)
		if err != nil || !held[0].exists {
			return err
		}
		h := held[0]
		list, err := p.t.segment.set(ctx, sessionList)
		if err != nil {
			return err
		}
		list.remove(be64(h.head.sequence))
		h.drop(p.t.segment)
		h.exists, h.dirty = false, true
		return nil
	})
}

// Sessions lists the names of all sessions, in the order in which they came.
func (p Proteus) Sessions(ctx context.Context) ([]string, error) {
	return in(ctx, p.t, func() ([]string, error) { return names[string](ctx, p.t.segment, sessionList) })
}

// Recovering lists the sessions that were made before the store was put back: their keys may
// have been used since, so they are read in, and Encrypt is ErrRecovering until
// SessionFromPreKey or SessionFromMessage makes them again.
func (p Proteus) Recovering(ctx context.Context) (list []string, err error) {
	err = p.t.do(ctx, func() error {
		if p.t.client.accidents == 0 {
			return nil
		}
		s := p.t.segment
		all, err := names[string](ctx, s, sessionList)
		if err != nil {
			return err
		}
		for page := range slices.Chunk(all, usesPage) {
			queries := make([]query, len(page))
			for i, name := range page {
				queries[i] = one(at(tableSession, name), theOnly)
			}
			answers, err := s.read(ctx, queries...)
			if err != nil {
				return err
			}
			for i, name := range page {
				var head sessionHead
				switch held, ok := s.held[queries[i].place].party.(*heldSession); {
				case ok:
					head = held.head
				case len(answers[i]) == 0: // deleted meanwhile
					continue
				default:
					if head, err = decodeSessionHead(answers[i][0].Value); err != nil {
						return err
					}
				}
				if head.accidents != p.t.client.accidents {
					list = append(list, name)
				}
			}
		}
		return nil
	})
	return list, err
}

// sessionList is the set of all sessions.
var sessionList = at(tableSessions, "")

// Fingerprints are the identity keys of both sides of a session, as 64 lowercase
// hexadecimal digits each: ours, as the session has it, and that of the peer.
func (p Proteus) Fingerprints(ctx context.Context, name string) (local, remote string, err error) {
	err = p.t.do(ctx, func() error {
		h, err := p.there(ctx, name)
		if err == nil {
			local, remote = h.session.Local().Fingerprint(), h.session.Remote().Fingerprint()
		}
		return err
	})
	return local, remote, err
}

// A ProteusSession is one session, for who does several things with it in a transaction.
type ProteusSession struct {
	p    Proteus
	name string
}

// Session gives a session: false if there is none of this name.
func (p Proteus) Session(ctx context.Context, name string) (*ProteusSession, bool, error) {
	exists, err := p.Exists(ctx, name)
	if err != nil || !exists {
		return nil, false, err
	}
	return &ProteusSession{p, name}, true, nil
}

// Name is the name that the application has given it.
func (s *ProteusSession) Name() string { return s.name }

// Fingerprints is [Proteus.Fingerprints] of the session.
func (s *ProteusSession) Fingerprints(ctx context.Context) (local, remote string, err error) {
	return s.p.Fingerprints(ctx, s.name)
}

// Encrypt is [Proteus.Encrypt] for the session.
func (s *ProteusSession) Encrypt(ctx context.Context, plaintext []byte) ([]byte, error) {
	return s.p.Encrypt(ctx, s.name, plaintext)
}

// Decrypt is [Proteus.Decrypt] of the session.
func (s *ProteusSession) Decrypt(ctx context.Context, message []byte) ([]byte, error) {
	return s.p.Decrypt(ctx, s.name, message)
}
