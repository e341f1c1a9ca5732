// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// A latchStore keeps the record of one token.
type latchStore interface {
	name() string
	// lock keeps all others out who share the store, in other processes, too.
	lock() (unlock func(), err error)
	read() ([]byte, error) // nil: there is none
	write([]byte) error    // nil: there shall be none. It lasts when this returns.
}

func (l *latch) store(token string) latchStore {
	if l.folder != "" {
		return latchFile(filepath.Join(l.folder, fmt.Sprintf("%.16x", sha256.Sum256([]byte(token)))))
	}
	s, _ := latchMemories.LoadOrStore(token, &latchMemory{})
	return s.(*latchMemory)
}

// latchMemories are the stores of the process.
var latchMemories sync.Map // of *latchMemory

type latchMemory struct {
	mu   sync.Mutex
	data []byte
}

func (m *latchMemory) name() string { return "the memory of this process" }

func (m *latchMemory) lock() (func(), error) {
	m.mu.Lock()
	return m.mu.Unlock, nil
}

func (m *latchMemory) read() ([]byte, error) { return m.data, nil }

func (m *latchMemory) write(b []byte) error {
	m.data = b
	return nil
}

// A latchFile is a path without its ending.
type latchFile string

const (
	latchEnding = ".latch"
	// lockWait is how long another process may take for its login.
	lockWait = 30 * time.Second
	// maxLatchFile is more than maxLatched PINs need.
	maxLatchFile = 16 << 10
)

func (f latchFile) name() string { return string(f) + latchEnding }

// lock also makes the folder. Whoever cannot lock does not log in.
func (f latchFile) lock() (func(), error) {
	folder := filepath.Dir(string(f))
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
		if err := syncFolder(filepath.Dir(folder)); err != nil {
			return nil, err
		}
	}
	path := string(f) + ".lock"
	for end := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		unlock, err := tryLock(path)
		switch {
		case err != nil:
			return nil, err
		case unlock != nil:
			return unlock, nil
		case time.Now().After(end):
			return nil, fmt.Errorf("another process has %s, and has been logging in for %v%s", path, lockWait, deadLock)
		}
	}
}

func (f latchFile) read() ([]byte, error) {
	file, err := os.Open(f.name())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	b, err := io.ReadAll(io.LimitReader(file, maxLatchFile))
	if b == nil && err == nil {
		b = []byte{}
	}
	return b, err
}

func (f latchFile) write(b []byte) error {
	folder := filepath.Dir(string(f))
	if b == nil {
		if err := os.Remove(f.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncFolder(folder)
	}
	path := string(f) + ".tmp" // of whoever has the lock
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(path, f.name())
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncFolder(folder)
}

// A LatchedPIN is a PIN that is not tried again; which one is not known.
type LatchedPIN struct {
	Token   URI
	Refused bool      // by the token; otherwise nobody knows
	Result  string    // such as "CKR_PIN_INCORRECT"; empty: the login was cut short, or is under way
	At      time.Time // of the login
}

// String says what happened, without the token.
func (p LatchedPIN) String() string {
	return pinRecord{Refused: p.Refused, Result: p.Result, At: p.At}.why()
}

// Of says that it is a PIN of the token that a URI names.
func (p LatchedPIN) Of(token URI) bool { return token.Matches(p.Token.tokenInfo()) }

// Latched lists what is latched in a folder, see [Config]. An error, about each file that
// cannot be read, comes with what can.
func Latched(folder string) ([]LatchedPIN, error) {
	files, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Op: "read latch", Kind: ErrLatch, Detail: err.Error()}
	}
	var all []LatchedPIN
	var failed error
	for _, file := range files {
		name, ok := strings.CutSuffix(file.Name(), latchEnding)
		if !ok {
			continue
		}
		f := latchFile(filepath.Join(folder, name))
		b, err := f.read()
		if b == nil && err == nil { // a login that was under way is over
			continue
		}
		var r *latchRecord
		var u URI
		if err == nil {
			r, err = decodeLatch(b)
		}
		if err == nil {
			u, err = ParseURI(r.Token)
		}
		if err != nil {
			failed = errors.Join(failed, &Error{Op: "read latch", Kind: ErrLatch, Detail: fmt.Sprintf("%s: %v", f.name(), err)})
			continue
		}
		for _, p := range r.PINs {
			all = append(all, LatchedPIN{u, p.Refused, p.Result, p.At})
		}
	}
	return all, failed
}

// Unlatch forgets all PINs of the one token in the folder that matches, so that they are
// tried again, each once. It is for a person who knows that the PIN is right now.
func Unlatch(folder string, token URI) error {
	fail := func(kind error, detail string) error {
		return &Error{Op: "unlatch", Token: token.String(), Kind: kind, Detail: detail}
	}
	all, damaged := Latched(folder)
	var name, others string
	for _, p := range all {
		switch is := p.Token.String(); {
		case !p.Of(token) || is == name:
		case name == "":
			name = is
		default:
			others += ", " + is
		}
	}
	switch {
	case name == "" && damaged != nil:
		return damaged
	case name == "":
		return fail(core.ErrNotFound, "nothing of this token is latched in "+folder)
	case others != "":
		return fail(ErrInvalidInput, "several tokens match: "+name+others)
	}
	s := newLatch(folder).store(name)
	unlock, err := s.lock()
	if err != nil {
		return fail(ErrLatch, err.Error())
	}
	defer unlock()
	if err := s.write(nil); err != nil {
		return fail(ErrLatch, err.Error())
	}
	return nil
}
