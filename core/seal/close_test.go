// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A lostStore never says what became of a batch, as on a disk that stays full.
type lostStore struct {
	core.Keystore
	lost bool
}

func (s *lostStore) Apply(ctx context.Context, b core.Batch) error {
	if s.lost {
		return core.ErrUnknownOutcome
	}
	return s.Keystore.Apply(ctx, b)
}

// Close ends the search for an outcome that does not come.
func TestCloseEndsTheSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := &lostStore{Keystore: memory.New()}
		s := open(t, ks)
		ks.lost = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		outcome := make(chan error, 1)
		go func() {
			_, err := s.Apply(ctx, puts(put(1, "g", "a", "1")))
			outcome <- err
		}()
		time.Sleep(time.Minute)
		start := time.Now()
		_ = s.Close()
		if waited := time.Since(start); waited > time.Minute {
			t.Errorf("Close waited for %v", waited)
		}
		if err := <-outcome; !errors.Is(err, core.ErrUnknownOutcome) {
			t.Errorf("Apply: %v", err)
		}
	})
}
