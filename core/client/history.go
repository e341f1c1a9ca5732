// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// History sharing: a conversation has a passive member, the history client, whose
// secret all members get, so that they can let who joins later read what was said. An
// era lasts as long as that client is a member. A commit that removes anybody else
// replaces it, so that those who left cannot read on: a new era.

// A HistoryChange turns history sharing on or off.
type HistoryChange uint8

// The changes. What is so already is no change.
const (
	HistoryOn  HistoryChange = iota + 1 // add a history client
	HistoryOff                          // remove every history client
)

// EnableHistorySharing adds a history client to the conversation and sends its secret
// to the members, with the commit; HistoryClientCreated has it for us. It is a
// boundary, unless history is shared already: then it is no error and nothing changes.
//
// The other members get the secret as an ordinary [Text] of the epoch that the commit
// begins, and so again with each commit that begins a new era. To tell it from what
// people write, have Config.PrepareHistory wrap it in the application's own format. Without
// that, a text is a secret if [ParseHistorySecret] takes it; in both cases keep it only if
// [View.CheckHistorySecret] does, for any member can send one.
func (c *Conversation) EnableHistorySharing(ctx context.Context) (*CommitResult, error) {
	return c.Commit(ctx, Changes{History: HistoryOn})
}

// DisableHistorySharing removes every history client from the conversation; each member
// may do that. It is a boundary, unless history is not shared: then it is no error and
// nothing changes.
func (c *Conversation) DisableHistorySharing(ctx context.Context) (*CommitResult, error) {
	return c.Commit(ctx, Changes{History: HistoryOff})
}

// HistorySharing says whether the conversation has a history client.
func (v View) HistorySharing(ctx context.Context) (bool, error) {
	return ask(ctx, v, func(v view) (bool, error) {
		members, err := v.group.Members(ctx, v.env)
		return slices.ContainsFunc(members, forHistory), err
	})
}

// forHistory says whether a member is a history client.
func forHistory(m mls.Member) bool { return ofHistory(m.Credential) }

// ofHistory says the same of a credential: a basic one, whatever the others have.
func ofHistory(c core.Credential) bool {
	return c.Type == core.CredentialBasic && IsHistoryClient(core.ClientID(c.Identity))
}

// CheckHistorySecret says whether a history secret is that of a history client which
// is a member now: who has made it for another group, to show a history that never was,
// does not have that client's keys. ErrClientNotFound if it is not; else the errors of
// [ParseHistorySecret]. Every member has the secret and could invite its client to a
// group that is made up, of the same id: the Welcome and the messages are to come from
// the delivery service, and who wrote them is as sure as the members' credentials are.
func (v View) CheckHistorySecret(ctx context.Context, s HistorySecret) error {
	_, err := askKeys(ctx, v, func(v view) (struct{}, error) { return struct{}{}, v.checkHistory(ctx, s) })
	return err
}

func (v view) checkHistory(ctx context.Context, s HistorySecret) error {
	b, err := openHistory(v.env.Suites, s.Data.Bytes())
	if err != nil {
		return err
	}
	wipeBundle(b)
	members, err := v.group.Members(ctx, v.env)
	if err != nil {
		return err
	}
	leaf := b.KeyPackage.LeafNode
	if !slices.ContainsFunc(members, func(m mls.Member) bool {
		return forHistory(m) && bytes.Equal(m.Credential.Identity, leaf.Credential.Identity) &&
			bytes.Equal(m.SignatureKey, leaf.SignatureKey)
	}) {
		return fmt.Errorf("history client: %w", ErrClientNotFound)
	}
	return nil
}

// An era is what a commit that adds a history client has beside it: its secret, and
// the message of the new epoch that tells the members.
type era struct {
	secret  HistorySecret
	data    []byte // what the application wants to be sent
	epoch   uint64 // that it begins with
	message []byte
	floors  []byte // record of the epoch
}

// maxHistoryData is what Config.PrepareHistory may return.
const maxHistoryData = 64 << 10

// withHistory adds to a commit what history sharing asks for; p is nil if there is
// nothing to commit, before and after. The era is nil if the commit begins none.
func (t *Transaction) withHistory(ctx context.Context, h *held, members []mls.Member, p *mls.CommitParams, changes Changes) (*mls.CommitParams, *era, error) {
	fail := func(err error) (*mls.CommitParams, *era, error) { return nil, nil, err }
	current := slices.DeleteFunc(slices.Clone(members), func(m mls.Member) bool { return !forHistory(m) })
	on := changes.History == HistoryOn && len(current) == 0
	off := changes.History == HistoryOff && len(current) > 0
	if !on && !off {
		if p == nil || len(current) == 0 {
			return p, nil, nil
		}
		if ends, err := t.endsEra(ctx, h, members, p); err != nil || !ends {
			return p, nil, err
		}
	}
	if p == nil {
		p = &mls.CommitParams{AuthenticatedData: changes.AuthenticatedData, NoReInit: true, LeaveOut: addsHistory}
	}
	for _, m := range current {
		if !removes(p.Proposals, m.Leaf) {
			p.Proposals = append(p.Proposals, &mls.Remove{Removed: m.Leaf})
		}
	}
	if off {
		return p, nil, nil
	}
	suite, err := t.client.suites.Suite(h.group.Suite())
	if err != nil {
		return fail(err)
	}
	own, err := h.group.OwnLeafNode(ctx, t.own(ctx, h))
	if err != nil {
		return fail(err)
	}
	secret, k, err := t.client.historyClient(ctx, suite, newHistoryID(), own.Capabilities)
	if err != nil {
		return fail(err)
	}
	e := &era{secret: secret, data: secret.Data.Bytes()}
	if prepare := t.client.cfg.PrepareHistory; prepare != nil {
		if e.data, err = prepare(h.id, secret); err != nil {
			return fail(fmt.Errorf("preparing a history secret: %w", err))
		}
	}
	if len(e.data) > maxHistoryData {
		return fail(fmt.Errorf("prepared history secret of %d bytes: %w", len(e.data), core.ErrTooLarge))
	}
	p.Proposals = append(p.Proposals, &mls.Add{KeyPackage: k})
	return p, e, nil
}

func removes(proposals []mls.Proposal, leaf mls.LeafIndex) bool {
	return slices.ContainsFunc(proposals, func(v mls.Proposal) bool {
		r, ok := v.(*mls.Remove)
		return ok && r.Removed == leaf
	})
}

// endsEra says whether a commit has to replace the history clients: somebody else goes,
// or went before without that, and one of them would stay.
func (t *Transaction) endsEra(ctx context.Context, h *held, members []mls.Member, p *mls.CommitParams) (bool, error) {
	all := slices.Clone(p.Proposals)
	for waiting, err := range h.group.PendingProposals(ctx, t.own(ctx, h)) {
		if err != nil {
			return false, err
		}
		all = append(all, waiting.Proposal)
	}
	stays, goes := false, false
	for _, m := range members {
		switch removed := removes(all, m.Leaf); {
		case forHistory(m):
			stays = stays || !removed
		case m.Leaf != h.group.OwnLeaf(): // our own leaving is for others to commit
			goes = goes || removed
		}
	}
	return stays && (goes || h.head.stale), nil
}

// announce makes the message of the new epoch that tells the members, ahead of its time.
func (e *era) announce(ctx context.Context, t *Transaction, h *held, g *mls.Group, pending *mls.PendingCommit) error {
	env := t.own(ctx, h)
	next, _, _, err := g.Merge(ctx, env, pending)
	if err != nil {
		return err
	}
	if next, e.message, _, err = next.Protect(ctx, env, e.data, nil); err != nil {
		return err
	}
	epoch, floors := next.SentGenerations()
	r, _, err := t.segment.getExpected(ctx, ofConversation(tableFloors, h.id), be64(epoch))
	if err != nil {
		return err
	}
	e.epoch = epoch
	e.floors, err = mls.RaiseFloors(r.Value, floors)
	return err
}

// keep keeps the era with the commit that waits. The generation of the message is
// written down as burnt, for whenever the epoch is entered.
func (e *era) keep(t *Transaction, h *held) {
	t.segment.put(ofConversation(tableFloors, h.id), be64(e.epoch), e.floors)
	record := newEncoder().bytes([]byte(e.secret.ClientID)).bytes(e.secret.Data.Bytes()).bytes(e.message)
	t.segment.put(ofConversation(tableHistory, h.id), theOnly, record)
}

// pendingEra reads what begin kept with a commit that adds these members; nil if none
// of them is a history client.
func (t *Transaction) pendingEra(ctx context.Context, h *held, added []core.ClientID) (*era, error) {
	if !slices.ContainsFunc(added, IsHistoryClient) {
		return nil, nil
	}
	r, found, err := t.segment.get(ctx, ofConversation(tableHistory, h.id), theOnly)
	if err != nil || !found { // somebody else had proposed to add it
		return nil, err
	}
	e := &era{}
	err = decodeRecord("a new era", r.Value, func(d *decoder) {
		e.secret.ClientID, e.secret.Data, e.message = core.ClientID(d.bytes()), core.NewSecret(d.bytes()), d.bytes()
	})
	return e, err
}

// noPending forgets our commit that waits, and the era that it would have begun.
func (t *Transaction) noPending(h *held) {
	if h.head.pending.exists() {
		t.segment.del(ofConversation(tableHistory, h.id), nil)
	}
	h.head.pending = pendingHead{}
}

// addsHistory says whether a proposal adds a history client. That is for a commit, with
// which its secret travels: one that waits was made by who keeps the secret, and may be
// about to be removed. No commit of ours covers it.
func addsHistory(p mls.Proposal) bool {
	add, ok := p.(*mls.Add)
	return ok && ofHistory(add.KeyPackage.LeafNode.Credential)
}

// noteEra notes whether the commit that was processed has left a history client behind
// that somebody knows who was removed: our next commit replaces it then.
func (t *Transaction) noteEra(ctx context.Context, h *held, r *mls.ReceivedCommit) error {
	left := !r.External && slices.ContainsFunc(r.Removed, func(m mls.Member) bool { return !forHistory(m) })
	if !left && !h.head.stale {
		return nil
	}
	members, err := h.group.Members(ctx, t.own(ctx, h))
	if err != nil {
		return err
	}
	h.head.stale = slices.ContainsFunc(members, func(m mls.Member) bool {
		return forHistory(m) && !slices.ContainsFunc(r.Proposals, func(p mls.ReceivedProposal) bool {
			add, ok := p.Proposal.(*mls.Add) // by value: the committer's own
			return ok && len(p.Ref) == 0 && bytes.Equal(add.KeyPackage.LeafNode.SignatureKey, m.SignatureKey)
		})
	})
	return nil
}
