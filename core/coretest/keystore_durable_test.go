// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"context"
	"encoding/gob"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// filed is a naive store that writes all it holds to a file; it is right for one
// owner, or wrong in one named way.
type filed struct {
	*naive
	wrong, path string
}

func openFiled(wrong string) OpenAt {
	return func(_ context.Context, location string) (core.Keystore, error) {
		s := &filed{naive: newNaive(""), wrong: wrong, path: filepath.Join(location, "store")}
		f, err := os.Open(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return s, gob.NewDecoder(f).Decode(&s.tables)
	}
}

func (s *filed) Apply(ctx context.Context, b core.Batch) error {
	if s.wrong == "writes half a batch first" && len(b.Puts) > 1 {
		half := b
		half.Puts = b.Puts[:len(b.Puts)/2]
		if err := s.naive.Apply(ctx, half); err != nil {
			return err
		}
		if err := s.save(); err != nil {
			return err
		}
		b.Expect = nil
	}
	if err := s.naive.Apply(ctx, b); err != nil {
		return err
	}
	switch s.wrong {
	case "writes when closed":
		return nil
	case "writes a little later":
		time.AfterFunc(20*time.Millisecond, func() { _ = s.save() })
		return nil
	}
	return s.save()
}

// save replaces the file whole.
func (s *filed) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.CreateTemp(filepath.Dir(s.path), "new")
	if err != nil {
		return err
	}
	if err := errors.Join(gob.NewEncoder(f).Encode(s.tables), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.path)
}

func (s *filed) Close() error {
	if s.wrong == "forgets" {
		return errors.Join(s.naive.Close(), os.RemoveAll(s.path))
	}
	if s.wrong == "writes when closed" {
		if err := s.save(); err != nil {
			return err
		}
	}
	return s.naive.Close()
}

func TestDurableCatchesWrong(t *testing.T) {
	for wrong, check := range map[string]string{
		"forgets":        "reopened",
		"one owner only": "open twice",
	} {
		t.Run(wrong, func(t *testing.T) {
			catchesWrong(t, durableChecks, func(testing.TB) OpenAt { return openFiled(wrong) }, check)
		})
	}
	for _, wrong := range []string{"absence outside the lock", "ranges outside the lock", "snapshots follow the store"} {
		t.Run("shared, "+wrong, func(t *testing.T) {
			one := newNaive(wrong)
			catchesWrong(t, durableChecks, func(testing.TB) OpenAt {
				return func(context.Context, string) (core.Keystore, error) { return one, nil }
			}, "open twice")
		})
	}
	for _, wrong := range []string{"", "writes half a batch first", "writes a little later", "writes when closed"} {
		t.Run("killed "+wrong, func(t *testing.T) {
			if location := os.Getenv(killedAt); location != "" {
				applyUntilKilled(t, openFiled(wrong), location)
				return
			}
			location, name := t.TempDir(), t.Name()
			report := record(t, func(t testing.TB) {
				keystoreKilled(t, openFiled(wrong), location, func(during func()) int { return killOnce(t, againUntilKilled(name, location), during) }, time.Sleep)
			})
			if (len(report) > 0) != (wrong != "") {
				t.Errorf("reported %q", report)
			}
			t.Logf("%q", report)
		})
	}
}
