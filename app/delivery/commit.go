// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"crypto/sha256"
	"maps"
	"net/http"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// submitCommit accepts the first commit for the group's epoch and publishes it,
// its Welcome and its GroupInfo in one batch.
func (s *Server) submitCommit(r *http.Request, caller core.ClientID) (any, error) {
	var in commitRequest
	if err := readBody(r, 3*(MaxHandshake/3*4)+(4<<20), &in); err != nil {
		return nil, err
	}
	for _, part := range [][]byte{in.Commit, in.Welcome, in.GroupInfo} {
		if len(part) > MaxHandshake {
			return nil, refuse(CodeTooLarge, "a part of the commit of more than %d bytes", MaxHandshake)
		}
	}
	h, err := parseHeader(in.Commit)
	if err != nil {
		return nil, err
	}
	if h.content != contentCommit {
		return nil, refuse(CodeInvalid, "not a commit")
	}
	if len(in.Added) > MaxNames || len(in.Removed) > MaxNames {
		return nil, refuse(CodeTooLarge, "a commit that adds or removes more than %d clients", MaxNames)
	}
	if h.sender == senderNewMemberCommit { // RFC 9420 section 12.4.3.2: it says nothing about others
		others := slices.ContainsFunc(unique(in.Removed), func(id core.ClientID) bool { return id != caller })
		if others || len(in.Added) > 0 || len(in.Welcome) > 0 {
			return nil, refuse(CodeInvalid, "an external commit that adds or removes others")
		}
	}
	if err := s.registered(r.Context(), in.Added); err != nil {
		return nil, err
	}
	p := &publication{server: s, caller: caller, header: h, in: in, scope: groupScope(h.group)}
	if err := s.change(r.Context(), p.scope, func() (core.Batch, error) { return p.decide(r.Context()) }); err != nil {
		return nil, err
	}
	s.polls.wake(p.scope)
	for _, id := range in.Added {
		s.polls.wake(clientScope(core.ClientID(id)))
	}
	return acceptedAnswer{p.seq}, nil
}

// A publication is a commit on its way into the log of its group.
type publication struct {
	server *Server
	caller core.ClientID
	header header
	in     commitRequest
	scope  scope

	seq uint64 // what it got
}

func (p *publication) decide(ctx context.Context) (b core.Batch, err error) {
	head := one(tableGroup, p.scope.key())
	accepted := one(tableCommit, p.scope.key(be64(p.header.epoch)))
	member := one(tableRoster, rosterKey(p.scope, p.caller))
	found, err := p.server.get(ctx, head, accepted, member)
	if err != nil {
		return b, err
	}
	group, err := groupOf(found[0])
	if err != nil {
		return b, err
	}
	hash := sha256.Sum256(p.in.Commit)
	if !absent(found[1]) && !p.server.options.RefuseRepeats {
		earlier, err := decodeAccepted(found[1].Value)
		if err != nil {
			return b, err
		}
		if earlier.hash == hash {
			p.seq = earlier.seq
			return b, nil
		}
	}
	external := p.header.sender == senderNewMemberCommit
	switch standing, err := standingOf(found[0], found[2]); {
	case err != nil:
		return b, err
	case external && absent(found[0]):
		return b, refuse(CodeNotFound, "no such group")
	case !external && standing == stranger:
		return b, refuse(CodeDenied, "not a member of the group")
	case p.header.epoch < group.epoch:
		return b, &Error{Code: CodeCompeting, Message: "a commit was accepted for this epoch", Epoch: group.epoch}
	case p.header.epoch > group.epoch:
		return b, &Error{Code: CodeWrongEpoch, Message: "the group has not reached this epoch", Epoch: group.epoch}
	case !external && standing == former:
		return b, refuse(CodeDenied, "no longer a member of the group")
	}

	group.epoch++
	group.seq++
	p.seq = group.seq
	b.Expect = []core.Expectation{same(head, found[0]), same(accepted, found[1])}
	b.Dels = []core.Range{{Table: tableInfo, Prefix: p.scope.key()}}
	b.Puts = []core.Put{
		put(tableGroup, p.scope.key(), group.encode()),
		put(tableCommit, accepted.Prefix, acceptedRecord{p.seq, hash}.encode()),
	}
	b.Puts = append(b.Puts, putLong(tableLog, p.scope.key(be64(p.seq)), p.in.Commit)...)
	if len(p.in.GroupInfo) > 0 {
		b.Puts = append(b.Puts, putLong(tableInfo, p.scope.key(), p.in.GroupInfo)...)
	}
	if len(p.in.Welcome) > 0 {
		b.Puts = append(b.Puts, putLong(tableWelcome, p.scope.key(be64(p.seq)), p.in.Welcome)...)
		for _, id := range unique(p.in.Added) {
			sc := clientScope(id)
			b.Puts = append(b.Puts, put(tableInbox, sc.key(p.scope[:], be64(p.seq)), append([]byte{format1}, p.header.group...)))
		}
	}
	return b, p.roster(ctx, &b, absent(found[0]), external)
}

// roster adds what the commit does to the list of members: those removed read
// up to it, those added go on after it, who made the group or joined by this
// very commit sees it as well. A former member that is added again before it has
// read how it was removed reads that first, and what came in between, which it
// cannot open.
func (p *publication) roster(ctx context.Context, b *core.Batch, created, external bool) error {
	next := map[core.ClientID]memberRecord{}
	if created {
		next[p.caller] = memberRecord{}
	}
	ids := unique(append(p.in.Removed[:len(p.in.Removed):len(p.in.Removed)], p.in.Added...))
	queries := make([]core.Query, len(ids))
	for i, id := range ids {
		queries[i] = one(tableRoster, rosterKey(p.scope, id))
	}
	found, err := p.server.get(ctx, queries...)
	if err != nil {
		return err
	}
	earlier := map[core.ClientID]memberRecord{}
	for i, r := range found {
		b.Expect = append(b.Expect, same(queries[i], r))
		if absent(r) {
			continue
		}
		if earlier[ids[i]], err = decodeMember(r.Value); err != nil {
			return err
		}
	}
	for _, id := range unique(p.in.Removed) {
		if m, ok := earlier[id]; ok && m.end == 0 {
			m.end = p.seq
			next[id], earlier[id] = m, m
		}
	}
	for _, id := range unique(p.in.Added) {
		m, known := earlier[id]
		if known && m.end == 0 || created && id == p.caller {
			continue // it is a member, whatever the committer says
		}
		if !known || m.read >= m.end {
			m = memberRecord{start: p.seq, read: p.seq}
		}
		m.end = 0
		next[id] = m
	}
	if external {
		next[p.caller] = memberRecord{start: p.seq - 1, read: p.seq - 1}
	}
	for _, id := range slices.Sorted(maps.Keys(next)) {
		b.Puts = append(b.Puts, put(tableRoster, rosterKey(p.scope, id), next[id].encode()))
	}
	return nil
}

func unique(ids [][]byte) (out []core.ClientID) {
	seen := map[core.ClientID]bool{}
	for _, b := range ids {
		if id := core.ClientID(b); !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out
}
