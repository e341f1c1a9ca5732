// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

func TestMain(m *testing.M) {
	mls.Pure = pure.New()
	m.Run()
}
