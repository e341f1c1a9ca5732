// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// Whoever takes a credential into use in a conversation expects the credential, so
// that it is not removed meanwhile, and writes down that the conversation may use it.
// Whoever removes a credential expects what is written down, or not, of every
// conversation, so that nobody takes it meanwhile. What is written down is not taken
// back when a credential falls out of use: the remover looks whether it is true.

// use is for a conversation that is in the list of all, and every way in which one of
// our credentials gets into a leaf or is on its way there.
func (t *Transaction) use(ctx context.Context, h *held, ref CredentialRef) error {
	_, found, err := t.segment.getExpected(ctx, at(tableCredential, ""), ref.key())
	if err != nil {
		return err
	}
	if !found {
		return ErrCredentialNotFound
	}
	t.segment.put(ofConversation(tableUse, h.id), ref.key(), newEncoder())
	return nil
}

// usesPage is how many conversations are asked about a credential at a time.
const usesPage = 1000

// mayUse lists the conversations that may use a credential, and sees to it that no
// other does before the segment is durable.
func (t *Transaction) mayUse(ctx context.Context, ref CredentialRef) (users []core.ConversationID, err error) {
	if _, err := t.segment.set(ctx, conversationList); err != nil {
		return nil, err
	}
	ids, err := conversations(ctx, t.segment)
	if err != nil {
		return nil, err
	}
	for len(ids) > 0 {
		page := ids[:min(len(ids), usesPage)]
		ids = ids[len(page):]
		queries := make([]query, len(page))
		for i, id := range page {
			queries[i] = one(ofConversation(tableUse, id), ref.key())
		}
		answers, err := t.segment.read(ctx, queries...)
		if err != nil {
			return nil, err
		}
		for i, id := range page {
			p, version := queries[i].place, core.Version{}
			if len(answers[i]) > 0 {
				users = append(users, id)
				version = answers[i][0].Version
			}
			if c := t.segment.changes[p]; c == nil || !c.touches(ref.key()) {
				t.segment.expect(p, ref.key(), version)
			}
		}
	}
	return users, nil
}

// uses says whether a conversation uses a credential: in its leaf, in a commit or a
// join that waits for its answer, in an Update that we have proposed, or for a commit
// that is staged.
func (t *Transaction) uses(ctx context.Context, id core.ConversationID, own Credential) (bool, error) {
	h, err := t.peek(ctx, id)
	if err != nil {
		return false, err
	}
	t.segment.expect(ofConversation(tableConversation, id), theOnly, h.version)
	used, err := t.leafUses(ctx, h, own)
	return used, t.explain(ctx, h, err)
}

func (t *Transaction) leafUses(ctx context.Context, h *held, own Credential) (bool, error) {
	if h.head.join.exists() {
		g, err := t.client.loadGroup(ctx, t.segment, h.id, h.head.staged)
		if err != nil {
			return false, err
		}
		leaf, err := g.OwnLeafNode(ctx, t.env(ctx, h.id, h.head.staged))
		if err != nil || own.is(leaf) {
			return true, err
		}
	}
	if h.group == nil {
		return false, nil
	}
	env := t.own(ctx, h)
	leaf, err := h.group.OwnLeafNode(ctx, env)
	if err != nil || own.is(leaf) {
		return true, err
	}
	if h.head.pending.exists() {
		p, err := t.loadPending(ctx, h)
		if err != nil || own.is(p.PathLeaf()) {
			return true, err
		}
	}
	for p, err := range h.group.PendingProposals(ctx, env) {
		if err != nil {
			return false, err
		}
		u, ok := p.Proposal.(*mls.Update)
		if ok && p.Sender.Leaf == h.group.OwnLeaf() && own.is(u.LeafNode) {
			return true, nil
		}
	}
	answers, err := t.segment.read(ctx, query{place: ofConversation(tableOutbox, h.id)})
	if err != nil {
		return false, err
	}
	for _, r := range answers[0] {
		if outboxKind(r.Key) != outCommit {
			continue
		}
		o, err := decodeOutgoing(r.Value)
		if err != nil {
			return false, err
		}
		in, err := decodeIntention(o.data)
		if err != nil || in.changes.Rotate == own.Ref {
			return true, err
		}
	}
	return false, nil
}

// RemoveCredential deletes one of our credentials and, if no other credential and no
// enrolment has it, its signature key, in the store or outside. ErrCredentialInUse while one of our
// leaves has it, or would have it when a commit, a join or an Update of ours goes
// through, a staged commit too, or a key package that has not expired has it: see
// [Conversation.SetCredential] and [Transaction.DeleteKeyPackagesOf].
// ErrCredentialNotFound if there is no such credential.
//
// A transaction that takes the credential into use at the same time and this one
// cannot both become durable: the later one is core.ErrConflict.
func (t *Transaction) RemoveCredential(ctx context.Context, ref CredentialRef) error {
	return t.do(ctx, func() error {
		who, err := t.initialized(ctx)
		if err != nil {
			return err
		}
		list, err := credentials(ctx, t.segment)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(c Credential) bool { return c.Ref == ref })
		if i < 0 {
			return ErrCredentialNotFound
		}
		own := list[i]
		pool, err := t.pool(ctx)
		if err != nil {
			return err
		}
		for _, e := range pool.list {
			if e.credential == ref && !e.expired(t.client.now()) {
				return fmt.Errorf("a key package has it: %w", ErrCredentialInUse)
			}
		}
		users, err := t.mayUse(ctx, ref)
		if err != nil {
			return err
		}
		for _, id := range users {
			used, err := t.uses(ctx, id, own)
			if err != nil {
				return err
			}
			if used {
				return fmt.Errorf("conversation %v: %w", id.LogValue(), ErrCredentialInUse)
			}
		}
		for _, id := range users {
			t.segment.del(ofConversation(tableUse, id), ref.key())
		}
		pool.remove(func(e pooled) bool { return e.credential == ref })
		t.segment.del(at(tableCredential, ""), ref.key())
		t.segment.del(at(tableCarry, ""), ref.key())
		t.putIdentity(who)
		return t.dropUnnamed(ctx, own.SignatureKey)
	})
}

// SetCredential takes one of our credentials, and its signature key, into use in the
// conversation; ErrWrongCredential if it is for another signature scheme. It is a
// boundary, as [Conversation.Commit] is.
func (c *Conversation) SetCredential(ctx context.Context, ref CredentialRef) (*CommitResult, error) {
	if ref == 0 {
		return nil, ErrCredentialNotFound
	}
	return c.Commit(ctx, Changes{Rotate: ref})
}

// Credential is the credential of ours that our leaf in the conversation has.
func (c *Conversation) Credential(ctx context.Context) (own Credential, err error) {
	err = c.view(ctx, func(v view) error {
		own, err = v.credential(ctx, c.tx.segment)
		return err
	})
	return own, err
}

// Credential is [Conversation.Credential] of what is durable.
func (c *Client) Credential(ctx context.Context, id core.ConversationID) (own Credential, err error) {
	err = c.view(ctx, id, func(v view) error {
		own, err = v.credential(ctx, newSegment(c.store))
		return err
	})
	return own, err
}

func (v view) credential(ctx context.Context, s *segment) (Credential, error) {
	leaf, err := v.group.OwnLeafNode(ctx, v.env)
	if err != nil {
		return Credential{}, err
	}
	list, err := credentials(ctx, s)
	if err != nil {
		return Credential{}, err
	}
	for _, own := range list {
		if own.is(leaf) {
			return own, nil
		}
	}
	return Credential{}, fmt.Errorf("credential of our own leaf: %w", core.ErrDamaged)
}
