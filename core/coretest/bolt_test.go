// SPDX-License-Identifier: Apache-2.0

package coretest_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
)

// The example is a whole keystore: the suite says so, with reopening and SIGKILL in
// the middle of Apply.
func TestBolt(t *testing.T) {
	coretest.TestDurableKeystore(t, func(_ context.Context, folder string) (core.Keystore, error) {
		return openBolt(filepath.Join(folder, "store"))
	})
}

func TestBoltFaults(t *testing.T) {
	coretest.TestFaultyKeystore(t, func(t *testing.T) core.Keystore {
		store, err := openBolt(filepath.Join(t.TempDir(), "store"))
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
}

// The README says how long it is.
func TestBoltIsShort(t *testing.T) {
	text, err := os.ReadFile("example_keystore_test.go")
	if n := bytes.Count(text, []byte("\n")); err != nil || n >= 150 {
		t.Errorf("%d lines, %v", n, err)
	}
}
