// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"os"
	"path/filepath"
	"testing"
)

// Shared returns the path of a file or folder of test data that does not live
// in the repository: official vectors, recorded vectors, peers. The folder is
// named by CONCLAVE_SHARED, by default the first of ./shared and ../shared,
// seen from the module root, that exists. Without it the test is skipped; when
// the variable is set, anything missing is a failure.
func Shared(t testing.TB, elem ...string) string {
	t.Helper()
	path, reason := shared(t, elem)
	if reason != "" {
		t.Skip(reason)
	}
	return path
}

// SharedIfAny is [Shared] for what a test can do without, such as seeds of a
// fuzz target: ok is false where Shared skips the test.
func SharedIfAny(t testing.TB, elem ...string) (path string, ok bool) {
	t.Helper()
	path, reason := shared(t, elem)
	return path, reason == ""
}

// shared returns a path or why there is none.
func shared(t testing.TB, elem []string) (path, reason string) {
	t.Helper()
	root := os.Getenv("CONCLAVE_SHARED")
	required := root != ""
	if !required {
		root = defaultShared(t)
	}
	if root == "" {
		return "", "needs the shared test data: set CONCLAVE_SHARED to its folder"
	}
	path = filepath.Join(append([]string{root}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		if required {
			t.Fatalf("CONCLAVE_SHARED is set, but %v", err)
		}
		return "", "needs " + filepath.Join(elem...) + " below CONCLAVE_SHARED"
	}
	return path, ""
}

func defaultShared(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			for _, rel := range []string{"shared", "../shared"} {
				if info, err := os.Stat(filepath.Join(dir, rel)); err == nil && info.IsDir() {
					return filepath.Join(dir, rel)
				}
			}
			return ""
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// Lacking ends a test that has the shared test data and cannot use it, for example
// because a program is missing: skipped, or failed when CONCLAVE_SHARED is set. The
// reason says what to do.
func Lacking(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CONCLAVE_SHARED") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
