// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"encoding/binary"
	"net/http"
	"strconv"

	"github.com/conclave-mls/conclave/core"
)

// inboxPage is how many Welcomes one answer carries at most, each up to
// MaxHandshake; the others come when these were confirmed.
const inboxPage = 4

// readWelcomes answers with the Welcomes that wait for the caller, and waits
// ?wait= seconds if there is none. They stay until confirmed.
func (s *Server) readWelcomes(r *http.Request, caller core.ClientID) (any, error) {
	wait, err := waitOf(r)
	if err != nil {
		return nil, err
	}
	sc := clientScope(caller)
	out := welcomesAnswer{Welcomes: []Welcome{}}
	err = s.poll(r.Context(), sc, wait, func() (found bool, err error) {
		out.Welcomes, err = s.inbox(r.Context(), sc)
		return len(out.Welcomes) > 0, err
	})
	return out, err
}

func (s *Server) inbox(ctx context.Context, sc scope) (welcomes []Welcome, err error) {
	answers, err := s.store.Read(ctx, []core.Query{{Table: tableInbox, Prefix: sc.key(), Limit: inboxPage}})
	if err != nil {
		return nil, err
	}
	welcomes = []Welcome{}
	var queries []core.Query
	for _, r := range answers[0] {
		// The end of the key is the beginning of the Welcome's: group and sequence.
		at := r.Key[len(sc):]
		if len(r.Value) < 2 || r.Value[0] != format1 || len(at) != len(scope{})+8 {
			return nil, damaged("an inbox")
		}
		welcomes = append(welcomes, Welcome{Group: r.Value[1:], Seq: binary.BigEndian.Uint64(at[len(scope{}):])})
		queries = append(queries, core.Query{Table: tableWelcome, Prefix: at})
	}
	if len(queries) == 0 {
		return welcomes, nil
	}
	if answers, err = s.store.Read(ctx, queries); err != nil {
		return nil, err
	}
	for i, chunks := range answers {
		if len(chunks) == 0 {
			return nil, damaged("a Welcome")
		}
		if welcomes[i].Welcome, _, err = joinLong(chunks); err != nil {
			return nil, err
		}
		if welcomes[i].Welcome == nil {
			return nil, damaged("a Welcome")
		}
	}
	return welcomes, nil
}

// ackWelcome takes a Welcome out of the caller's inbox. One that is not there
// was taken before.
func (s *Server) ackWelcome(r *http.Request, caller core.ClientID) (any, error) {
	id, err := groupOfPath(r)
	if err != nil {
		return nil, err
	}
	seq, err := strconv.ParseUint(r.PathValue("seq"), 10, 64)
	if err != nil {
		return nil, refuse(CodeInvalid, "the path names no sequence number")
	}
	sc, group := clientScope(caller), groupScope(id)
	return struct{}{}, s.change(r.Context(), sc, func() (core.Batch, error) {
		return core.Batch{Dels: []core.Range{{Table: tableInbox, Prefix: sc.key(group[:], be64(seq))}}}, nil
	})
}

// groupInfo answers with the GroupInfo of the newest commit, if it had one: an
// older one is of no use to a joiner.
func (s *Server) groupInfo(r *http.Request, _ core.ClientID) (any, error) {
	id, err := groupOfPath(r)
	if err != nil {
		return nil, err
	}
	answers, err := s.store.Read(r.Context(), []core.Query{{Table: tableInfo, Prefix: groupScope(id).key()}})
	if err != nil {
		return nil, err
	}
	if len(answers[0]) == 0 {
		return nil, refuse(CodeNotFound, "no GroupInfo of this group's epoch")
	}
	info, _, err := joinLong(answers[0])
	if err == nil && info == nil {
		err = damaged("a GroupInfo")
	}
	return groupInfoAnswer{info}, err
}
