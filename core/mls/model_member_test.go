// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// The naive model of one member: where it is, what it has at hand, and what must
// come of a message that it gets.

// A letter is a message on its way, to be read by anybody at any time.
type letter struct {
	content mls.ContentType
	sender  mls.SenderType
	epoch   *modelEpoch
	name    string // of the sender
	from    int    // its leaf
	index   uint32 // of an external sender

	private    bool
	generation int

	text     string
	proposal *modelProposal
	commit   *modelCommit
	bytes    []byte
}

// A verdict is how an operation must end: well, or with one of some errors.
type verdict struct {
	errs  []error
	rules []string
}

var fine verdict

func refused(errs ...error) verdict  { return verdict{errs: errs} }
func breaks(rules ...string) verdict { return verdict{rules: rules} }
func (v verdict) fine() bool         { return len(v.errs)+len(v.rules) == 0 }
func (v verdict) or(o verdict) verdict {
	return verdict{append(v.errs, o.errs...), append(v.rules, o.rules...)}
}

func (v verdict) fits(err error) bool {
	var rule *mls.RuleError
	switch {
	case err == nil || v.fine():
		return err == nil && v.fine()
	case errors.As(err, &rule):
		return slices.Contains(v.rules, rule.Rule)
	}
	return slices.ContainsFunc(v.errs, func(want error) bool { return errors.Is(err, want) })
}

// A modelMember is one client's part in the group.
type modelMember struct {
	limits  mls.Config
	at      *modelEpoch // nil: not in the group
	joined  uint64
	active  bool
	waiting []*modelProposal // in the order in which they came
	staged  *modelCommit
	known   map[string]bool // external pre-shared keys
	sent    map[ratchetOf]int
	opened  map[ratchetOf]*modelRatchet
}

// A ratchetOf names a ratchet as the member sees it.
type ratchetOf struct {
	epoch       *modelEpoch
	leaf        int
	application bool
}

// A modelRatchet remembers which generations were opened.
type modelRatchet struct {
	next int // behind the last one
	used map[int]bool
}

func (m *modelMember) enter(e *modelEpoch) {
	m.at, m.waiting, m.staged = e, nil, nil
	m.active = !e.ended
}

// arrive begins anew in an epoch.
func (m *modelMember) arrive(e *modelEpoch) {
	m.enter(e)
	m.joined = e.number
	m.sent, m.opened = map[ratchetOf]int{}, map[ratchetOf]*modelRatchet{}
}

// in is whether the client takes itself for a member.
func (m *modelMember) in() bool { return m.at != nil && m.active }

// spend takes the next generation of a ratchet of our own.
func (m *modelMember) spend(application bool) int {
	r := ratchetOf{m.at, 0, application}
	m.sent[r]++
	return m.sent[r] - 1
}

// has is whether a pre-shared key is at hand.
func (m *modelMember) has(p *modelProposal) bool {
	if p.psk != "" {
		return m.known[p.psk]
	}
	now := m.at.number
	return p.pskEpoch <= now && p.pskEpoch >= m.joined && now-p.pskEpoch <= uint64(m.limits.ResumptionEpochs)
}

// lacks is whether the list names a pre-shared key that is not at hand.
func (m *modelMember) lacks(list []modelItem) bool {
	return slices.ContainsFunc(list, func(p modelItem) bool { return p.kind == mls.ProposalPSK && !m.has(p.modelProposal) })
}

// ratchet judges a generation of somebody's ratchet.
func (m *modelMember) ratchet(l *letter) verdict {
	r := m.opened[ratchetOf{l.epoch, l.from, l.content == mls.ContentApplication}]
	if r == nil {
		r = &modelRatchet{}
	}
	switch {
	case l.generation >= r.next && l.generation-r.next > int(m.limits.MaxForward):
		return refused(mls.ErrTooFarAhead)
	case l.generation >= r.next:
		return fine
	case l.generation+int(m.limits.OutOfOrder) < r.next:
		return refused(mls.ErrTooOld)
	case r.used[l.generation]:
		return refused(mls.ErrDuplicateMessage)
	}
	return fine
}

// judge says what must come of a message.
func (m *modelMember) judge(l *letter, name string) verdict {
	now, then := m.at.number, l.epoch.number
	if now != then {
		switch {
		case then > now || !l.private || l.content != mls.ContentApplication:
			return refused(mls.ErrWrongEpoch)
		case then < m.joined || now-then > uint64(m.limits.MaxPastEpochs):
			return refused(mls.ErrTooOld)
		case m.at.ancestor(then) != l.epoch: // the other side of a fork
			return refused(mls.ErrAuthentication)
		case l.name == name:
			return refused(mls.ErrOwnMessage)
		}
		return m.ratchet(l)
	}
	outside := l.sender == mls.SenderExternal || l.sender == mls.SenderNewMemberProposal
	switch {
	case !m.active:
		return refused(mls.ErrInactive)
	case m.at != l.epoch && !outside:
		return refused(mls.ErrAuthentication)
	case l.name == name && l.sender == mls.SenderMember && (l.private || l.commit == nil || l.commit.leaf != nil):
		return refused(mls.ErrOwnMessage) // COM-3: a commit with nothing for us to decrypt is like anybody's
	}
	if l.private {
		if v := m.ratchet(l); !v.fine() {
			return v
		}
	}
	switch {
	case l.content == mls.ContentProposal:
		return m.judgeProposal(l)
	case l.content == mls.ContentCommit:
		return m.judgeCommit(l.commit, m.at.tree.find(name))
	}
	return fine
}

// judgeProposal says what must come of a proposal by itself. A member makes none
// that breaks a rule; those from outside know little of the group.
func (m *modelMember) judgeProposal(l *letter) verdict {
	switch p := l.proposal; {
	case l.sender == mls.SenderExternal && (!m.at.extensions.hasSenders() || l.index > 1):
		return breaks("XS-1")
	case slices.Contains(m.waiting, p):
		return refused(mls.ErrDuplicateMessage)
	case p.kind == mls.ProposalRemove && m.at.tree.leaf(p.target) == nil:
		return breaks("PRP-4")
	}
	return fine
}

func (m *modelMember) judgeCommit(c *modelCommit, own int) verdict {
	if m.knows(c, own) { // whatever else there is
		return fine
	}
	for _, p := range c.list {
		if p.byReference && !slices.Contains(m.waiting, p.modelProposal) {
			return refused(mls.ErrMissingProposal)
		}
	}
	if m.lacks(c.list) {
		return refused(mls.ErrMissingPSK)
	}
	return fine
}

// knows is whether the member sees that a commit removes it.
func (m *modelMember) knows(c *modelCommit, own int) bool {
	return slices.ContainsFunc(c.list, func(p modelItem) bool {
		return p.kind == mls.ProposalRemove && p.target == own && (!p.byReference || slices.Contains(m.waiting, p.modelProposal))
	})
}

// take changes the model as the message says, which was judged fine.
func (m *modelMember) take(l *letter, name string) {
	if l.private {
		key := ratchetOf{l.epoch, l.from, l.content == mls.ContentApplication}
		if m.opened[key] == nil {
			m.opened[key] = &modelRatchet{used: map[int]bool{}}
		}
		m.opened[key].used[l.generation] = true
		m.opened[key].next = max(m.opened[key].next, l.generation+1)
	}
	switch {
	case l.content == mls.ContentProposal:
		m.waiting = append(m.waiting, l.proposal)
	case l.content == mls.ContentCommit && l.commit.removes(m.at.tree.find(name)):
		m.active, m.waiting, m.staged = false, nil, nil
	case l.content == mls.ContentCommit:
		m.enter(l.commit.result)
	}
}

// judgeSuccessor says whether the member can join a group that comes from an epoch
// of this one. Its own epoch may be later, if the group was a branch.
func (m *modelMember) judgeSuccessor(e *modelEpoch) verdict {
	switch {
	case m.at == nil || !m.has(&modelProposal{pskEpoch: e.number}):
		return refused(mls.ErrMissingPSK)
	case m.at.ancestor(e.number) != e:
		return refused(mls.ErrAuthentication)
	case m.at.number-e.number > uint64(m.limits.MaxPastEpochs):
		return refused(mls.ErrTooOld) // who its members were is no longer known
	}
	return fine
}

// judgeOwn says what must come of a commit of our own over proposals by value.
// strict is whether it must fail: what waits may make up for what is wrong.
func (m *modelMember) judgeOwn(values []modelItem, own int) (v verdict, strict bool) {
	if !m.active {
		return refused(mls.ErrInactive), true
	}
	for _, p := range values {
		if p.kind == mls.ProposalRemove && m.at.tree.leaf(p.target) == nil {
			return breaks("PRP-4"), true
		}
	}
	if m.lacks(values) {
		v, strict = refused(mls.ErrMissingPSK), true
	}
	return v.or(breaks(m.at.breaches(values, own)...)), strict
}

// wrongSelection says what is wrong with what our commit covers, "" if nothing is:
// it has to be a list that everybody takes, with all that is by value and whatever
// else can be committed (RFC 9420 section 12.2).
func (m *modelMember) wrongSelection(values, list []modelItem, own int) string {
	if rules := m.at.breaches(list, own); len(rules) > 0 {
		return "the list breaks " + rules[0]
	}
	if m.lacks(list) {
		return "a pre-shared key is not at hand"
	}
	covered := map[*modelProposal]bool{}
	for _, p := range list {
		covered[p.modelProposal] = true
		if p.byReference && !slices.Contains(m.waiting, p.modelProposal) {
			return "it refers to what was not received"
		}
	}
	for _, p := range values {
		if !covered[p.modelProposal] {
			return "a proposal by value is left out"
		}
	}
	plain := slices.DeleteFunc(slices.Clone(list), func(p modelItem) bool { return p.kind == mls.ProposalGroupContextExtensions })
	for i, p := range m.waiting {
		switch {
		case covered[p]:
			if p.kind == mls.ProposalUpdate && slices.ContainsFunc(m.waiting[i+1:], func(q *modelProposal) bool { return q.kind == p.kind && q.from == p.from }) {
				return "an Update is not the newest of its sender" // PRP-5
			}
			continue
		case p.kind == mls.ProposalReInit && len(m.waiting)+len(values) > 1:
			continue
		case p.kind == mls.ProposalPSK && !m.has(p):
			continue
		case slices.ContainsFunc(m.waiting[i+1:], p.rivals):
			continue // a newer one was preferred, even if it did not fit in the end
		}
		item := modelItem{p, true}
		if len(m.at.breaches(append(slices.Clip(list), item), own)) == 0 && len(m.at.breaches(append(slices.Clip(plain), item), own)) == 0 {
			return "a proposal that fits is left out"
		}
	}
	// PRP-5: a Remove wins over an Update
	for _, p := range m.waiting {
		if p.kind == mls.ProposalRemove && !covered[p] && slices.ContainsFunc(list, func(q modelItem) bool { return q.kind == mls.ProposalUpdate && q.from == p.target }) {
			return "an Update stands where a Remove waits"
		}
	}
	return ""
}

// typed is whether an error tells a caller what to do.
func typed(err error) bool {
	for _, want := range []error{core.ErrInvalid, core.ErrNotFound, core.ErrDenied, core.ErrUnsupported, core.ErrUnavailable, core.ErrTooLarge} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}
