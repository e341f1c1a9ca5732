// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// at is a store of its own for each name.
func at(dsn, name string) string {
	return fmt.Sprintf("%s&schema=s%x", dsn, sha256.Sum256([]byte(name)))[:len(dsn)+30]
}

func TestStore(t *testing.T) {
	dsn := pgtest.Shared(t)
	coretest.TestDurableKeystore(t, func(ctx context.Context, location string) (core.Keystore, error) {
		return postgres.Open(ctx, at(dsn, location))
	})
}
