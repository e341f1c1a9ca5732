// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"slices"

	"github.com/conclave-mls/conclave/core/mls"
)

// A modelWatcher follows the group from outside (XS-5): all that it says must be what the
// members say.
type modelWatcher struct {
	*mls.Observer
	at      *modelEpoch
	waiting []*modelProposal
}

// watch lets the watcher see what the group has done since.
func (w *world) watch() {
	if w.config.Handshake != mls.HandshakePublic || w.mixed {
		return
	}
	env := w.outsider.env()
	for w.watcher != nil && w.watcher.at.next != nil {
		o := w.watcher
		c := o.at.next.commit
		for _, p := range c.list {
			if p.byReference && !slices.Contains(o.waiting, p.modelProposal) {
				w.observe(p.sent)
				o.waiting = append(o.waiting, p.modelProposal)
			}
		}
		w.observe(c.sent)
		o.at, o.waiting = c.result, nil
		if s := o.at.seen; o.Epoch() != o.at.number || !bytes.Equal(o.TreeHash(), s.treeHash) || !bytes.Equal(o.RatchetTree(), s.tree) ||
			!bytes.Equal(o.ConfirmationTag(), s.tag) || !sameExtensions(o.Extensions(), o.at.extensions.real(w.senders())) || len(o.Members()) != o.at.tree.count() {
			w.fail("the watcher does not agree about epoch %d", o.at.number)
		}
		modelCount.members.Add(1)
	}
	if w.watcher != nil && !w.rarely(20) {
		return
	}
	if by := w.one(); by != nil {
		info, err := by.g().GroupInfo(w.Context(), by.env(), mls.GroupInfoParams{OmitExternalPub: true})
		w.expect(fine, err, "%s: GroupInfo", by.name)
		m, err := mls.UnmarshalMLSMessage(info)
		w.expect(fine, err, "GroupInfo")
		o, err := mls.Observe(env, m.GroupInfo, by.at.seen.tree)
		w.expect(fine, err, "observe epoch %d", by.at.number)
		w.watcher = &modelWatcher{Observer: o, at: by.at}
	}
}

func (w *world) observe(l *letter) {
	m, err := mls.UnmarshalMLSMessage(l.bytes)
	w.expect(fine, err, "%s", l)
	next, _, err := w.watcher.Process(w.Context(), w.outsider.env(), m)
	w.expect(fine, err, "the watcher in %d: %s", w.watcher.at.number, l)
	w.watcher.Observer = next
}
