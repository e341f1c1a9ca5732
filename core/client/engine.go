// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"slices"

	"github.com/conclave-mls/conclave/core/record"
)

// A layout tells where an engine's records of a kind lie, and what their keys begin
// with there.
type layout func(record.Kind) (place, []byte)

// fetch is how an engine reads the records of one state through the segment.
func (s *segment) fetch(lie layout) record.Fetch {
	return func(ctx context.Context, queries []record.Query) ([][]record.Record, error) {
		asked := make([]query, len(queries))
		prefixes := make([][]byte, len(queries))
		for i, q := range queries {
			p, prefix := lie(q.Kind)
			prefixes[i] = prefix
			asked[i] = query{place: p, prefix: slices.Concat(prefix, q.Prefix), limit: q.Limit}
			if len(q.After) > 0 {
				asked[i].after = slices.Concat(prefix, q.After)
			}
		}
		answers, err := s.read(ctx, asked...)
		if err != nil {
			return nil, err
		}
		out := make([][]record.Record, len(queries))
		for i, records := range answers {
			for _, r := range records {
				out[i] = append(out[i], record.Record{Kind: queries[i].Kind, Key: r.Key[len(prefixes[i]):], Value: r.Value})
			}
		}
		return out, nil
	}
}

// take puts what an engine has changed of one state into the segment.
func (s *segment) take(lie layout, ws *record.WriteSet) {
	for _, d := range ws.Dels {
		p, prefix := lie(d.Kind)
		s.del(p, slices.Concat(prefix, d.Prefix))
	}
	for _, r := range ws.Puts {
		p, prefix := lie(r.Kind)
		s.put(p, slices.Concat(prefix, r.Key), r.Value)
	}
}
