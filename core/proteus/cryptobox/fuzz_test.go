// SPDX-License-Identifier: Apache-2.0

package cryptobox_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
)

// Whatever a browser has exported: no panic, core.ErrInvalid or core.ErrNotFound, and the
// input as it was. The lists are sorted, and can be read twice.
func FuzzBrowser(f *testing.F) {
	identity, err := proteus.GenerateIdentity(bytes.NewReader(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	preKey, err := proteus.GeneratePreKey(bytes.NewReader(make([]byte, 32)), 3)
	if err != nil {
		f.Fatal(err)
	}
	type item struct {
		Serialised []byte `json:"serialised"`
	}
	for _, box := range []any{
		map[string]any{"identity": identity.Marshal(), "prekeys": map[string][]byte{"3": preKey.Marshal()}, "sessions": map[string][]byte{"a": {1}}},
		map[string]any{"keys": map[string]item{"local_identity": {identity.Marshal()}}, "prekeys": map[string]item{"3": {preKey.Marshal()}, "65535": {}},
			"sessions": map[string]item{"a": {[]byte{0xa1}}}},
	} {
		data, err := json.Marshal(box)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		copied := bytes.Clone(data)
		box, err := cryptobox.Browser(data)
		if !bytes.Equal(data, copied) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if box != nil || !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrNotFound) {
				t.Fatal(err)
			}
			return
		}
		if !slices.IsSortedFunc(box.PreKeys, func(a, b cryptobox.PreKey) int { return int(a.ID) - int(b.ID) }) {
			t.Fatal("prekeys out of order")
		}
		for range 2 {
			if _, err := box.Identity(); err != nil && !errors.Is(err, core.ErrInvalid) && !errors.Is(err, cryptobox.ErrNoIdentity) {
				t.Fatal(err)
			}
			for _, k := range box.PreKeys {
				if key, err := k.Read(); err != nil && !errors.Is(err, core.ErrInvalid) || err == nil && key.ID != k.ID {
					t.Fatal(err)
				}
			}
			for _, s := range box.Sessions {
				if _, err := s.Read(identity.Public()); err != nil && !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrDenied) {
					t.Fatal(err)
				}
			}
		}
	})
}
