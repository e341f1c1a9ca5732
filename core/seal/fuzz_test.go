// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
)

// FuzzStored lets the keystore hold anything: a root record or a record that was
// not sealed never opens, and never causes more than an error.
func FuzzStored(f *testing.F) {
	good := golden(f)
	answers, err := good.Read(f.Context(), []core.Query{{Table: 0}})
	if err != nil {
		f.Fatal(err)
	}
	var root, record []byte
	for _, r := range answers[0] {
		if bytes.Contains(r.Value, []byte("raw:")) {
			root = r.Value
		}
	}
	note := func(table core.Table, r *core.Record) {
		if table == 1 {
			record = bytes.Clone(r.Value)
		}
	}
	query := []seal.Query{{Table: 1, Scope: []byte("group"), Prefix: []byte("a")}}
	if _, err := openTenant(f, &tampered{good, note}, "raw").Read(f.Context(), query); err != nil {
		f.Fatal(err)
	}
	f.Add(root, record)
	f.Add([]byte{}, []byte{})
	f.Add(root[:len(root)-1], record[:5])
	f.Add(append([]byte{2}, root[1:]...), append([]byte{2}, record[1:]...))
	f.Fuzz(func(t *testing.T, fuzzedRoot, fuzzedRecord []byte) {
		_, err := seal.Open(t.Context(), &tampered{good, func(_ core.Table, r *core.Record) { r.Value = fuzzedRoot }}, wrapper(t, 1), "raw")
		switch {
		case err == nil && bytes.Equal(fuzzedRoot, root):
		case errors.Is(err, core.ErrDamaged), errors.Is(err, core.ErrWrongKey), errors.Is(err, core.ErrUnsupported), errors.Is(err, seal.ErrMoved):
		default:
			t.Errorf("open: got error %v", err)
		}
		s := openTenant(t, &tampered{good, func(table core.Table, r *core.Record) {
			if table == 1 {
				r.Value = fuzzedRecord
			}
		}}, "raw")
		_, err = s.Read(t.Context(), query)
		if err == nil && !bytes.Equal(fuzzedRecord, record) || err != nil && !errors.Is(err, core.ErrDamaged) {
			t.Errorf("read: got error %v", err)
		}
	})
}
