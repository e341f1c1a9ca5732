// SPDX-License-Identifier: Apache-2.0

package mls_test

import "github.com/conclave-mls/conclave/core/mls"

// finish shows that the group is well after all that happened: its members catch
// up, each of some refreshes its keys for all the others, and all can read all. It returns the epoch in which
// most are.
func (w *world) finish() *modelEpoch {
	w.calm = true
	for i, a := range w.actors {
		a.reload = i%2 == 0
		w.follow(a)
	}
	var e *modelEpoch
	for _, a := range w.members() {
		if e == nil || len(w.at(a.at)) > len(w.at(e)) {
			e = a.at
		}
	}
	if e == nil {
		return nil
	}
	for i := range min(3, len(w.at(e))) {
		list := w.at(e)
		a := list[(i*7+w.pick(len(list)))%len(list)]
		w.accept(w.stageOf(a, a.at.tree.find(a.name), nil, mls.CommitParams{}), false)
		if a.at == e || !a.active { // another branch was faster
			break
		}
		e = a.at
		w.sendTo(a, e)
	}
	w.calm = false
	return e
}

// sendTo sends a text that all in the epoch read.
func (w *world) sendTo(a *actor, e *modelEpoch) {
	n := len(w.letters)
	w.send(a)
	for _, l := range w.letters[n:] {
		for _, o := range w.at(e) {
			if o != a {
				w.deliver(o, l)
			}
		}
	}
}
