// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"os"
	"sync"
	"testing"
)

const givenLatch = "SOFTHSMTEST_GIVEN_LATCH"

var givenOnce sync.Once

// latch is a folder for refused PINs. That of a token that was given is shared by all
// tests and their processes: a real one locks after a few.
func latch(t testing.TB) string {
	t.Helper()
	if os.Getenv("CONCLAVE_HSM") == "" {
		return t.TempDir()
	}
	givenOnce.Do(func() {
		if os.Getenv(givenLatch) != "" { // the parent's
			return
		}
		folder, err := os.MkdirTemp("", "softhsmtest-latch")
		if err == nil {
			err = os.Setenv(givenLatch, folder)
		}
		if err != nil {
			t.Error(err)
		}
	})
	folder := os.Getenv(givenLatch)
	if folder == "" {
		t.Fatal("there is no folder for refused PINs")
	}
	return folder
}

// A token that was given is tried and described.
func TestGiven(t *testing.T) {
	for _, kind := range everywhere() {
		if kind.name != given {
			continue // TestProbe has a table of each
		}
		report, err := open(t, kind.make(t).URI()).Probe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("\n%s", report)
	}
}
