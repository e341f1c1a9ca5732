// SPDX-License-Identifier: Apache-2.0

package manual_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/manual"
)

// Whatever is taken for a state: it is refused, or asks for one thing and goes on.
func FuzzState(f *testing.F) {
	i, key := manual.New(manual.Config{}), newKey(core.Ed25519)
	step, err := i.Begin(f.Context(), wireRequest(key))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(step.State, make([]byte, 64))
	f.Add(shown(f, i, wireRequest(key), key).State, []byte("x"))
	f.Fuzz(func(t *testing.T, state, answer []byte) {
		before := bytes.Clone(state)
		for _, in := range []core.Input{{Signature: answer}, {File: answer}, {Error: "no"}} {
			step, err := i.Advance(t.Context(), state, in)
			if err != nil && !errors.Is(err, core.ErrInvalid) {
				t.Fatal(err)
			}
			if err == nil && step.Need == (core.Need{}) || !bytes.Equal(state, before) {
				t.Fatalf("%+v", step.Need)
			}
			if step.Need.Show != nil {
				if again, err := i.Advance(t.Context(), step.State, core.Input{Error: "no"}); err != nil || again.Need.Refused == nil {
					t.Fatalf("%+v, %v", again.Need, err)
				}
			}
		}
	})
}

// Whatever is in the file: nothing is issued but to the key.
func FuzzFile(f *testing.F) {
	i, key := manual.New(manual.Config{}), newKey(core.Ed25519)
	step := shown(f, i, wireRequest(key), key)
	leaf, err := ca.certify(step.Need.Show.File, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text(leaf, ca.cert, root.cert))
	f.Add(text(leaf))
	f.Add(text(ca.cert))
	f.Add(step.Need.Show.File)
	f.Fuzz(func(t *testing.T, file []byte) {
		next, err := i.Advance(t.Context(), step.State, core.Input{File: file})
		if err != nil {
			if !errors.Is(err, core.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		certificates := next.Need.Done.Credential.Certificates
		l, err := e2ei.ParseLeaf(certificates[0])
		if err != nil || len(certificates) > manual.MaxCertificates || !bytes.Equal(l.Public(), key.Public()) {
			t.Fatalf("%d certificates, %v", len(certificates), err)
		}
	})
}
