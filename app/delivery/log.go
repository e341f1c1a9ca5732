// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strconv"

	"github.com/conclave-mls/conclave/core"
)

// page is how many records one answer takes from a log: at most 32 MiB.
const page = 128

// groupOfPath reads the group id, base64url without padding, from the path.
func groupOfPath(r *http.Request) (core.ConversationID, error) {
	id, err := base64.RawURLEncoding.DecodeString(r.PathValue("group"))
	if err != nil || len(id) == 0 || len(id) > maxID {
		return "", refuse(CodeInvalid, "the path names no group")
	}
	return core.ConversationID(id), nil
}

// A membership is the caller's record and the head of the group, from one state.
type membership struct {
	memberRecord
	group  groupRecord
	roster core.Record
}

func (s *Server) membership(ctx context.Context, sc scope, caller core.ClientID) (m membership, err error) {
	found, err := s.get(ctx, one(tableGroup, sc.key()), one(tableRoster, rosterKey(sc, caller)))
	if err != nil {
		return m, err
	}
	if absent(found[0]) {
		return m, refuse(CodeNotFound, "no such group")
	}
	if absent(found[1]) {
		return m, refuse(CodeDenied, "not a member of the group")
	}
	m.roster = found[1]
	if m.group, err = decodeGroup(found[0].Value); err != nil {
		return m, err
	}
	m.memberRecord, err = decodeMember(found[1].Value)
	return m, err
}

// readLog answers with what comes after ?after=, by default after what the
// caller has confirmed, and waits ?wait= seconds if there is nothing.
func (s *Server) readLog(r *http.Request, caller core.ClientID) (any, error) {
	id, err := groupOfPath(r)
	if err != nil {
		return nil, err
	}
	wait, err := waitOf(r)
	if err != nil {
		return nil, err
	}
	var after *uint64
	if text := r.URL.Query().Get("after"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, refuse(CodeInvalid, "after is a sequence number")
		}
		after = &n
	}
	sc := groupScope(id)
	out := logAnswer{Entries: []Entry{}}
	err = s.poll(r.Context(), sc, wait, func() (bool, error) {
		m, err := s.membership(r.Context(), sc, caller)
		if err != nil {
			return false, err
		}
		from := m.read
		if after != nil {
			from = max(*after, m.start)
		}
		// What the roster said holds up to this number, whatever came since.
		last := m.group.seq
		if m.end != 0 {
			last = m.end
		}
		if from >= last {
			return m.end != 0, nil // nothing will ever come for a former member
		}
		out.Entries, out.More, err = s.entries(r.Context(), sc, from, last)
		return true, err
	})
	return out, err
}

// entries reads a page of the log: from is not included, last is.
func (s *Server) entries(ctx context.Context, sc scope, from, last uint64) (entries []Entry, more bool, err error) {
	answers, err := s.store.Read(ctx, []core.Query{{
		Table:  tableLog,
		Prefix: sc.key(),
		After:  sc.key(be64(from), []byte{0xff, 0xff}),
		Limit:  page,
	}})
	if err != nil {
		return nil, false, err
	}
	records := answers[0]
	more = len(records) == page
	for len(records) > 0 {
		seq := binary.BigEndian.Uint64(records[0].Key[len(sc):])
		if seq > last {
			return entries, false, nil
		}
		message, rest, err := joinLong(records)
		if err != nil {
			return nil, false, err
		}
		if message == nil { // cut by the end of the page
			if !more || len(entries) == 0 {
				return nil, false, damaged("a message")
			}
			break
		}
		entries = append(entries, Entry{Seq: seq, Message: message})
		records = rest
	}
	return entries, more, nil
}

// ackLog remembers how far the caller has taken the log.
func (s *Server) ackLog(r *http.Request, caller core.ClientID) (any, error) {
	id, err := groupOfPath(r)
	if err != nil {
		return nil, err
	}
	var in ackRequest
	if err := readBody(r, maxSmallBody, &in); err != nil {
		return nil, err
	}
	sc := groupScope(id)
	return struct{}{}, s.change(r.Context(), sc, func() (b core.Batch, err error) {
		m, err := s.membership(r.Context(), sc, caller)
		if err != nil {
			return b, err
		}
		if in.Through > m.group.seq {
			return b, refuse(CodeInvalid, "the log has not come so far")
		}
		if in.Through <= m.read {
			return b, nil
		}
		m.read = in.Through
		return core.Batch{
			Expect: []core.Expectation{{Table: tableRoster, Key: m.roster.Key, Version: m.roster.Version}},
			Puts:   []core.Put{put(tableRoster, m.roster.Key, m.encode())},
		}, nil
	})
}
