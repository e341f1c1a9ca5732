// SPDX-License-Identifier: Apache-2.0

package proteus_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/proteus"
)

// Every recorded file passes whole.
func TestVectors(t *testing.T) {
	t.Parallel()
	folder := coretest.Shared(t, "vectors", "proteus")
	for _, name := range []string{"keys.json", "kdf.json", "decoding.json", "conversations.json", "core-crypto.json"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				t.Fatal(err)
			}
			report, err := proteus.RunVectors(t.Context(), file)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range report.Failed {
				t.Errorf("case %d: %v", o.Case, o.Err)
			}
			if report.Passed == 0 || len(report.Skipped) > 0 {
				t.Errorf("%d passed, %d skipped", report.Passed, len(report.Skipped))
			}
		})
	}
}
