// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A move that begins during a rotation, and is taken back, changes what the batches of
// the rotation expect: none of the records may be passed over.
func TestRotateDuringMoveTakenBack(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s := open(t, ks)
	const n = 700
	for i := range n {
		apply(t, s, puts(put(1, "scope", fmt.Sprintf("%04d", i), "value")))
	}
	_, err := s.Rotate(t.Context(), func(done, _ int) {
		if done == 256 {
			to := &coretest.Faulty{Keystore: memory.New(), Plan: coretest.At(2, coretest.FaultBefore)}
			if _, err := seal.Move(t.Context(), ks, to, wrapper(t, 1), "tenant", nil); !errors.Is(err, core.ErrUnavailable) {
				t.Errorf("move: %v", err)
			}
		}
	})
	if err != nil {
		t.Errorf("rotate: %v", err)
	}
	if report, err := open(t, ks).Verify(t.Context(), nil); err != nil || report.Records != n || report.Damaged > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if got := sealedWith(t, ks); got[2] != n || len(got) != 1 {
		t.Errorf("values by data key: %v", got)
	}
}
