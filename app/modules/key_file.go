// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
)

const keySize = 32

func randomKey() core.Secret {
	b := make([]byte, keySize)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return core.NewSecret(b)
}

// NewKeyFile writes a fresh key, 32 bytes in hexadecimal, to a new file that only
// its owner can read. core.ErrConflict: there is one already.
func NewKeyFile(path string) error {
	key := randomKey()
	defer key.Wipe()
	text := append(hex.AppendEncode(nil, key.Bytes()), '\n')
	defer clear(text)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("key file %s exists already: %w", path, core.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	return nil
}

// ErrNoKeyFile: the file of the key is missing.
var ErrNoKeyFile = fmt.Errorf("%w", core.ErrNotFound)

// readPrivate reads a file that others cannot read; one that they can is core.ErrDenied.
func readPrivate(path string, missing error) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, missing)
	}
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%s can be read by others (mode %#o); chmod 600 it: %w", path, mode, core.ErrDenied)
	}
	return os.ReadFile(path)
}

// openKeyFile refuses a file that others can read: core.ErrDenied.
func openKeyFile(_ context.Context, u config.URI) (core.KeyWrapper, error) {
	path, err := u.File()
	if err != nil {
		return nil, err
	}
	text, err := readPrivate(path, ErrNoKeyFile)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	key := make([]byte, keySize)
	if digits := bytes.TrimSpace(text); len(digits) != 2*keySize {
		err = core.ErrInvalid
	} else if _, err = hex.Decode(key, digits); err != nil {
		err = core.ErrInvalid // the text of the error would show a part of the key
	}
	if err != nil {
		clear(key)
		return nil, fmt.Errorf("%s does not hold 64 hexadecimal digits: %w", path, err)
	}
	return wrap(seal.RawKey, core.NewSecret(key), nil)
}
