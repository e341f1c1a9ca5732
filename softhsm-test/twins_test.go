// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// Modules that are initialised at the same time do not read one another's configuration:
// SoftHSM reads its with strtok, of which a process has one.
func TestInitializedAtOnce(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	a, b, c := softhsmtest.New(t), softhsmtest.New(t), softhsmtest.New(t)
	var all sync.WaitGroup
	defer all.Wait()
	for _, k := range []*softhsmtest.Token{a, b} {
		all.Go(func() {
			for range 2000 {
				list, err := hsm.Tokens(t.Context(), k.ModulePath, "")
				if err != nil || len(list) != 1 || list[0].Label != k.Label {
					t.Errorf("tokens of %s: %v, %v", k.Label, list, err)
					return
				}
			}
		})
	}
	all.Go(func() {
		m := pkcs11.New(c.ModulePath)
		defer m.Destroy()
		for range 2000 {
			if err := hsm.InitializeAlone(func() error { return m.Initialize() }); err != nil {
				t.Error(err)
				return
			}
			slots, err := m.GetSlotList(true)
			if err == nil && len(slots) > 0 {
				var info pkcs11.TokenInfo
				if info, err = m.GetTokenInfo(slots[0]); err == nil && info.Label != c.Label {
					t.Errorf("token of %s: %s", c.Label, info.Label)
				}
			}
			if err != nil || len(slots) < 1 {
				t.Errorf("slots of %s: %v, %v", c.Label, slots, err)
			}
			if err := m.Finalize(); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				return
			}
		}
	})
}
