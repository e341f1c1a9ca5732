// SPDX-License-Identifier: Apache-2.0

package sqlite_test

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// lost makes a file in use without its log.
func lost(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	defer s.Close()
	apply(t, s, "a", "1")
	return write(t, t.TempDir(), "store", contentOf(t, path))
}

// A log of which there is not one whole frame is as good as none.
func TestCutLog(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 32, 100, 4000, 4096 + 55} {
		path := lost(t)
		write(t, filepath.Dir(path), "store-wal", make([]byte, size))
		for range 2 {
			s, err := sqlite.Open(t.Context(), path)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, core.ErrRolledBack) {
				t.Errorf("a log of %d bytes: got error %v", size, err)
			}
		}
	}
}

// While somebody opens what was rolled back, in whatever moment, nobody opens it without
// its new incarnation. Several who do that at once all succeed.
func TestOpenWhileRolledBack(t *testing.T) {
	t.Parallel()
	for range 10 {
		path := lost(t)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				s, err := sqlite.OpenRolledBack(t.Context(), path)
				if err != nil {
					t.Errorf("open rolled back: %v", err)
					return
				}
				if incarnation(t, s) == (core.Version{}) {
					t.Error("there is no new incarnation")
				}
				s.Close()
			})
		}
		for range 2 {
			wg.Go(func() {
				for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
					s, err := sqlite.Open(t.Context(), path)
					if err == nil {
						if incarnation(t, s) == (core.Version{}) {
							t.Error("it opens without a new incarnation")
						}
						s.Close()
						return
					}
					if !errors.Is(err, core.ErrRolledBack) && !errors.Is(err, core.ErrUnavailable) {
						t.Errorf("open: %v", err)
						return
					}
				}
				t.Error("it does not open")
			})
		}
		wg.Wait()
	}
}
