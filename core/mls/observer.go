// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"fmt"
	"math"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// An Observer follows a group from outside, as far as its handshakes are
// PublicMessages: who is in it, and in which epoch it is (XS-5). It holds no secret
// and is, like a [Group], an immutable value, kept in memory only.
//
// It checks every signature and every rule that can be checked in public. What it
// cannot check are the membership and confirmation tags: members may refuse a
// commit that an Observer takes, if a member, or an outsider who joins by it, made it
// with a wrong tag or sent two for one epoch. TreeHash and ConfirmationTag show whether it is still with them.
type Observer struct {
	g *Group // without secrets, in no leaf
}

// Observe begins with a GroupInfo, checked whole (EXT-6), and the tree, if the
// GroupInfo does not carry it. The Env needs neither Fetch nor Signer nor PSK. Members
// give a GroupInfo with each commit ([CommitBundle]) or by [Group.GroupInfo]; it is an
// MLSMessage. The events of a member's client are something else: Client.Observe in
// package client.
func Observe(env *Env, info *GroupInfo, tree []byte) (_ *Observer, err error) {
	defer tooLarge(&err)
	env = env.operation()
	suite, err := env.Suites.Suite(info.GroupContext.Suite) // CS-6
	if err != nil {
		return nil, err
	}
	t, err := openTree(env, suite, info, tree)
	if err != nil {
		return nil, err
	}
	if err := checkContext(t, &info.GroupContext, math.MaxUint32); err != nil {
		return nil, err
	}
	return observe(suite, t, info.GroupContext, info.ConfirmationTag, nil), nil
}

func observe(suite core.Suite, t *tree, gc GroupContext, tag []byte, reinit *ReInit) *Observer {
	t.writePages(&record.WriteSet{}, gc.Epoch) // nothing is stored; the tree is shared from here on
	return &Observer{&Group{
		suite: suite, config: Config{Handshake: HandshakePublic},
		context: gc, contextBytes: marshal(&gc), tag: bytes.Clone(tag),
		interim: interimTranscriptHash(suite, gc.ConfirmedTranscriptHash, tag),
		own:     math.MaxUint32, active: reinit == nil, reinit: reinit,
		tree: t, proposals: &proposalStore{},
	}}
}

// GroupID is the id of the group.
func (o *Observer) GroupID() []byte { return o.g.GroupID() }

// Epoch is the current epoch.
func (o *Observer) Epoch() uint64 { return o.g.Epoch() }

// Suite is the cipher suite of the group.
func (o *Observer) Suite() core.SuiteID { return o.g.Suite() }

// Extensions are those of the GroupContext.
func (o *Observer) Extensions() Extensions { return o.g.Extensions() }

// TreeHash is what a member's [Group.TreeHash] must be in the same epoch, Nh bytes.
func (o *Observer) TreeHash() []byte { return o.g.TreeHash() }

// ConfirmationTag is what a member's [Group.ConfirmationTag] must be, Nh bytes.
func (o *Observer) ConfirmationTag() []byte { return o.g.ConfirmationTag() }

// ReInit is set when the group has ended with a ReInit.
func (o *Observer) ReInit() *ReInit { return o.g.ReInit() }

// Members lists the members in leaf order.
func (o *Observer) Members() []Member { return o.g.tree.members() }

// RatchetTree is the tree as the content of the ratchet_tree extension.
func (o *Observer) RatchetTree() []byte { return o.g.tree.appendTo(nil) }

// Process handles a PublicMessage of the group: the result is a *ReceivedProposal or
// a *ReceivedCommit. On an error the value at hand is as good as before; a
// PrivateMessage is core.ErrUnsupported, and after one that carried a commit the
// Observer has to begin anew.
func (o *Observer) Process(ctx context.Context, env *Env, m *MLSMessage) (_ *Observer, _ Processed, err error) {
	defer tooLarge(&err)
	g := o.g
	groupID, epoch, ok := m.GroupEpoch()
	switch {
	case !ok:
		return nil, nil, fmt.Errorf("wire format %d is not a group's message: %w", m.WireFormat(), ErrMalformed)
	case !bytes.Equal(groupID, g.context.GroupID): // FR-6
		return nil, nil, ErrWrongGroup
	case epoch != g.context.Epoch:
		return nil, nil, &EpochError{Message: epoch, Group: g.context.Epoch}
	case m.PublicMessage == nil:
		return nil, nil, fmt.Errorf("mls: an observer cannot read a PrivateMessage: %w", core.ErrUnsupported)
	case !g.active:
		return nil, nil, ErrInactive
	}
	if err := checkSender(WirePublicMessage, m.PublicMessage.Content); err != nil {
		return nil, nil, err
	}
	a := &AuthenticatedContent{WireFormat: WirePublicMessage, Content: m.PublicMessage.Content, Auth: m.PublicMessage.Auth}
	if err := g.verifySender(a); err != nil {
		return nil, nil, err
	}
	if a.Content.ContentType == ContentProposal {
		next, result, err := g.processProposal(ctx, env, a, &record.WriteSet{})
		if err != nil {
			return nil, nil, err
		}
		return &Observer{next}, result, nil
	}
	c, err := g.applyCommit(ctx, env, a)
	if err != nil {
		return nil, nil, err
	}
	c.context.ConfirmedTranscriptHash = confirmedTranscriptHash(g.suite, g.interim, a)
	return observe(g.suite, c.work, c.context, a.Auth.ConfirmationTag, c.list.reinit()), c.result, nil
}
