// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// A plugin that answers something else than it was asked is caught at the record that does.
func TestGatheringRefuses(t *testing.T) {
	id := bytes.Repeat([]byte{1}, 16)
	rec := func(query uint32, key, value string) *wire.Record {
		return &wire.Record{Query: query, Key: []byte(key), Value: []byte(value), Version: id}
	}
	queries := []core.Query{
		{Table: 1, Prefix: []byte("a"), After: []byte("ab"), Limit: 2},
		{Table: 1, KeysOnly: true},
		{Table: 1},
	}
	for name, answer := range map[string][]*wire.Record{
		"no such query":         {rec(3, "a", "")},
		"a query before":        {rec(1, "a", ""), rec(0, "ac", "")},
		"another prefix":        {rec(0, "b", "")},
		"not after":             {rec(0, "ab", "")},
		"not in order":          {rec(0, "ad", ""), rec(0, "ac", "")},
		"the same again":        {rec(0, "ad", ""), rec(0, "ad", "")},
		"more than the limit":   {rec(0, "ac", ""), rec(0, "ad", ""), rec(0, "ae", "")},
		"a value for keys only": {rec(1, "a", "v")},
		"an empty key":          {rec(2, "", "")},
		"a long key":            {rec(2, string(make([]byte, core.MaxKey+1)), "")},
		"a long value":          {rec(2, "a", string(make([]byte, core.MaxValue+1)))},
		"a short version":       {{Query: 2, Key: []byte("a"), Version: id[1:]}},
		"a zero version":        {{Query: 2, Key: []byte("a"), Version: make([]byte, 16)}},
	} {
		g := gathering{queries: queries, answers: make([][]core.Record, len(queries))}
		for i, r := range answer {
			if err := g.add(r); (err != nil) != (i == len(answer)-1) {
				t.Errorf("%s: record %d: %v", name, i, err)
			}
		}
	}
	g := gathering{queries: queries[2:], answers: make([][]core.Record, 1)}
	value := string(make([]byte, core.MaxValue))
	for i := range 64 {
		if err := g.add(rec(0, string([]byte{byte(i + 1)}), value)); (err != nil) != (i == 63) {
			t.Errorf("record %d of more than %d bytes: %v", i, core.MaxBatch, err)
		}
	}
}

// Tiny records are few bytes each, and would fill the memory all the same.
func TestGatheringIsBounded(t *testing.T) {
	g := gathering{queries: []core.Query{{Table: 1}}, answers: make([][]core.Record, 1), count: maxRecordsRead - 1}
	id := bytes.Repeat([]byte{1}, 16)
	for i, want := range []bool{true, false} {
		if err := g.add(&wire.Record{Key: []byte{byte(i)}, Version: id}); (err == nil) != want {
			t.Errorf("record %d: %v", maxRecordsRead+i, err)
		}
	}
}

func TestOffersAreChecked(t *testing.T) {
	store, wrapper := wire.Part_PART_KEYSTORE, wire.Part_PART_KEY_WRAPPER
	for name, offers := range map[string][]*wire.Offer{
		"nothing":              nil,
		"no part":              {{}},
		"an unknown part":      {{Part: 5}},
		"a bad name":           {{Part: store, Instance: "../x"}},
		"twice":                {{Part: store}, {Part: store}},
		"a wrapper without ID": {{Part: wrapper}},
	} {
		if checkOffers(offers) == nil {
			t.Errorf("%s: taken", name)
		}
	}
	good := []*wire.Offer{{Part: store}, {Part: store, Instance: "b"}, {Part: wrapper, WrapperId: "x"}}
	if err := checkOffers(good); err != nil {
		t.Error(err)
	}
	same := []*wire.Offer{good[2], good[0], good[1]}
	other := []*wire.Offer{{Part: wrapper, WrapperId: "y"}, good[0], good[1]}
	if !sameOffers(good, same) || sameOffers(good, other) || sameOffers(good, good[:2]) || sameOffers(good[:2], good) {
		t.Error("what is the same offer")
	}
}

// Whose deadline it was: the caller's is the context's error, ours is a plugin that is slow.
func TestWhoseDeadline(t *testing.T) {
	err := status.Error(codes.DeadlineExceeded, "")
	mine, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	longer, cancel := context.WithTimeout(mine, 2*time.Hour)
	defer cancel()
	shorter, cancel := context.WithTimeout(mine, time.Minute)
	defer cancel()
	if got := over(mine, longer, err); got != context.DeadlineExceeded {
		t.Errorf("the caller's deadline: %v", got)
	}
	if got := over(mine, shorter, err); got != nil {
		t.Errorf("our deadline: %v", got)
	}
	if got := core.Kind(broken(t.Context(), shorter, err)); got != core.ErrUnavailable {
		t.Errorf("our deadline: %v", got)
	}
}
