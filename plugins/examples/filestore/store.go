// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A Store is a core.Keystore: the records in memory, and a file with the batches that made
// them. The file is written first, so that readers see only what is durable.
type Store struct {
	records *memory.Store

	mu        sync.Mutex // of who writes
	file      string
	log       *os.File
	unlock    func()
	size      int64 // of the log, as far as it counts
	limit     int64 // the size at which it is written anew
	unsettled bool  // there may be more in the log, or the folder may know another one
}

// Open opens the store in a file, or makes it; the folder must be there. Where another
// process has the file it waits until the context ends, and is then core.ErrUnavailable.
// core.ErrDamaged: somebody else has written to the file.
func Open(ctx context.Context, file string) (*Store, error) {
	if real, err := filepath.EvalSymlinks(file); err == nil { // else a link would have a lock of its own, and be replaced
		file = real
	}
	s := &Store{records: memory.New(), file: file}
	if err := s.open(ctx); err != nil {
		if s.log != nil {
			_ = s.log.Close()
		}
		if s.unlock != nil {
			s.unlock()
		}
		return nil, fail("open "+file, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	for {
		if s.unlock, err = tryLock(s.file + ".lock"); err != nil || s.unlock != nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another process has it: %w", core.ErrUnavailable)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err != nil {
		return err
	}
	_ = os.Remove(s.file + ".new") // of who was killed while he wrote it
	text, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return s.rewrite()
	}
	if err != nil {
		return err
	}
	if s.size, err = replay(text, s.records); err != nil {
		return err
	}
	if s.log, err = os.OpenFile(s.file, os.O_RDWR, 0); err != nil {
		return err
	}
	return s.settle() // what a process left behind when it was killed
}

// Read implements core.Keystore.
func (s *Store) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	return s.records.Read(ctx, queries)
}

// Apply implements core.Keystore.
func (s *Store) Apply(ctx context.Context, b core.Batch) error {
	if err := b.Check(); err != nil {
		return fail("apply", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.records.Apply(ctx, core.Batch{Expect: b.Expect}); err != nil {
		return fail("apply", err)
	}
	change := core.Batch{Dels: b.Dels, Puts: b.Puts}
	if len(change.Dels)+len(change.Puts) == 0 {
		return nil
	}
	if err := s.append(change); err != nil {
		return fail("apply", err)
	}
	if err := s.records.Apply(context.WithoutCancel(ctx), change); err != nil { // cannot be: all of it is checked
		return fail("apply", fmt.Errorf("%w: %w", core.ErrUnknownOutcome, err))
	}
	if s.size > s.limit {
		s.limit = 2 * s.size
		_ = s.rewrite() // fails where the disk is full: then the log goes on
	}
	return nil
}

// append makes a change durable. What fails is undone; if that fails as well, the change
// may be there when the file is opened again.
func (s *Store) append(b core.Batch) error {
	if s.unsettled {
		if err := s.settle(); err != nil {
			return err
		}
	}
	frame, err := encode(b)
	if err != nil {
		return err
	}
	_, err = s.log.WriteAt(frame, s.size)
	if err = errors.Join(err, s.log.Sync()); err == nil {
		s.size += int64(len(frame))
		return nil
	}
	if undo := s.settle(); undo != nil {
		return fmt.Errorf("%w: %w: %w", core.ErrUnknownOutcome, err, undo)
	}
	return err
}

// settle cuts off what does not count, for good.
func (s *Store) settle() error {
	s.unsettled = true
	err := errors.Join(s.log.Truncate(s.size), s.log.Sync(), syncFolder(filepath.Dir(s.file)))
	s.unsettled = err != nil
	return err
}

// rewrite puts a new file in the place of the old one, with the records alone.
func (s *Store) rewrite() error {
	log, err := os.OpenFile(s.file+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	size, err := writeAll(log, s.records)
	if err = errors.Join(err, log.Sync()); err == nil {
		err = os.Rename(s.file+".new", s.file)
	}
	if err != nil {
		return errors.Join(err, log.Close(), os.Remove(s.file+".new")) // the old one may need the room
	}
	if s.log != nil {
		_ = s.log.Close()
	}
	s.log, s.size, s.limit = log, size, 2*size+1<<20
	return s.settle()
}

// Close implements core.Keystore.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unlock == nil {
		return nil
	}
	err := errors.Join(s.records.Close(), s.log.Close())
	s.unlock()
	s.unlock = nil
	return err
}

// fail gives an error the sentinel that says what the caller should do about it: a disk
// that is full may have room again.
func fail(op string, err error) error {
	if core.Kind(err) == nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", core.ErrUnavailable, err)
	}
	return &core.ProviderError{Provider: "filestore", Op: op, Err: err}
}
