// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// What waits to be committed in one epoch is bounded (PRP-13).
const (
	maxProposals     = 1000
	maxProposalBytes = 8 << 20 // of their records
)

// A proposalStore holds the proposals of the current epoch that were sent on
// their own, in order of arrival; an immutable value.
type proposalStore struct {
	list  []storedProposal
	next  uint32 // sequence number of the next one
	bytes int    // of the records
}

type storedProposal struct {
	sentProposal
	sequence uint32
	bytes    int // of the record
}

// loadProposals returns the store, from memory or from its records.
func (g *Group) loadProposals(ctx context.Context, env *Env) (*proposalStore, error) {
	if g.proposals != nil {
		return g.proposals, nil
	}
	answers, err := env.Fetch(ctx, []record.Query{{Kind: RecordProposal}})
	if err != nil {
		return nil, err
	}
	s := &proposalStore{}
	for _, rec := range answers[0] {
		p := storedProposal{bytes: len(rec.Value)}
		err := unmarshalRecord("proposal", rec.Value, func(r *reader) {
			p.ref = r.opaque()
			p.sender = readSender(r)
			p.proposal = readProposal(r)
		})
		if err != nil {
			return nil, err
		}
		key := reader{s: rec.Key}
		p.sequence = key.u32()
		if s.next = p.sequence + 1; key.bad {
			return nil, fmt.Errorf("proposal key: %w", core.ErrDamaged)
		}
		s.list = append(s.list, p)
		s.bytes += p.bytes
	}
	return s, nil
}

func (s *proposalStore) find(ref ProposalRef) (sentProposal, bool) {
	for _, p := range s.list {
		if slices.Equal(p.ref, ref) {
			return p.sentProposal, true
		}
	}
	return sentProposal{}, false
}

// with adds a proposal; one that is there already changes nothing (PRP-13).
func (s *proposalStore) with(p sentProposal, ws *record.WriteSet) (*proposalStore, error) {
	if _, known := s.find(p.ref); known {
		return s, nil
	}
	record := appendProposal(p.proposal, p.sender.append(appendOpaque([]byte{recordFormat}, p.ref)))
	if len(s.list) >= maxProposals || s.bytes+len(record) > maxProposalBytes {
		return nil, fmt.Errorf("%d proposals of %d bytes wait already: %w", len(s.list), s.bytes, core.ErrTooLarge)
	}
	ws.Put(RecordProposal, appendU32(nil, s.next), record)
	return &proposalStore{
		list:  append(slices.Clip(s.list), storedProposal{p, s.next, len(record)}),
		next:  s.next + 1,
		bytes: s.bytes + len(record),
	}, nil
}

// without drops a proposal.
func (s *proposalStore) without(ref ProposalRef, ws *record.WriteSet) (*proposalStore, bool) {
	i := slices.IndexFunc(s.list, func(p storedProposal) bool { return slices.Equal(p.ref, ref) })
	if i < 0 {
		return s, false
	}
	ws.Del(RecordProposal, appendU32(nil, s.list[i].sequence))
	return &proposalStore{list: slices.Delete(slices.Clone(s.list), i, i+1), next: s.next, bytes: s.bytes - s.list[i].bytes}, true
}
