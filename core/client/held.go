// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// held is a conversation that the open segment of a transaction holds: its head
// and its group as they are after what the segment did.
type held struct {
	id      core.ConversationID
	head    head
	version core.Version // of the head that was read; zero: there was none
	exists  bool         // there is a head
	group   *mls.Group   // of the active incarnation; nil: not in the conversation
	dirty   bool
	retired []core.Secret
	damaged error // why there is no group

	sent   map[uint64][]mls.Floor  // epochs in which this segment encrypted
	floors map[uint64]core.Version // of the floors that were read
}

// hold takes a conversation for the open segment. After an accident of the store it is
// ErrRecovering.
func (t *Transaction) hold(ctx context.Context, id core.ConversationID) (*held, error) {
	h, err := t.holdToRead(ctx, id)
	if err == nil && h.head.lost {
		err = ErrRecovering
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

// holdToRead is hold for who does not use the keys of the group.
func (t *Transaction) holdToRead(ctx context.Context, id core.ConversationID) (*held, error) {
	h, err := t.salvage(ctx, id)
	if err == nil {
		err = h.damaged
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

// salvage is hold for who does without the group if it is damaged: to wipe the
// conversation or to join it again.
func (t *Transaction) salvage(ctx context.Context, id core.ConversationID) (*held, error) {
	if len(id) == 0 {
		return nil, fmt.Errorf("empty conversation id: %w", core.ErrInvalid)
	}
	err := t.take(ctx, func([]place) ([]party, error) {
		h, err := t.load(ctx, id)
		return []party{h}, err
	}, ofConversation(tableConversation, id))
	return t.holding(id), err
}

// holding is the conversation as the open segment holds it; nil if it does not.
func (t *Transaction) holding(id core.ConversationID) *held {
	h, _ := t.segment.held[ofConversation(tableConversation, id)].party.(*held)
	return h
}

// member is hold for a conversation that we are in.
func (t *Transaction) member(ctx context.Context, id core.ConversationID) (*held, error) {
	return inside(t.hold(ctx, id))
}

// memberToRead is holdToRead for one.
func (t *Transaction) memberToRead(ctx context.Context, id core.ConversationID) (*held, error) {
	return inside(t.holdToRead(ctx, id))
}

func inside(h *held, err error) (*held, error) {
	if err == nil && h.group == nil {
		err = ErrConversationNotFound
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

func (t *Transaction) load(ctx context.Context, id core.ConversationID) (*held, error) {
	answers, err := t.segment.read(ctx,
		one(ofConversation(tableConversation, id), theOnly),
		query{place: ofConversation(tableFloors, id)})
	if err != nil {
		return nil, err
	}
	h := &held{id: id, head: head{id: id, next: 1, accidents: t.client.accidents}, floors: map[uint64]core.Version{}}
	if len(answers[0]) > 0 {
		h.exists, h.version = true, answers[0][0].Version
		if h.head, err = t.client.decodeHead(answers[0][0].Value); err != nil {
			return nil, err
		}
	}
	if h.head.active != 0 {
		if h.group = t.client.cache.get(cacheKey{t.client, id}, h.version); h.group == nil {
			h.group, err = t.loadGroup(ctx, h, h.head.active)
			switch {
			case errors.Is(err, core.ErrDamaged) && !errors.Is(err, core.ErrConflict):
				h.group, h.damaged = nil, err
			case err != nil:
				return nil, err
			}
		}
	}
	for _, r := range answers[1] {
		epoch := binary.BigEndian.Uint64(r.Key)
		h.floors[epoch] = r.Version
		if h.group != nil && h.group.Epoch() == epoch {
			floors, err := mls.ParseFloors(r.Value)
			if err != nil {
				return nil, err
			}
			h.group = h.group.WithFloors(floors)
		}
	}
	return h, nil
}

// peek reads a conversation as the segment sees it, and locks nothing: a value of its
// own, so that nobody wipes it meanwhile. What it says must not be changed.
func (t *Transaction) peek(ctx context.Context, id core.ConversationID) (*held, error) {
	if h := t.holding(id); h != nil {
		return h, nil
	}
	r, found, err := t.segment.get(ctx, ofConversation(tableConversation, id), theOnly)
	if err != nil {
		return nil, err
	}
	h := &held{id: id, version: r.Version, exists: found, head: head{id: id}}
	if found {
		if h.head, err = decodeHead(r.Value); err != nil {
			return nil, err
		}
	}
	if h.head.active != 0 {
		h.group, err = t.loadGroup(ctx, h, h.head.active)
	}
	return h, err
}

// loadGroup opens an incarnation from its header.
func (t *Transaction) loadGroup(ctx context.Context, h *held, incarnation uint32) (*mls.Group, error) {
	g, err := t.client.loadGroup(ctx, t.segment, h.id, incarnation)
	return g, t.explain(ctx, h, err)
}

func (c *Client) loadGroup(ctx context.Context, s *segment, id core.ConversationID, incarnation uint32) (*mls.Group, error) {
	r, found, err := s.get(ctx, ofGroup(id, incarnation), []byte{byte(mls.RecordHeader)})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("group header: %w", core.ErrDamaged)
	}
	return mls.Load(c.suites, r.Value)
}

// explain tells damage from a conflict: if a record that must exist is gone and
// the head has changed meanwhile, then another process went on. So does what is wrong
// with a message, which would be dropped: it may not fit to a part of what was read.
func (t *Transaction) explain(ctx context.Context, h *held, err error) error {
	seen := errors.Is(err, mls.ErrDuplicateMessage) || errors.Is(err, mls.ErrOwnMessage)
	if seen || !errors.Is(err, core.ErrDamaged) && !Blames(err) && !isKeyTrouble(err) {
		return err
	}
	p := ofConversation(tableConversation, h.id)
	r, _, again := newSegment(t.client.store).get(ctx, p, theOnly)
	if again == nil && r.Version != h.version {
		return fmt.Errorf("the conversation changed while it was read: %w", core.ErrConflict)
	}
	return err
}

// write puts what the engine changed in an incarnation into the segment.
func (t *Transaction) write(h *held, incarnation uint32, ws *record.WriteSet) {
	t.segment.take(ofIncarnation(h.id, incarnation), ws)
	h.retired = append(h.retired, ws.Retired...)
	h.dirty = true
}

// advance makes g the value of the active incarnation.
func (t *Transaction) advance(h *held, g *mls.Group, ws *record.WriteSet) {
	t.write(h, h.head.active, ws)
	h.group = g
	h.head.epoch = g.Epoch()
}

// encrypted is advance for a step that may have used a generation of ours.
func (t *Transaction) encrypted(h *held, g *mls.Group, ws *record.WriteSet) {
	t.advance(h, g, ws)
	if epoch, floors := g.SentGenerations(); len(floors) > 0 {
		if h.sent == nil {
			h.sent = map[uint64][]mls.Floor{}
		}
		// Another group of this id may have the same epoch, with ratchets of its own.
		h.sent[epoch] = append(slices.DeleteFunc(h.sent[epoch], func(f mls.Floor) bool {
			return slices.Equal(f.Context, floors[0].Context)
		}), floors...)
	}
}

func (h *held) changed() bool { return h.dirty }

// write puts the head into the segment that is about to become durable.
func (h *held) write(s *segment) {
	p := ofConversation(tableConversation, h.id)
	s.expect(p, theOnly, h.version)
	if h.exists {
		s.put(p, theOnly, h.head.encode())
	} else {
		s.del(p, theOnly)
	}
	for epoch := range h.sent { // another process may have burnt the same generations
		s.expect(ofConversation(tableFloors, h.id), be64(epoch), h.floors[epoch])
	}
}

// landed publishes the value of the group.
func (h *held) landed(c *Client, versions versions) {
	version := h.version
	if h.dirty {
		version = versions.head(ofConversation(tableConversation, h.id))
	}
	c.cache.put(cacheKey{c, h.id}, version, h.group, h.retired)
}

// undone tells the floors of the epochs in which the segment encrypted.
func (h *held) undone(c *Client) (burnt []raise) {
	for epoch, floors := range h.sent {
		c.cache.forget(cacheKey{c, h.id}) // its ratchets stand below them
		burnt = append(burnt, raise{ofConversation(tableFloors, h.id), be64(epoch), func(stored []byte) ([]byte, error) {
			return mls.RaiseFloors(stored, floors)
		}})
	}
	return burnt
}

// env is what the engine needs from us for an incarnation.
func (t *Transaction) env(ctx context.Context, id core.ConversationID, incarnation uint32) *mls.Env {
	env := t.client.env(ctx, t.segment, id, incarnation)
	env.PSK = t.psk
	return env
}

func (c *Client) env(ctx context.Context, s *segment, id core.ConversationID, incarnation uint32) *mls.Env {
	return &mls.Env{
		Suites: c.suites,
		Auth:   &authenticator{ctx, c, s},
		Fetch:  s.fetch(ofIncarnation(id, incarnation)),
		Signer: func(ctx context.Context, public []byte) (core.Signer, error) { return c.signer(ctx, s, public) },
		Now:    c.now(),
		Grease: !c.cfg.NoGrease,

		MaxLifetime: c.cfg.MaxLifetime,
	}
}

// own is env for the active incarnation.
func (t *Transaction) own(ctx context.Context, h *held) *mls.Env {
	return t.env(ctx, h.id, h.head.active)
}
