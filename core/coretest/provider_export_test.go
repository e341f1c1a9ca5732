// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// CatchProvider runs the suite of core.CryptoProvider against a wrong one.
func CatchProvider(t *testing.T, open func(t testing.TB) core.CryptoProvider, want ...string) {
	t.Helper()
	catchesWrong(t, providerChecks, open, want...)
}

// CatchSuiteSource runs the suite of core.SuiteSource against a wrong one.
func CatchSuiteSource(t *testing.T, open func(t testing.TB) core.SuiteSource, want ...string) {
	t.Helper()
	catchesWrong(t, suiteChecks, open, want...)
}

// CatchIssuer runs the suite of core.CredentialIssuer against a wrong one.
func CatchIssuer(t *testing.T, open func(t testing.TB) core.CredentialIssuer, want ...string) {
	t.Helper()
	catchesWrong(t, issuerChecks, open, want...)
}
