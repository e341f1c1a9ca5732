// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// Enrolments, refusals and revocations at a real server with MLS keys that never leave a token.
func TestEnrollments(t *testing.T) {
	t.Parallel()
	token := open(t, softhsmtest.New(t).URI())
	e2eitest.Checks(t, func(t testing.TB, algorithm core.KeyAlgorithm) core.Signer {
		return makeKey(t, token, algorithm).(core.Signer)
	})
}
