// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"bytes"
	"crypto/sha256"
	"net/http"

	"github.com/conclave-mls/conclave/core"
)

// A package id is the beginning of a hash with the top bit clear, so that the
// same package uploaded again is the same record. The last-resort package has
// the greatest id: it comes last in the order, when nothing else is left.
var lastResort = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func packageID(keyPackage []byte) []byte {
	sum := sha256.Sum256(keyPackage)
	sum[0] &= 0x7f
	return sum[:8]
}

// upload adds key packages to the caller's own, or replaces them. One that is there
// already, or was claimed once, is not added again.
func (s *Server) upload(r *http.Request, caller core.ClientID) (any, error) {
	var in uploadRequest
	if err := readBody(r, (MaxUpload+1)*(MaxKeyPackage/3*4+64), &in); err != nil {
		return nil, err
	}
	if len(in.KeyPackages) > MaxUpload {
		return nil, refuse(CodeTooLarge, "more than %d key packages", MaxUpload)
	}
	for _, p := range append(in.KeyPackages, in.LastResort) {
		if len(p) > MaxKeyPackage {
			return nil, refuse(CodeTooLarge, "a key package of more than %d bytes", MaxKeyPackage)
		}
	}
	sc := clientScope(caller)
	var count int
	err := s.change(r.Context(), sc, func() (b core.Batch, err error) {
		answers, err := s.store.Read(r.Context(), []core.Query{
			{Table: tablePackage, Prefix: sc.key(), KeysOnly: true},
			{Table: tableSpent, Prefix: sc.key(), KeysOnly: true},
		})
		if err != nil {
			return b, err
		}
		known := map[string]bool{}
		for i, records := range answers {
			for _, record := range records {
				known[string(record.Key)] = i == 1 || !in.Replace
			}
		}
		count = countOf(answers[0])
		if in.Replace {
			count = 0
			b.Dels = []core.Range{{Table: tablePackage, Prefix: sc.key()}}
		}
		for _, p := range in.KeyPackages {
			key := sc.key(packageID(p))
			if len(p) == 0 {
				return b, refuse(CodeInvalid, "an empty key package")
			}
			if known[string(key)] {
				continue
			}
			known[string(key)] = true
			count++
			if !in.Replace {
				b.Expect = append(b.Expect, core.Expectation{Table: tablePackage, Key: key})
			}
			b.Expect = append(b.Expect, core.Expectation{Table: tableSpent, Key: key})
			b.Puts = append(b.Puts, put(tablePackage, key, append([]byte{format1}, p...)))
		}
		if count > MaxKeyPackages {
			return b, refuse(CodeTooLarge, "more than %d key packages for one client", MaxKeyPackages)
		}
		if len(in.LastResort) > 0 {
			b.Puts = append(b.Puts, put(tablePackage, sc.key(lastResort), append([]byte{format1}, in.LastResort...)))
		}
		return b, nil
	})
	return countAnswer{count}, err
}

// countOf counts the packages that can be claimed once.
func countOf(records []core.Record) int {
	n := len(records)
	if n > 0 && bytes.HasSuffix(records[n-1].Key, lastResort) {
		n--
	}
	return n
}

// count answers how many packages of the caller are left, the last-resort one
// not counted.
func (s *Server) count(r *http.Request, caller core.ClientID) (any, error) {
	answers, err := s.store.Read(r.Context(), []core.Query{{Table: tablePackage, Prefix: clientScope(caller).key(), KeysOnly: true}})
	if err != nil {
		return nil, err
	}
	return countAnswer{countOf(answers[0])}, nil
}

// claim takes one key package of a client, each once (KP-6), the last-resort one when
// no other is left.
func (s *Server) claim(r *http.Request, _ core.ClientID) (any, error) {
	var in claimRequest
	if err := readBody(r, maxSmallBody, &in); err != nil {
		return nil, err
	}
	sc := clientScope(core.ClientID(in.Client))
	var out claimAnswer
	err := s.change(r.Context(), sc, func() (b core.Batch, err error) {
		found, err := s.get(r.Context(), one(tablePackage, sc.key()))
		if err != nil {
			return b, err
		}
		record := found[0]
		if absent(record) {
			return b, refuse(CodeNotFound, "no key package of this client")
		}
		if len(record.Value) < 2 || record.Value[0] != format1 {
			return b, damaged("a key package")
		}
		out.KeyPackage = record.Value[1:]
		if bytes.HasSuffix(record.Key, lastResort) {
			return b, nil
		}
		b.Expect = []core.Expectation{{Table: tablePackage, Key: record.Key, Version: record.Version}}
		b.Dels = []core.Range{{Table: tablePackage, Prefix: record.Key}}
		b.Puts = []core.Put{put(tableSpent, record.Key, []byte{format1})}
		return b, nil
	})
	return out, err
}
