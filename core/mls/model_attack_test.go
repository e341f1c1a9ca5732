// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// What an attacker does who owns the delivery service: whatever is not a message as
// somebody has made it is refused, with an error that has a type, and changes
// nothing. The steps that follow show that it has not.

func (w *world) attack() {
	a := w.actors[w.pick(len(w.actors))]
	switch k := w.pick(8); {
	case k < 5 && a.at != nil && len(w.letters) > 0:
		w.attackMessage(a)
	case k < 6:
		w.attackWelcome()
	case k < 7:
		w.attackGroupInfo(a)
	default:
		w.impostor()
	}
}

// damage flips bits of a message, cuts it, adds to it, or puts parts of two
// messages together. It is nil if what comes out is one of the two.
func (w *world) damage(data, other []byte) []byte {
	var out []byte
	at := w.pick(1<<20) % len(data) // not drawn from the length, which is random with some signatures
	switch k := w.pick(8); {
	case k < 3:
		if w.pick(3) == 0 { // the tags are at the end
			at = len(data) - 1 - at%min(len(data), 80)
		}
		out = bytes.Clone(data)
		out[at] ^= 1 << w.pick(8)
	case k < 4:
		out = data[:at]
	case k < 5:
		out = append(bytes.Clone(data), 0)
	case k < 6: // the head of one and the tail of the other
		out = append(bytes.Clone(data[:at]), other[min(at, len(other)):]...)
	default:
		out = w.swap(data, other)
	}
	if bytes.Equal(out, data) || bytes.Equal(out, other) {
		return nil
	}
	return out
}

// swap takes a message and one of its parts from another.
func (w *world) swap(data, other []byte) []byte {
	m, err := mls.UnmarshalMLSMessage(data)
	o, errOther := mls.UnmarshalMLSMessage(other)
	if err != nil || errOther != nil {
		w.fail("a message of ours cannot be read")
	}
	k := w.pick(9)
	switch {
	case m.PublicMessage != nil && o.PublicMessage != nil:
		m, o := m.PublicMessage, o.PublicMessage
		switch k {
		case 0:
			m.Content.Epoch = o.Content.Epoch
		case 1:
			m.Content.Sender = o.Content.Sender
		case 2:
			m.Content.ContentType, m.Content.Commit, m.Content.Proposal = o.Content.ContentType, o.Content.Commit, o.Content.Proposal
		case 3:
			m.Auth.Signature = o.Auth.Signature
		case 4:
			m.Auth = o.Auth
		case 5:
			m.MembershipTag = o.MembershipTag
		case 6:
			m.Content = o.Content
		case 7:
			m.Content.GroupID = append(m.Content.GroupID, 'x')
		default:
			m.Content.Epoch++
		}
	case m.PrivateMessage != nil && o.PrivateMessage != nil:
		m, o := m.PrivateMessage, o.PrivateMessage
		switch k {
		case 0:
			m.Epoch = o.Epoch
		case 1:
			m.ContentType = o.ContentType
		case 2:
			m.AuthenticatedData = o.AuthenticatedData
		case 3, 4:
			m.EncryptedSenderData = o.EncryptedSenderData
		case 5, 6:
			m.Ciphertext = o.Ciphertext
		case 7:
			m.GroupID = append(m.GroupID, 'x')
		default:
			m.Epoch++
		}
	case m.Welcome != nil && o.Welcome != nil:
		if k%2 == 0 {
			m.Welcome.Secrets = append(o.Welcome.Secrets, m.Welcome.Secrets...)
		} else {
			m.Welcome.EncryptedGroupInfo = o.Welcome.EncryptedGroupInfo
		}
	case m.GroupInfo != nil && o.GroupInfo != nil:
		m, o := m.GroupInfo, o.GroupInfo
		switch k {
		case 0:
			m.GroupContext = o.GroupContext
		case 1:
			m.Extensions = o.Extensions
		case 2:
			m.ConfirmationTag = o.ConfirmationTag
		case 3:
			m.Signer = o.Signer
		case 4:
			m.Signature = o.Signature
		case 5:
			m.GroupContext.Epoch++
		case 6:
			m.GroupContext.TreeHash = o.GroupContext.TreeHash
		case 7:
			m.GroupContext.ConfirmedTranscriptHash = o.GroupContext.ConfirmedTranscriptHash
		default:
			m.Signer++
		}
	case m.PublicMessage != nil && o.PrivateMessage != nil:
		m.PublicMessage.Content.Epoch = o.PrivateMessage.Epoch
	case m.PrivateMessage != nil && o.PublicMessage != nil:
		m.PrivateMessage.ContentType = o.PublicMessage.Content.ContentType
	}
	return m.Marshal()
}

// attackMessage gives a member messages that nobody has made, most of them close to
// one that it would take.
func (w *world) attackMessage(a *actor) {
	recent := w.letters[len(w.letters)-min(len(w.letters), 60):]
	var good []*letter
	for _, o := range w.at(a.at) {
		if o.staged != nil && !o.staged.first {
			recent = append(slices.Clip(recent), o.staged.sent)
		}
	}
	for _, l := range recent {
		if a.judge(l, a.name).fine() {
			good = append(good, l)
		}
	}
	for range 4 {
		l := recent[w.pick(len(recent))]
		if len(good) > 0 && w.pick(4) > 0 {
			l = good[w.pick(len(good))]
		}
		w.attackWith(a, l, recent[w.pick(len(recent))])
	}
}

// attackWith gives a member a letter that was changed, perhaps with parts of another.
func (w *world) attackWith(a *actor, l, other *letter) {
	data := w.damage(l.bytes, other.bytes)
	if data == nil || slices.ContainsFunc(w.letters, func(l *letter) bool { return bytes.Equal(l.bytes, data) }) {
		return
	}
	before := snapshot(a.stored)
	_, err := a.process(data)
	w.refusal(err, "%s: %s that was changed", a.name, l)
	if !before.same(a.stored) {
		w.fail("%s: %s that was changed has changed the store", a.name, l)
	}
}

func (w *world) refusal(err error, format string, args ...any) {
	modelCount.attacks.Add(1)
	if !typed(err) {
		w.Log("the error: ", err)
		w.fail("%s: %s", fmt.Sprintf(format, args...), outcome(err))
	}
}

// attackWelcome changes a Welcome. Only what is for others in it is not bound to
// the group: a join that succeeds must be the join that was meant.
func (w *world) attackWelcome() {
	for range 3 {
		e := w.recentEpoch()
		if e == nil || e.commit == nil || len(e.commit.adds()) == 0 || e.seen == nil {
			continue
		}
		c := e.commit
		adds := c.adds()
		a := adds[w.pick(len(adds))].bundle.owner
		other := c.bundle.GroupInfo
		if o := w.recentEpoch(); o.commit != nil && len(o.commit.adds()) > 0 {
			other = o.commit.bundle.Welcome
		}
		data := w.damage(c.bundle.Welcome, other)
		if data == nil {
			continue
		}
		m, err := mls.UnmarshalMLSMessage(data)
		if err == nil && m.Welcome != nil {
			var g *mls.Group
			g, _, _, err = mls.Join(w.Context(), a.env(), mls.JoinParams{Welcome: m.Welcome, Config: a.limits, KeyPackage: a.findBundle, Tree: e.seen.tree})
			if err == nil {
				if !bytes.Equal(g.EpochAuthenticator(), e.seen.authenticator) || !bytes.Equal(g.TreeHash(), e.seen.treeHash) {
					w.fail("%s: a Welcome that was changed leads elsewhere", a.name)
				}
				continue
			}
		} else if err == nil {
			continue // it is the GroupInfo's head with the tail of a Welcome, or no Welcome at all
		}
		w.refusal(err, "%s: a Welcome that was changed", a.name)
	}
}

// attackGroupInfo changes a GroupInfo or the tree beside it.
func (w *world) attackGroupInfo(a *actor) {
	by := w.one()
	if by == nil {
		return
	}
	tree := w.rarely(3)
	info, err := by.g().GroupInfo(w.Context(), by.env(), mls.GroupInfoParams{OmitTree: tree})
	w.expect(fine, err, "%s: GroupInfo", by.name)
	nodes := by.at.seen.tree
	if tree = tree || w.config.TreeOutOfBand; tree && w.pick(2) == 0 {
		other := nodes
		if e := w.recentEpoch(); e != nil && e.seen != nil {
			other = e.seen.tree
		}
		switch at := w.pick(1<<20) % len(nodes); w.pick(3) {
		case 0:
			nodes = bytes.Clone(nodes)
			nodes[at] ^= 1 << w.pick(8)
		case 1:
			nodes = nodes[:at]
		default:
			nodes = other
		}
		if bytes.Equal(nodes, by.at.seen.tree) {
			return
		}
	} else {
		other := info
		if e := w.recentEpoch(); e != nil && e.commit.groupInfo() != nil {
			other = e.commit.bundle.GroupInfo
		}
		if info = w.damage(info, other); info == nil {
			return
		}
	}
	m, err := mls.UnmarshalMLSMessage(info)
	if err == nil {
		if m.GroupInfo == nil {
			return
		}
		_, _, _, err = mls.JoinExternal(w.Context(), a.env(), mls.ExternalParams{
			GroupInfo: m.GroupInfo, Tree: nodes, Signer: a.signer(), Credential: core.BasicCredential(core.ClientID(a.name)),
			Capabilities: a.capabilitiesOf(true), Config: a.limits,
			Replace: func(o mls.Member) bool { return string(o.Credential.Identity) == a.name },
		})
	}
	w.refusal(err, "%s: a GroupInfo that was changed", a.name)
}

func (w *world) recentEpoch() *modelEpoch {
	if len(w.epochs) == 0 {
		return nil
	}
	return w.epochs[len(w.epochs)-1-w.pick(min(len(w.epochs), 10))]
}

// impostor comes in from outside in the place of a member that it is not (CRD-2).
func (w *world) impostor() {
	by := w.one()
	if by == nil {
		return
	}
	leaves := by.at.tree.leaves()
	victim := leaves[w.pick(len(leaves))]
	info, err := by.g().GroupInfo(w.Context(), by.env(), mls.GroupInfoParams{})
	w.expect(fine, err, "%s: GroupInfo", by.name)
	m, err := mls.UnmarshalMLSMessage(info)
	w.expect(fine, err, "GroupInfo")
	if victim == nil {
		return
	}
	mallory := newMember(w, w.suite, "mallory", w.config)
	mallory.asks = &judge{} // she believes herself
	_, commit, _, err := mls.JoinExternal(w.Context(), mallory.env(), mls.ExternalParams{
		GroupInfo: m.GroupInfo, Tree: by.at.seen.tree, Signer: mallory.signer(), Credential: core.BasicCredential("mallory"),
		Capabilities: by.capabilitiesOf(true), Config: w.config,
		Replace: func(o mls.Member) bool { return string(o.Credential.Identity) == victim.name },
	})
	w.expect(fine, err, "mallory enters in the place of %s", victim.name)
	for _, o := range w.at(by.at) {
		_, err := o.process(commit)
		w.expect(refused(core.ErrDenied), err, "%s: mallory in the place of %s", o.name, victim.name)
	}
}
