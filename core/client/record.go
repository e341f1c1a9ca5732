// SPDX-License-Identifier: Apache-2.0

package client

import (
	"crypto/sha256"

	"github.com/conclave-mls/conclave/core"
)

// A digest names the bytes of a message.
type digest [sha256.Size]byte

func digestOf(message []byte) digest { return sha256.Sum256(message) }

func (d digest) isZero() bool { return d == digest{} }

// head is the record of a conversation that every change of it expects and
// replaces: small, because each message writes it.
type head struct {
	id       core.ConversationID
	sequence uint64 // in the list of conversations
	epoch    uint64 // of the active incarnation
	active   uint32 // incarnation that the conversation lives in; 0: none
	staged   uint32 // incarnation of an external join that waits; 0: none
	next     uint32 // a fresh incarnation

	pending pendingHead // our own commit
	join    pendingHead // our own external join; its group is the staged incarnation
	merged  digest      // our own commit that was merged last
	began   digest      // the commit that began the epoch

	outbox  uint64 // next sequence number
	stamp   uint64 // of the newest encryption of a text in the outbox
	barrier uint64 // of the newest that was an encryption again: see outgoing.stamp
	parent  core.ConversationID
	waiting buffered
	stale   bool // a history client stands that somebody knows who was removed

	accidents uint32 // of the store, that nothing beside the head is from before
	lost      bool   // the group is from before one: its keys may have been used since
}

// pendingHead is a commit of ours that waits for the delivery service's answer.
type pendingHead struct {
	message     digest // zero: none
	epoch       uint64 // that it ends
	submissions uint32 // begun, whatever came of them
}

func (p pendingHead) exists() bool { return !p.message.isZero() }

// buffered counts the messages that wait for another epoch.
type buffered struct {
	count, bytes, next uint32
	commit             bool   // one that lacks proposals waits as well
	since              uint64 // Unix seconds; when the oldest of all of them came
	ready              bool   // the epoch changed and they have not been tried since
}

// some says that anything waits.
func (b buffered) some() bool { return b.count > 0 || b.commit }

func (h *head) encode() []byte {
	e := newEncoder().bytes([]byte(h.id)).u64(h.sequence).u64(h.epoch).u32(h.active).u32(h.staged).u32(h.next)
	for _, p := range []pendingHead{h.pending, h.join} {
		e = e.flag(p.exists())
		if p.exists() {
			e = e.raw(p.message[:]).u64(p.epoch).u32(p.submissions)
		}
	}
	for _, d := range []digest{h.merged, h.began} {
		e = e.flag(!d.isZero())
		if !d.isZero() {
			e = e.raw(d[:])
		}
	}
	e = e.u64(h.outbox).u64(h.stamp).u64(h.barrier).bytes([]byte(h.parent))
	e = e.u32(h.waiting.count).u32(h.waiting.bytes).u32(h.waiting.next).flag(h.waiting.commit).flag(h.waiting.ready)
	if h.waiting.some() {
		e = e.u64(h.waiting.since)
	}
	return e.flag(h.stale).u32(h.accidents).flag(h.lost)
}

func decodeHead(value []byte) (h head, err error) {
	err = decodeRecord("a conversation", value, func(d *decoder) {
		h.id, h.sequence, h.epoch = core.ConversationID(d.bytes()), d.u64(), d.u64()
		h.active, h.staged, h.next = d.u32(), d.u32(), d.u32()
		for _, p := range []*pendingHead{&h.pending, &h.join} {
			if d.flag() {
				d.raw(p.message[:])
				p.epoch, p.submissions = d.u64(), d.u32()
			}
		}
		for _, out := range []*digest{&h.merged, &h.began} {
			if d.flag() {
				d.raw(out[:])
			}
		}
		h.outbox, h.stamp, h.barrier = d.u64(), d.u64(), d.u64()
		h.parent = core.ConversationID(d.bytes())
		h.waiting = buffered{count: d.u32(), bytes: d.u32(), next: d.u32(), commit: d.flag(), ready: d.flag()}
		if h.waiting.some() {
			h.waiting.since = d.u64()
		}
		h.stale = d.flag()
		h.accidents, h.lost = d.u32(), d.flag()
	})
	return h, err
}
