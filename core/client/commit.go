// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// Changes are what a commit shall do beside covering all proposals that wait.
type Changes struct {
	Add               [][]byte         // key packages: MLSMessages
	Remove            []core.ClientID  // those who are not members are passed over
	PSKs              [][]byte         // ids of pre-shared keys to mix in; see SetPSK
	Update            bool             // refresh our own keys
	Rotate            CredentialRef    // take one of our credentials, and its key, into use; 0: none
	Extensions        *[]mls.Extension // replace the group's
	History           HistoryChange    // turn history sharing on or off; 0: as it is
	AuthenticatedData []byte
}

// AddMembers adds the clients of the key packages. It is a boundary.
func (c *Conversation) AddMembers(ctx context.Context, keyPackages ...[]byte) (*CommitResult, error) {
	if len(keyPackages) == 0 {
		return nil, ErrEmptyInput
	}
	return c.Commit(ctx, Changes{Add: keyPackages})
}

// RemoveMembers removes clients; those who are not members are passed over, and if
// none is it is ErrEmptyInput. It is a boundary.
func (c *Conversation) RemoveMembers(ctx context.Context, ids ...core.ClientID) (*CommitResult, error) {
	if len(ids) == 0 {
		return nil, ErrEmptyInput
	}
	return c.Commit(ctx, Changes{Remove: ids})
}

// UpdateKeyMaterial refreshes our own keys. It is a boundary.
func (c *Conversation) UpdateKeyMaterial(ctx context.Context) (*CommitResult, error) {
	return c.Commit(ctx, Changes{Update: true})
}

// Rotate takes our newest credential of a type, and its signature key, into use. It
// is a boundary.
func (c *Conversation) Rotate(ctx context.Context, kind core.CredentialType) (*CommitResult, error) {
	leave, err := c.tx.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	h, err := c.tx.member(ctx, c.id)
	if err != nil {
		return nil, err
	}
	suite, err := c.tx.client.suites.Suite(h.group.Suite())
	if err != nil {
		return nil, err
	}
	own, err := newest(ctx, c.tx.segment, suite.Parameters().Scheme, kind)
	if err != nil {
		return nil, err
	}
	return c.tx.commit(ctx, c.id, Changes{Rotate: own.Ref})
}

// CommitPendingProposals commits what is proposed. It is a boundary, unless there
// is nothing: then it is no error and the epoch stays.
func (c *Conversation) CommitPendingProposals(ctx context.Context) (*CommitResult, error) {
	return c.Commit(ctx, Changes{})
}

// Commit makes one commit of the changes and of all proposals that wait, and
// returns when the delivery service has accepted it and the new epoch is durable.
//
// It is a boundary: what the transaction did before it becomes durable with the
// commit, before the commit is sent, and no abort undoes it. Where another commit
// wins, the changes that are left are committed again, a few times, then it is
// [ErrCommitLost]. Where the service or the store fails while the commit waits, it
// stays and the error is core.ErrUnknownOutcome with the cause: [Client.Settle], or
// the next commit here, finds out. If there is a result as well, it was accepted: what
// was buffered could not be read, see [Conversation.Replay]. A service that says no is a
// [RefusedError].
func (c *Conversation) Commit(ctx context.Context, changes Changes) (*CommitResult, error) {
	leave, err := c.tx.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return c.tx.commit(ctx, c.id, changes)
}

func (t *Transaction) commit(ctx context.Context, id core.ConversationID, changes Changes) (_ *CommitResult, err error) {
	c := t.client
	if err := c.canCommit(); err != nil {
		return nil, err
	}
	if t.enqueued(id, outCommit) {
		return nil, fmt.Errorf("a commit is staged in this transaction: %w", core.ErrInvalid)
	}
	in := intention{key: newIdempotencyKey(), owner: c.process, changes: changes}
	ctx, w, stop := c.await(ctx, in.key)
	defer stop()
	defer func() {
		if in.tries > 0 || w.more.Load() { // what lay behind it in the outbox has waited
			t.afterwards(id)
		}
	}()
	for {
		h, err := t.ready(ctx, id, in)
		if err != nil {
			return nil, errors.Join(err, t.dequeue(ctx, id, in))
		}
		if !h.group.Active() {
			return nil, mls.ErrInactive
		}
		if in.tries > 0 {
			if err := t.takeBack(ctx, h, in); err != nil {
				return nil, err
			}
		}
		result, err := t.commitHeld(ctx, h, in, in.tries > 0)
		if errors.Is(err, ErrCommitLost) { // or others have done it, and more
			e, unknown := t.outcome(ctx, id, w)
			if unknown != nil {
				return nil, unknown
			}
			if e != nil {
				result, err = e.result, e.err
			}
		}
		if err == nil {
			return result, t.replayAfter(ctx, id, result)
		}
		if in.tries++; !errors.Is(err, ErrCommitLost) || c.cfg.NoRenewal || in.tries == maxTries {
			return nil, err
		}
		if err := c.pause(ctx, int(in.tries)); err != nil {
			return nil, errors.Join(err, t.dequeue(ctx, id, in))
		}
	}
}

// takeBack takes an intention that another commit has overtaken out of the outbox.
func (t *Transaction) takeBack(ctx context.Context, h *held, in intention) error {
	key, found, err := t.queued(ctx, h.id, in.key)
	if err != nil {
		return err
	}
	if !found { // its owner's time was over
		return fmt.Errorf("another process goes on with the commit: %w", core.ErrUnknownOutcome)
	}
	p := ofConversation(tableOutbox, h.id)
	if _, _, err := t.segment.getExpected(ctx, p, key); err != nil {
		return err
	}
	t.segment.del(p, key)
	h.dirty = true
	return nil
}

// dequeue is for a caller that gives up between two tries: nothing may come of it
// later.
func (t *Transaction) dequeue(ctx context.Context, id core.ConversationID, in intention) error {
	if in.tries == 0 {
		return nil
	}
	t.release(nil) // the segment has not done anything yet
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	return t.client.transaction(ctx, func(ctx context.Context, own *Transaction) error {
		h, err := own.hold(ctx, id)
		if err != nil {
			return err
		}
		if _, found, err := own.queued(ctx, id, in.key); err != nil || !found {
			return err
		}
		return own.takeBack(ctx, h, in)
	})
}

// commitHeld makes a commit, closes the segment with it, and sees it through. In
// another try, what others did meanwhile is passed over.
func (t *Transaction) commitHeld(ctx context.Context, h *held, in intention, again bool) (*CommitResult, error) {
	id := h.id
	env := t.own(ctx, h)
	members, err := h.group.Members(ctx, env)
	if err != nil {
		return nil, t.explain(ctx, h, err)
	}
	p, err := t.params(ctx, h, members, in.changes, again)
	if err != nil {
		return nil, err
	}
	p, begins, err := t.withHistory(ctx, h, members, p, in.changes)
	if err != nil {
		return nil, t.explain(ctx, h, err)
	}
	if p == nil {
		result := &CommitResult{Epoch: h.group.Epoch(), Own: true, Active: h.group.Active()}
		if again { // the outbox has lost it
			t.ended(id, in.key, result, nil)
			err = t.cross(ctx)
		}
		return result, err
	}
	g, pending, ws, err := h.group.Commit(ctx, env, *p)
	if err != nil {
		return nil, t.explain(ctx, h, err)
	}
	bundle, err := bundleOf(ctx, env, g, pending, members)
	if err != nil {
		return nil, t.explain(ctx, h, err)
	}
	if begins != nil {
		if err := begins.announce(ctx, t, h, g, pending); err != nil {
			return nil, t.explain(ctx, h, err)
		}
		bundle.EncryptedMessage = begins.message
	}
	message := digestOf(bundle.Commit)
	if ref := in.changes.Rotate; ref != 0 {
		if err := t.use(ctx, h, ref); err != nil {
			return nil, err
		}
	}
	t.encrypted(h, g, ws)
	if begins != nil {
		begins.keep(t, h)
	}
	h.head.pending = pendingHead{message: message, epoch: pending.Epoch(), submissions: 1}
	t.intend(h, t.client.prolonged(in))
	enqueued := !again && t.enqueued(id, outText, outProposal, outCommit)
	if enqueued {
		h.head.pending.submissions = 0 // that has to go first
	}
	if err := t.cross(ctx); err != nil {
		return nil, err
	}
	t.client.fresh.Store(message, freshCommit{pending, in.key})
	defer t.client.fresh.Delete(message)
	var result *CommitResult
	err = t.away(ctx, func(ctx context.Context) error {
		if enqueued {
			if err := t.client.submitAfterOutbox(ctx, id, message); err != nil {
				return err
			}
		}
		var err error
		result, err = t.client.submit(ctx, id, commitKind, message, bundle)
		return err
	})
	if err != nil {
		return nil, err
	}
	if result == nil { // somebody else has merged it
		committer := core.ClientID("")
		if committer, err = clientID(ctx, t.segment); err != nil {
			return nil, err
		}
		result = &CommitResult{
			Epoch: pending.Epoch() + 1, Own: true, Committer: committer,
			Added: bundle.Added, Removed: bundle.Removed, Active: true,
		}
	}
	return result, nil
}

// replayAfter tries what was buffered for the new epoch, in the open segment: its
// results are the application's to keep or to abort. If the store has gone away, nobody
// must take that for a commit that did not happen.
func (t *Transaction) replayAfter(ctx context.Context, id core.ConversationID, result *CommitResult) (err error) {
	defer func() {
		if errors.Is(err, core.ErrUnavailable) {
			err = fmt.Errorf("the commit was accepted, and what was buffered for its epoch cannot be read: %w: %w", core.ErrUnknownOutcome, err)
		}
	}()
	defer t.whole(&err)()
	h, err := t.hold(ctx, id)
	if err != nil {
		return err
	}
	result.Replayed, err = t.replay(ctx, h)
	return t.explain(ctx, h, err)
}

// maxReady bounds how often a caller looks whether it may commit; others of this process
// may be quicker a few times.
const maxReady = 20

// ready holds a conversation in which a commit may be made: nothing waits in its
// outbox before the intention, and no commit of ours waits for an answer, and what others
// sent can still be read after one more.
func (t *Transaction) ready(ctx context.Context, id core.ConversationID, in intention) (*held, error) {
	blocked := false // by proposals, which the commit takes away
	sequence, looks := uint64(0), 0
	patience := time.Now().Add(3 * t.client.cfg.Lease)
	for try := 1; ; try++ {
		h, err := t.member(ctx, id)
		if err != nil {
			return nil, err
		}
		if looks++; looks == 1 {
			sequence = h.head.outbox
		}
		waiting, err := t.outboxWaits(ctx, id, in.key, sequence)
		if err != nil {
			return nil, err
		}
		waiting = waiting && !blocked
		pending := h.head.pending.exists() || h.head.join.exists()
		switch {
		case !waiting && !pending && !t.client.farAhead(h):
			return h, nil
		case !waiting && !pending && t.unchanged() && try <= maxReady:
			t.release(nil)
			if err := t.away(ctx, func(ctx context.Context) error { return t.client.readUp(ctx, id, h.head.epoch) }); err != nil {
				return nil, err
			}
			continue
		case try > maxReady:
			return nil, fmt.Errorf("the conversation does not come to rest: %w", core.ErrUnavailable)
		case !t.unchanged():
			// Closing the segment here would make it durable without the commit.
			// Client.Transaction settles the conversation, or reads, and starts over.
			if !waiting && !pending {
				t.ahead[id] = h.head.epoch
				return nil, fmt.Errorf("messages are to be read first: %w", core.ErrConflict)
			}
			t.blocked = append(t.blocked, id)
			return nil, fmt.Errorf("messages or a commit wait to be sent first: %w", core.ErrConflict)
		}
		t.release(nil) // nothing was done yet
		// Somebody may be sending what comes behind it, on and on.
		if !pending && time.Now().Before(patience) {
			if !slices.Contains(t.owes, id) {
				t.owes = append(t.owes, id)
			}
			if err := t.away(ctx, func(ctx context.Context) error { return t.client.deliverUpTo(ctx, id, false, sequence) }); err == nil {
				if err := wait(ctx, time.Duration(min(looks, 10))*2*time.Millisecond); err != nil {
					return nil, err
				}
				try--
				continue
			}
		}
		if try > 3 {
			if err := t.client.pause(ctx, try); err != nil {
				return nil, err
			}
		}
		err = t.away(ctx, func(ctx context.Context) error { return t.client.Settle(ctx, id) })
		if blocked = errors.Is(err, mls.ErrPendingProposals); err != nil && !blocked {
			return nil, err
		}
	}
}

// cross closes the segment: a boundary. If that fails, what the transaction did
// before is undone, and it can only be aborted.
func (t *Transaction) cross(ctx context.Context) error {
	if err := t.close(ctx); err != nil {
		t.broken = fmt.Errorf("a boundary of the transaction failed: %w", err)
		return errors.Join(err, t.discard(ctx))
	}
	t.crossed = true
	return nil
}

// away runs what asks the delivery service, with nothing held.
func (t *Transaction) away(ctx context.Context, f func(ctx context.Context) error) error {
	t.outside.Store(true)
	defer t.outside.Store(false)
	return f(t.client.outsideContext(ctx))
}

// params turns the changes into proposals for the group as it is; nil if nothing
// is left to do. In another try, what others did meanwhile is passed over.
func (t *Transaction) params(ctx context.Context, h *held, members []mls.Member, changes Changes, again bool) (_ *mls.CommitParams, err error) {
	if !h.group.Active() {
		return nil, mls.ErrInactive
	}
	env := t.own(ctx, h)
	leaves := map[core.ClientID]mls.LeafIndex{}
	if len(changes.Add) > 0 && again || len(changes.Remove) > 0 { // to read many certificates takes its time
		for _, m := range members {
			id, err := identify(env, m.Credential, m.SignatureKey)
			if err != nil {
				return nil, err
			}
			leaves[id] = m.Leaf
		}
	}
	p := &mls.CommitParams{ForcePath: changes.Update, AuthenticatedData: changes.AuthenticatedData, NoReInit: true, LeaveOut: addsHistory}
	for _, message := range changes.Add {
		k, err := parseKeyPackage(message)
		if err != nil {
			return nil, err
		}
		id, err := identify(env, k.LeafNode.Credential, k.LeafNode.SignatureKey)
		if err != nil {
			return nil, err
		}
		if _, member := leaves[id]; member && again {
			continue
		}
		if err := t.admitOwn(ctx, h, k); err != nil {
			return nil, err
		}
		p.Proposals = append(p.Proposals, &mls.Add{KeyPackage: k})
	}
	removed := 0
	for _, id := range slices.Compact(slices.Sorted(slices.Values(changes.Remove))) {
		if leaf, member := leaves[id]; member {
			p.Proposals = append(p.Proposals, &mls.Remove{Removed: leaf})
			removed++
		}
	}
	if len(changes.Remove) > 0 && removed == 0 && !again {
		return nil, fmt.Errorf("none of those to remove is a member: %w", ErrEmptyInput)
	}
	for _, id := range changes.PSKs {
		p.Proposals = append(p.Proposals, h.group.NewExternalPSK(id))
	}
	if changes.Extensions != nil {
		p.Proposals = append(p.Proposals, &mls.GroupContextExtensions{Extensions: *changes.Extensions})
	}
	if changes.Rotate != 0 {
		if p.Leaf, err = t.leafParams(ctx, h, changes.Rotate); err != nil {
			return nil, err
		}
	}
	if len(p.Proposals) > 0 || p.ForcePath || changes.Rotate != 0 {
		return p, nil
	}
	for waiting, err := range h.group.PendingProposals(ctx, env) {
		if err != nil {
			return nil, err
		}
		if r, ok := waiting.Proposal.(*mls.Remove); !ok || r.Removed != h.group.OwnLeaf() {
			return p, nil // our own leaving is for others to commit
		}
	}
	return nil, nil
}

// bundleOf is what is published, with the names of those who come and go.
func bundleOf(ctx context.Context, env *mls.Env, g *mls.Group, p *mls.PendingCommit, members []mls.Member) (CommitBundle, error) {
	b, err := p.Bundle(ctx, env, g)
	if err != nil {
		return CommitBundle{}, err
	}
	out := CommitBundle{Commit: b.Commit, Welcome: b.Welcome, GroupInfo: b.GroupInfo}
	for _, leaf := range p.Added() {
		id, err := identify(env, leaf.Credential, leaf.SignatureKey)
		if err != nil {
			return CommitBundle{}, err
		}
		out.Added = append(out.Added, id)
	}
	for _, proposal := range p.Proposals() {
		r, ok := proposal.Proposal.(*mls.Remove)
		if !ok {
			continue
		}
		for _, m := range members {
			if m.Leaf != r.Removed {
				continue
			}
			id, err := identify(env, m.Credential, m.SignatureKey)
			if err != nil {
				return CommitBundle{}, err
			}
			out.Removed = append(out.Removed, id)
		}
	}
	return out, nil
}
