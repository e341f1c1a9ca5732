// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// Pure is providers/pure, which tests of this package may import only from
// outside: pure_test.go sets it.
var Pure interface {
	core.SuiteSource
	core.CryptoProvider
}

func suiteOf(t testing.TB, id core.SuiteID) core.Suite {
	t.Helper()
	suite, err := Pure.Suite(id)
	if err != nil {
		t.Fatal(err)
	}
	return suite
}

// eachSuite runs a test for the seven suites.
func eachSuite(t *testing.T, run func(t *testing.T, suite core.Suite)) {
	for _, id := range Pure.Suites() {
		t.Run(id.String(), func(t *testing.T) {
			t.Parallel()
			run(t, suiteOf(t, id))
		})
	}
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s is %x, want %x", what, got, want)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
