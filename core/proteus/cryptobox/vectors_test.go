// SPDX-License-Identifier: Apache-2.0

package cryptobox_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
)

// All recorded stores are moved as they should be.
func TestVectors(t *testing.T) {
	file, err := os.ReadFile(filepath.Join(coretest.Shared(t, "vectors", "proteus"), "stores.json"))
	if err != nil {
		t.Fatal(err)
	}
	report, err := cryptobox.RunVectors(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range report.Failed {
		t.Errorf("case %d: %v", o.Case, o.Err)
	}
	if report.Passed < 12 || len(report.Skipped) > 0 {
		t.Errorf("%d passed, %d skipped", report.Passed, len(report.Skipped))
	}
}
