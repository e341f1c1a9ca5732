// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"crypto/sha256"
	"net/http"

	"github.com/conclave-mls/conclave/core"
)

// sendMessage puts an application message or a proposal into the log of its
// group. The idempotency key names the message, not its bytes: a message that
// was encrypted again because its answer got lost is still published once.
func (s *Server) sendMessage(r *http.Request, caller core.ClientID) (any, error) {
	var in messageRequest
	if err := readBody(r, MaxMessage/3*4+maxSmallBody, &in); err != nil {
		return nil, err
	}
	if len(in.Message) > MaxMessage {
		return nil, refuse(CodeTooLarge, "a message of more than %d bytes", MaxMessage)
	}
	if len(in.Key) == 0 || len(in.Key) > maxID {
		return nil, refuse(CodeInvalid, "an idempotency key has 1 to %d bytes", maxID)
	}
	h, err := parseHeader(in.Message)
	if err != nil {
		return nil, err
	}
	if h.content == contentCommit {
		return nil, refuse(CodeInvalid, "a commit is submitted, not sent")
	}
	sc := groupScope(h.group)
	var seq uint64
	err = s.change(r.Context(), sc, func() (b core.Batch, err error) {
		b, seq, err = s.decideMessage(r.Context(), sc, caller, h, in)
		return b, err
	})
	if err != nil {
		return nil, err
	}
	s.polls.wake(sc)
	return acceptedAnswer{seq}, nil
}

func (s *Server) decideMessage(ctx context.Context, sc scope, caller core.ClientID, h header, in messageRequest) (b core.Batch, seq uint64, err error) {
	name := scopeOf("message", string(caller), string(in.Key))
	head := one(tableGroup, sc.key())
	delivered := one(tableDelivered, sc.key(name[:]))
	found, err := s.get(ctx, head, delivered, one(tableRoster, rosterKey(sc, caller)))
	if err != nil {
		return b, 0, err
	}
	if !absent(found[1]) {
		earlier, err := decodeAccepted(found[1].Value)
		return b, earlier.seq, err
	}
	group, err := groupOf(found[0])
	if err != nil {
		return b, 0, err
	}
	outside := h.sender != senderMember // RFC 9420 section 12.1.8: needs a group, no membership
	switch standing, err := standingOf(found[0], found[2]); {
	case err != nil:
		return b, 0, err
	case outside && absent(found[0]):
		return b, 0, refuse(CodeNotFound, "no such group")
	case !outside && standing == stranger:
		return b, 0, refuse(CodeDenied, "not a member of the group")
	case h.epoch < group.epoch:
		return b, 0, &Error{Code: CodeStale, Message: "the group has left this epoch", Epoch: group.epoch}
	case h.epoch > group.epoch:
		return b, 0, &Error{Code: CodeWrongEpoch, Message: "the group has not reached this epoch", Epoch: group.epoch}
	case !outside && standing == former:
		return b, 0, refuse(CodeDenied, "no longer a member of the group")
	}

	group.seq++
	b.Expect = []core.Expectation{same(head, found[0]), same(delivered, found[1])}
	b.Puts = []core.Put{
		put(tableGroup, sc.key(), group.encode()),
		put(tableDelivered, delivered.Prefix, acceptedRecord{group.seq, sha256.Sum256(in.Message)}.encode()),
	}
	if absent(found[0]) {
		b.Puts = append(b.Puts, put(tableRoster, rosterKey(sc, caller), memberRecord{}.encode()))
	}
	b.Puts = append(b.Puts, putLong(tableLog, sc.key(be64(group.seq)), in.Message)...)
	return b, group.seq, nil
}
