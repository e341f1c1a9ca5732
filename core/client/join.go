// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// A JoinConfig is what a member chooses who joins. The zero value is good.
type JoinConfig struct {
	Group      mls.Config          // as in ConversationConfig; Handshake is that of the conversation
	Credential core.CredentialType // external commit: 0 is basic
	Tree       []byte              // the ratchet tree, if it travels out of band
	PSKs       [][]byte            // external commit: ids of pre-shared keys to mix in

	CredentialRef CredentialRef // external commit; not 0: this one of ours, instead of the newest of the type

	// Member has an external commit be ErrLeafGone, with nothing sent, if the fetched tree
	// has no leaf of ours: who has left, or was removed, does not come back by it.
	Member bool
	// InPlace has it be ErrLeafMoves if a blank leaf lies before ours, so that our new leaf
	// would be there: members with Core Crypto 10.3 take such a commit in another way than
	// RFC 9420 says, and go on without the others.
	InPlace bool
}

// ProcessWelcome joins a conversation that a member has added us to. The key
// package that was used is gone, unless it is a last resort: see
// [Conversation.LastResort]. ErrOrphanWelcome: we have none that fits. ErrConversationExists: we are in it, or about to join; the
// key package stays. After an accident of the store, the Welcome of a member who has
// removed us and added us again replaces what we had. See [Conversation.Replay] for messages that came before.
func (t *Transaction) ProcessWelcome(ctx context.Context, message []byte, cfg JoinConfig) (*Conversation, error) {
	return in(ctx, t, func() (*Conversation, error) { return t.processWelcome(ctx, message, cfg) })
}

func (t *Transaction) processWelcome(ctx context.Context, message []byte, cfg JoinConfig) (*Conversation, error) {
	config, err := groupConfig(cfg.Group)
	if err != nil {
		return nil, err
	}
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	if m.Welcome == nil {
		return nil, fmt.Errorf("not a Welcome: %w", mls.ErrMalformed)
	}
	g, joined, ws, err := mls.Join(ctx, t.env(ctx, "", 0), mls.JoinParams{
		Welcome: m.Welcome, Tree: cfg.Tree, Config: config,
		KeyPackage: t.keyPackage,
	})
	if errors.Is(err, mls.ErrNoKeyPackage) {
		return nil, ErrOrphanWelcome
	}
	if err != nil {
		return nil, err
	}
	// The service can change the bytes of a Welcome and leave the part that is for us:
	// what counts is the epoch that it leads to.
	name := digestOf(g.EpochAuthenticator())
	seen := at(tableWelcome, string(name[:]))
	_, again, err := t.segment.get(ctx, seen, theOnly)
	if err != nil {
		return nil, err
	}
	if again { // our ratchets would start over
		return nil, mls.ErrDuplicateMessage
	}
	id := core.ConversationID(g.GroupID())
	h, err := t.holdToRead(ctx, id)
	if err != nil {
		return nil, err
	}
	if h.group != nil && !h.head.lost || h.head.join.exists() {
		return nil, ErrConversationExists
	}
	if h.group != nil && g.Epoch() <= h.head.epoch {
		return nil, fmt.Errorf("epoch of a Welcome: %w", &mls.EpochError{Message: g.Epoch(), Group: h.head.epoch})
	}
	suite, err := t.client.suites.Suite(joined.KeyPackage.Suite)
	if err != nil {
		return nil, err
	}
	own, err := t.consume(ctx, joined.KeyPackage.Ref(suite))
	if err != nil {
		return nil, err
	}
	if joined.KeyPackage.IsLastResort() {
		t.segment.expect(seen, theOnly, core.Version{})
		t.segment.put(seen, theOnly, newEncoder())
	}
	if err := t.clear(ctx, h); err != nil {
		return nil, err
	}
	if err := t.inhabit(ctx, h, h.head.next, g, ws, own); err != nil {
		return nil, err
	}
	c := t.conversation(id)
	c.last = joined.KeyPackage.IsLastResort()
	return c, nil
}

// JoinByExternalCommit joins the conversation of a GroupInfo (an MLSMessage)
// without being invited, or joins it again: our old leaf, if the fetched tree has
// one, is removed by the same commit, and what we had of the conversation is
// replaced when the commit is merged. It is a boundary, as [Conversation.Commit]
// is. Where another commit wins, the GroupInfo is fetched anew and the join tried
// again if the transport is a [GroupInfoSource]; else it is ErrCommitLost. A GroupInfo of
// an epoch before ours is mls.ErrWrongEpoch: who was removed since would be back.
func (t *Transaction) JoinByExternalCommit(ctx context.Context, groupInfo []byte, cfg JoinConfig) (*Conversation, *CommitResult, error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	if err := t.client.canCommit(); err != nil {
		return nil, nil, err
	}
	var asked core.ConversationID
	for try := 1; ; try++ {
		m, err := mls.UnmarshalMLSMessage(groupInfo)
		if err != nil {
			return nil, nil, err
		}
		if m.GroupInfo == nil {
			return nil, nil, fmt.Errorf("not a GroupInfo: %w", mls.ErrMalformed)
		}
		id := core.ConversationID(m.GroupInfo.GroupContext.GroupID)
		if try > 1 && id != asked { // the service has substituted it
			return nil, nil, mls.ErrWrongGroup
		}
		asked = id
		result, err := t.joinOnce(ctx, id, m.GroupInfo, cfg)
		if err == nil {
			return t.conversation(id), result, nil
		}
		source, ok := t.client.transport().(GroupInfoSource)
		if !errors.Is(err, ErrCommitLost) || !ok || try == maxTries {
			return nil, nil, err
		}
		err = t.away(ctx, func(ctx context.Context) (err error) {
			groupInfo, err = source.GroupInfo(ctx, id)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
	}
}

func (t *Transaction) joinOnce(ctx context.Context, id core.ConversationID, info *mls.GroupInfo, cfg JoinConfig) (result *CommitResult, err error) {
	h, done, err := t.readyToJoin(ctx, id)
	if err != nil || done != nil {
		return done, err
	}
	if at := info.GroupContext.Epoch; h.group != nil && at < h.head.epoch {
		return nil, fmt.Errorf("GroupInfo: %w", &mls.EpochError{Message: at, Group: h.head.epoch})
	}
	defer t.whole(&err)()
	g, own, commit, ws, err := t.makeJoin(ctx, h, info, cfg)
	if err != nil {
		return nil, err
	}
	message := digestOf(commit)
	if err := t.clear(ctx, h); err != nil {
		return nil, err
	}
	if err := t.enlist(ctx, h); err != nil {
		return nil, err
	}
	if err := t.use(ctx, h, own); err != nil {
		return nil, err
	}
	h.head.staged = h.head.next
	h.head.next++
	h.head.join = pendingHead{message: message, epoch: info.GroupContext.Epoch, submissions: 1}
	t.write(h, h.head.staged, ws)
	t.segment.put(ofConversation(tableJoin, id), theOnly, commit)
	b := CommitBundle{Commit: commit}
	if b.GroupInfo, err = g.GroupInfo(ctx, t.env(ctx, id, h.head.staged), mls.GroupInfoParams{}); err != nil {
		return nil, err
	}
	if err := t.cross(ctx); err != nil {
		return nil, err
	}
	err = t.away(ctx, func(ctx context.Context) error {
		result, err = t.client.submit(ctx, id, joinKind, message, b)
		return err
	})
	if err != nil {
		return nil, err
	}
	if result == nil {
		result = &CommitResult{Epoch: g.Epoch(), Own: true, Active: true}
	}
	return result, t.replayAfter(ctx, id, result)
}

// readyToJoin holds the conversation with no earlier join waiting. If one turns out
// to have been accepted, that is what was asked for.
func (t *Transaction) readyToJoin(ctx context.Context, id core.ConversationID) (*held, *CommitResult, error) {
	h, err := t.salvage(ctx, id)
	if err != nil || !h.head.join.exists() {
		return h, nil, err
	}
	if !t.unchanged() {
		t.blocked = append(t.blocked, id)
		return nil, nil, fmt.Errorf("an earlier join waits for its answer: %w", core.ErrConflict)
	}
	earlier := h.head.join.message
	t.release(nil)
	err = t.away(ctx, func(ctx context.Context) error { return t.client.resolve(ctx, id, joinKind, earlier) })
	if err != nil {
		return nil, nil, err
	}
	if h, err = t.salvage(ctx, id); err != nil {
		return nil, nil, err
	}
	switch h.head.standing(joinKind, earlier) {
	case waiting:
		return nil, nil, fmt.Errorf("an earlier join waits for its answer: %w", core.ErrUnavailable)
	case merged:
		return nil, &CommitResult{Epoch: h.head.epoch, Own: true, Active: true}, nil
	}
	return h, nil, nil
}

// makeJoin makes the external commit.
func (t *Transaction) makeJoin(ctx context.Context, h *held, info *mls.GroupInfo, cfg JoinConfig) (*mls.Group, CredentialRef, []byte, *record.WriteSet, error) {
	fail := func(err error) (*mls.Group, CredentialRef, []byte, *record.WriteSet, error) {
		return nil, 0, nil, nil, err
	}
	config, err := groupConfig(cfg.Group)
	if err != nil {
		return fail(err)
	}
	suite, err := t.client.suites.Suite(info.GroupContext.Suite)
	if err != nil {
		return fail(err)
	}
	own, signer, err := t.ownSigner(ctx, suite, cfg.Credential, cfg.CredentialRef)
	if err != nil {
		return fail(err)
	}
	env := t.env(ctx, h.id, h.head.next)
	me, err := identify(env, own.Credential, own.SignatureKey)
	if err != nil {
		return fail(err)
	}
	if _, open := info.Extensions.Find(mls.ExtensionExternalPub); !open {
		return fail(ErrNoExternalPub)
	}
	var next mls.LeafIndex
	member, moves := false, false
	p := mls.ExternalParams{
		GroupInfo: info, Tree: cfg.Tree, Signer: signer, Credential: own.Credential,
		Capabilities: mls.DefaultCapabilities(t.client.suites.Suites()), Config: config,
		Replace: func(m mls.Member) bool {
			moves = moves || m.Leaf != next
			next = m.Leaf + 1
			id, err := identify(env, m.Credential, m.SignatureKey)
			member = err == nil && id == me
			return member
		},
	}
	for _, id := range cfg.PSKs {
		p.PSKs = append(p.PSKs, mls.PreSharedKeyID{Type: mls.PSKExternal, ID: id, Nonce: RandomBytes(suite.Parameters().Nh)})
	}
	g, commit, ws, err := mls.JoinExternal(ctx, env, p)
	switch {
	case err != nil:
	case cfg.Member && !member:
		return fail(ErrLeafGone)
	case cfg.InPlace && member && moves:
		return fail(ErrLeafMoves)
	}
	return g, own.Ref, commit, ws, err
}

// rebuildJoin makes the bundle of a join that waits again.
func (t *Transaction) rebuildJoin(ctx context.Context, h *held) (b CommitBundle, err error) {
	r, found, err := t.segment.get(ctx, ofConversation(tableJoin, h.id), theOnly)
	if err != nil {
		return CommitBundle{}, err
	}
	if !found || digestOf(r.Value) != h.head.join.message {
		return CommitBundle{}, fmt.Errorf("external commit: %w", core.ErrDamaged)
	}
	g, err := t.loadGroup(ctx, h, h.head.staged)
	if err != nil {
		return CommitBundle{}, err
	}
	b.Commit = r.Value
	b.GroupInfo, err = g.GroupInfo(ctx, t.env(ctx, h.id, h.head.staged), mls.GroupInfoParams{})
	return b, err
}

// mergeJoin makes the staged incarnation the active one: the service has accepted
// our external commit. What was buffered is tried: of a group that we had before,
// only what is of the epoch that we have joined can be of use.
func (t *Transaction) mergeJoin(ctx context.Context, h *held) (*CommitResult, error) {
	g, err := t.loadGroup(ctx, h, h.head.staged)
	if err != nil {
		return nil, err
	}
	me, err := clientID(ctx, t.segment)
	if err != nil {
		return nil, err
	}
	if h.head.active != 0 {
		unsent, err := t.unsentProposals(ctx, h)
		if err != nil {
			return nil, err
		}
		t.lapsed(h, unsent)
		if h.head.pending.exists() {
			if err := t.overtaken(ctx, h); err != nil {
				return nil, err
			}
		}
		t.segment.del(ofGroup(h.id, h.head.active), nil)
		t.segment.del(ofConversation(tableBufferedCommit, h.id), nil)
		h.head.waiting.commit = false
	}
	t.segment.del(ofConversation(tableJoin, h.id), nil)
	h.group, h.damaged, h.dirty = g, nil, true
	h.head.lost = false
	h.head.merged, h.head.began = h.head.join.message, h.head.join.message
	t.noPending(h)
	h.head.join = pendingHead{}
	h.head.active, h.head.staged, h.head.epoch = h.head.staged, 0, g.Epoch()
	h.head.waiting.ready = h.head.waiting.count > 0
	t.segment.events = append(t.segment.events, EpochChanged{h.id, g.Epoch()})
	t.note(slog.LevelInfo, h, "conversation joined", slog.Uint64("epoch", g.Epoch()))
	return &CommitResult{Epoch: g.Epoch(), Own: true, Committer: me, Added: []core.ClientID{me}, Active: true}, nil
}

// dropJoin forgets an external join, and the conversation if there is nothing else
// of it. What was buffered stays: a Welcome may be on its way, to the epoch that it
// is of.
func (t *Transaction) dropJoin(ctx context.Context, h *held) error {
	t.segment.del(ofConversation(tableJoin, h.id), nil)
	t.segment.del(ofGroup(h.id, h.head.staged), nil)
	h.head.join, h.head.staged, h.dirty = pendingHead{}, 0, true
	if h.head.active != 0 || h.head.waiting.count > 0 || h.head.lost {
		return nil
	}
	return t.forget(ctx, h, "the join was refused")
}

// DiscardPendingJoin forgets an external join that waits for its answer. If the
// service has accepted it after all, a later join replaces it. core.ErrNotFound if
// none waits.
func (t *Transaction) DiscardPendingJoin(ctx context.Context, id core.ConversationID) error {
	return t.do(ctx, func() error {
		h, err := t.holdToRead(ctx, id)
		if err != nil {
			return err
		}
		if !h.head.join.exists() {
			return fmt.Errorf("pending join: %w", core.ErrNotFound)
		}
		if h.head.active == 0 {
			t.emptyBuffer(h)
		}
		return t.dropJoin(ctx, h)
	})
}
