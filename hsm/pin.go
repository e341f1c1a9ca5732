// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// maxPIN is how long a PIN may be, in bytes; tokens take up to 255 at most.
const maxPIN = 1024

// pin reads the PIN from where the URI says, each time again, because it may have changed;
// but from a descriptor once in the life of the process. Newlines at its end are none of
// it. Without a PIN, or with an empty one, it is ErrPINRequired: nothing is guessed. The
// caller wipes it.
func (u URI) pin() (core.Secret, error) {
	required := func(why string) (core.Secret, error) {
		return core.Secret{}, &Error{Op: "read PIN", Kind: ErrPINRequired, Detail: why}
	}
	var b []byte
	switch {
	case !u.PINValue.IsZero():
		b = bytes.Clone(u.PINValue.Bytes())
	case u.PINSource == "":
		return required("the URI has no pin-source")
	default:
		read, err := parsePINSource(u.PINSource)
		if err == nil {
			b, err = read()
		}
		if err != nil {
			return required(err.Error())
		}
	}
	b = bytes.TrimRight(b, "\r\n")
	switch {
	case len(b) == 0:
		return required("the PIN is empty")
	case bytes.ContainsAny(b, "\r\n\x00"): // a file of something else; trying it would cost
		clear(b)
		return required("what is there is not a PIN: it has several lines")
	}
	return core.NewSecret(b), nil
}

// parsePINSource gives what reads a pin-source. RFC 7512 (section 2.4) also has commands;
// we run none. Its errors do not show the source, which somebody may have taken for the PIN.
func parsePINSource(source string) (read func() ([]byte, error), err error) {
	kind, name, _ := strings.Cut(source, ":")
	if filepath.IsAbs(source) {
		kind, name = "file", source
	}
	switch kind {
	case "file":
		if rest, ok := strings.CutPrefix(name, "//"); ok { // an empty host
			name = rest
		}
		if filepath.IsAbs(name) {
			return func() ([]byte, error) { return readPINFile(name) }, nil
		}
	case "env":
		if name != "" && !strings.Contains(name, "=") {
			return func() ([]byte, error) {
				value, ok := os.LookupEnv(name)
				if !ok {
					return nil, fmt.Errorf("the environment has no %s", name)
				}
				return []byte(value), nil
			}, nil
		}
	case "fd":
		// 0 to 2 are not for us to close.
		if n, err := strconv.ParseUint(name, 10, 16); err == nil && n > 2 {
			return func() ([]byte, error) { return handedPIN(int(n)) }, nil
		}
	}
	return nil, errors.New("it is none of file:/PATH, /PATH, env:NAME and fd:NUMBER from 3 on")
}

func readPINFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe may wait for ever
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readPIN(f)
}

func readPIN(f *os.File) ([]byte, error) {
	b := make([]byte, maxPIN+1)
	n, err := io.ReadFull(f, b)
	switch {
	case err == nil:
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), maxPIN)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return b[:n], nil
	}
	clear(b)
	return nil, err
}

// handed are the descriptors that were read. What they gave cannot be read again, and the
// numbers may be those of other files now.
var handed struct {
	sync.Mutex
	read map[int]handedFile
}

type handedFile struct {
	pin  core.Secret
	err  error
	file *os.File // if it failed; a *os.File that nobody has is closed
}

func handedPIN(n int) ([]byte, error) {
	handed.Lock()
	defer handed.Unlock()
	h, ok := handed.read[n]
	if !ok {
		h.file = os.NewFile(uintptr(n), fmt.Sprintf("descriptor %d", n))
		b, err := readPIN(h.file)
		h.pin, h.err = core.NewSecret(b), err
		if err == nil { // otherwise it may be none that was given to us
			_ = h.file.Close()
			h.file = nil
		}
		if handed.read == nil {
			handed.read = map[int]handedFile{}
		}
		handed.read[n] = h
	}
	return bytes.Clone(h.pin.Bytes()), h.err
}
