// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
)

// A store that was put back to an older state has keys that were used since. The
// client learns of it by the store's incarnation, which whoever puts a store back
// replaces. To enter recovery is one small write: it counts an accident and drops the
// key packages. A conversation whose head knows of fewer accidents is recovering:
// nothing that lies beside its head counts, and its group is only read. What remains
// of it goes with the write that makes a way back into the conversation.
//
// Whatever else has keys that are used up is to record the count of accidents with them,
// as the head does: a Proteus session of an older count may decrypt, and not encrypt until
// it is made again from a prekey.

// AfterRollback is what [Open] does with a store that was put back to an older state,
// by a backup that was restored, a replica that lagged or a log that was lost.
type AfterRollback uint8

// The choices.
const (
	// Refuse changes nothing: Open is core.ErrRolledBack.
	Refuse AfterRollback = iota
	// Recover enters recovery. Every conversation refuses what would use its old keys
	// with [ErrRecovering]: see [Client.Recovering] and [Client.Rejoin]. What waited to be
	// sent is dropped, commits too. All key packages are gone; publish new ones in the
	// place of the old. Keys outside the store are not deleted: see [Client.SweepKeys].
	Recover
	// NothingLost goes on as if nothing had happened: somebody vouches for it that the
	// state is the newest after all. If that is wrong, keys are used twice.
	NothingLost
)

// accidents is the record of what the client knows to have happened to its store.
type accidents struct {
	known core.Version // the incarnation of the store
	count uint32       // how often the client has entered recovery
}

func (a accidents) encode() []byte { return newEncoder().raw(a.known[:]).u32(a.count) }

func decodeAccidents(records []seal.Record) (a accidents, version core.Version, err error) {
	if len(records) == 0 {
		return a, version, nil
	}
	err = decodeRecord("accidents", records[0].Value, func(d *decoder) {
		d.raw(a.known[:])
		a.count = d.u32()
	})
	return a, records[0].Version, err
}

var (
	accidentsPlace = at(tableAccidents, "")
	keysKept       = item() // beside the head: keys outside the store are not deleted
)

// A guardedStore refuses to change anything once another process has met an accident
// of the store: whoever has opened it before works with what may be wrong.
type guardedStore struct {
	*seal.Store
	accidents core.Version // of the record
}

// Read is that of the store, whose errors no message is to blame for.
func (g *guardedStore) Read(ctx context.Context, queries []seal.Query) ([][]seal.Record, error) {
	answers, err := g.Store.Read(ctx, queries)
	return answers, troubleWithStore(err)
}

// Apply is that of the store, whose errors no message is to blame for, unless what it
// leads to is too large.
func (g *guardedStore) Apply(ctx context.Context, b seal.Batch) ([]core.Version, error) {
	versions, err := g.Store.Apply(ctx, b)
	if errors.Is(err, core.ErrTooLarge) {
		return nil, err
	}
	return versions, troubleWithStore(err)
}

// outdated tells a conflict from that.
func (g *guardedStore) outdated(ctx context.Context, conflict error) error {
	s := newSegment(g)
	r, _, err := s.get(ctx, accidentsPlace, theOnly)
	if err == nil && r.Version != g.accidents {
		return fmt.Errorf("the store was put back since the client was opened, open it again: %w", core.ErrRolledBack)
	}
	return conflict
}

// meetAccident compares the incarnation of the store with what the client knows.
func (c *Client) meetAccident(ctx context.Context, then AfterRollback) (recovering bool, err error) {
	for try := 1; ; try++ {
		s := newSegment(c.store)
		answers, err := s.read(ctx, one(accidentsPlace, theOnly), one(at(tableClient, ""), theOnly), one(proteusPlace, theOnly))
		if err != nil {
			return false, err
		}
		a, version, err := decodeAccidents(answers[0])
		if err != nil {
			return false, err
		}
		c.store.accidents, c.accidents = version, a.count
		if a.known == c.store.Incarnation() {
			return false, nil
		}
		nobody := len(answers[1])+len(answers[2]) == 0 // who has nothing has lost nothing
		switch {
		case nobody || then == NothingLost:
		case then == Recover:
			a.count++
			if err := dropAtEntering(ctx, s); err != nil {
				return false, err
			}
		default:
			return false, fmt.Errorf("client: the store was put back to an older state, and its keys may have been used since: %w", core.ErrRolledBack)
		}
		a.known = c.store.Incarnation()
		s.put(accidentsPlace, theOnly, a.encode())
		versions, err := s.apply(ctx)
		switch {
		case err == nil:
			recovering = a.count != c.accidents
			c.store.accidents, c.accidents = versions.head(accidentsPlace), a.count
			return recovering, nil
		case !errors.Is(err, core.ErrConflict) && !errors.Is(err, core.ErrRolledBack) || try == maxTries:
			return false, err
		}
		// Another process was faster: what it has done counts.
	}
}

// dropAtEntering drops what is of no conversation. Somebody may have used a key package
// to add us since, one of last resort too.
func dropAtEntering(ctx context.Context, s *segment) error {
	packages, err := poolList(ctx, s, 0)
	if err != nil {
		return err
	}
	s.del(poolPlace, item())
	for _, e := range packages {
		s.del(at(tableKeyPackage, string(e.ref)), theOnly)
	}
	s.put(accidentsPlace, keysKept, newEncoder())
	return dropPreKeys(ctx, s)
}

// entered tells of a recovery that has begun.
func (c *Client) entered(ctx context.Context) {
	c.log.LogAttrs(ctx, slog.LevelInfo, "the store was put back to an older state; key packages were dropped, and every conversation is to be joined again")
	c.observe(RolledBack{})
	c.tell(ctx)
}

// decodeHead reads the head of a conversation. If it is from before an accident, nothing
// that it says to wait does.
func (c *Client) decodeHead(value []byte) (head, error) {
	h, err := decodeHead(value)
	if err == nil && h.accidents != c.accidents {
		h.lost = true
		h.pending, h.join, h.waiting = pendingHead{}, pendingHead{}, buffered{}
	}
	return h, err
}

// clear drops what lies beside the head of a conversation from before an accident, with
// the write that does something about it. What was to be sent is reported: nobody can
// know whether it was.
func (t *Transaction) clear(ctx context.Context, h *held) error {
	if h.head.accidents == t.client.accidents {
		return nil
	}
	const reason = "the store was put back; it may have been sent before"
	failed := func(key IdempotencyKey) {
		t.segment.events = append(t.segment.events, CommitFailed{Conversation: h.id, Key: key, Err: fmt.Errorf("%s: %w", reason, ErrRecovering)})
	}
	unsent, _, err := t.takeOut(ctx, h, func(outgoing) bool { return true })
	if err != nil {
		return err
	}
	for _, o := range unsent {
		if o.kind == outCommit {
			failed(o.key)
		} else {
			t.segment.events = append(t.segment.events, t.segment.lost(h.id, o, reason))
		}
	}
	r, found, err := t.segment.get(ctx, ofConversation(tableIntention, h.id), theOnly)
	if err != nil {
		return err
	}
	if found {
		in, err := decodeIntention(r.Value)
		if err != nil {
			return err
		}
		failed(in.key)
	}
	for _, table := range []core.Table{tableLease, tableIntention, tableHistory, tableJoin, tableBuffered, tableBufferedCommit} {
		t.segment.del(ofConversation(table, h.id), nil)
	}
	if h.head.staged != 0 {
		t.segment.del(ofGroup(h.id, h.head.staged), nil)
		h.head.staged = 0
	}
	h.head.accidents, h.dirty = t.client.accidents, true
	return nil
}

// Recovering lists the conversations whose keys may have been used since the state that
// the store was put back to. One leaves the list when it is joined again, by
// [Client.Rejoin] or by the Welcome of a member who has removed us and added us again, or
// when it is wiped. What we have joined since is not known here at all: join it by
// [Transaction.JoinByExternalCommit].
func (c *Client) Recovering(ctx context.Context) (list []core.ConversationID, err error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	defer c.done()
	if c.accidents == 0 {
		return nil, nil
	}
	s := newSegment(c.store)
	ids, err := conversations(ctx, s)
	if err != nil {
		return nil, err
	}
	for len(ids) > 0 {
		page := ids[:min(len(ids), usesPage)]
		ids = ids[len(page):]
		queries := make([]query, len(page))
		for i, id := range page {
			queries[i] = one(ofConversation(tableConversation, id), theOnly)
		}
		answers, err := s.read(ctx, queries...)
		if err != nil {
			return nil, err
		}
		for i, records := range answers {
			if len(records) == 0 { // wiped meanwhile
				continue
			}
			h, err := c.decodeHead(records[0].Value)
			if err != nil {
				return nil, err
			}
			if h.lost {
				list = append(list, page[i])
			}
		}
	}
	return list, nil
}

// keepsKeys says that keys outside the store wait for SweepKeys.
func (c *Client) keepsKeys(ctx context.Context) (bool, error) {
	_, found, err := newSegment(c.store).get(ctx, accidentsPlace, keysKept)
	return found, err
}

// SweepKeys deletes keys outside the store that nothing names, as [Open] does with those
// that a crash has left. After an accident Open leaves that to a person: a newer state of
// the store, if one is found after all, may name them. This says that there is none, and
// gives how many keys are deleted.
func (c *Client) SweepKeys(ctx context.Context) (deleted int, err error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	defer c.done()
	kept, err := c.keepsKeys(ctx)
	if err != nil {
		return 0, err
	}
	if kept {
		s := newSegment(c.store)
		s.del(accidentsPlace, keysKept)
		if _, err := s.apply(ctx); err != nil {
			return 0, err
		}
	}
	deleted, stay, err := c.sweep(ctx)
	return deleted, errors.Join(err, stay)
}
