// SPDX-License-Identifier: Apache-2.0

package host

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// filePrefix begins the names of the executables in a plugin folder.
const filePrefix = "conclave-plugin-"

// Find gives the path of the executable of a plugin in a folder: conclave-plugin-NAME.
// ErrInvalid: no plugin may be called so. ErrNotFound: it is not there. ErrDenied: somebody
// else could put another executable in its place, see [Launch].
func Find(folder, name string) (path string, err error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	path, err = filepath.Abs(filepath.Join(folder, filePrefix+name))
	if err != nil {
		return "", fmt.Errorf("plugin %s: %w: %w", name, core.ErrUnavailable, err)
	}
	_, err = permitted(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("plugin %s: no %s: %w", name, path, core.ErrNotFound)
	case err != nil:
		return "", fmt.Errorf("plugin %s: %w", name, err)
	}
	return path, nil
}

// A Found is an executable in a plugin folder.
type Found struct {
	Name, Path string
	Err        error // why it cannot be used: what Find says of it
}

// List gives all plugins in a folder by name. ErrNotFound: there is no such folder.
func List(folder string) ([]Found, error) {
	entries, err := os.ReadDir(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("plugin folder %s: %w", folder, core.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("plugin folder: %w: %w", core.ErrUnavailable, err)
	}
	var all []Found
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), filePrefix); ok {
			_, err := Find(folder, name)
			all = append(all, Found{Name: name, Path: filepath.Join(folder, e.Name()), Err: err})
		}
	}
	return all, nil
}

// Sum is the SHA-256 of an executable, for [Config]. ErrNotFound: there is none.
func Sum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("executable %s: %w", path, core.ErrNotFound)
	}
	h := sha256.New()
	if err == nil {
		defer func() { _ = f.Close() }()
		_, err = io.Copy(h, f)
	}
	if err != nil {
		return nil, fmt.Errorf("executable: %w: %w", core.ErrUnavailable, err)
	}
	return h.Sum(nil), nil
}

// Check says whether only root and we can write to an executable and to what is above it, as
// Launch demands. ErrNotFound: there is none. ErrDenied: somebody else can.
func Check(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("executable: %w: %w", core.ErrUnavailable, err)
	}
	if _, err = permitted(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no %s: %w", path, core.ErrNotFound)
	}
	return err
}

func checkName(name string) error {
	if !wire.IsName(name) {
		return fmt.Errorf("name %.40q of a plugin: 1 to %d of a-z, 0-9 and -: %w", name, wire.MaxName, core.ErrInvalid)
	}
	return nil
}

// maxLinks is how many symbolic links a path may go through.
const maxLinks = 16

// permitted follows the absolute path of an executable step by step and gives where it
// leads, without symbolic links. ErrDenied: it is not an executable file, or somebody
// besides root and us could change it, or what is found at the path.
func permitted(path string) (real string, err error) {
	const root = string(filepath.Separator)
	at, rest, links := root, steps(path), 0
	for len(rest) > 0 {
		next := rest[0]
		rest = rest[1:]
		if next == ".." {
			at = filepath.Dir(at)
			continue
		}
		// Who may write to a folder may replace what is in it, but for others' files where
		// it is sticky; that is not good enough for the plugin folder, as anybody could
		// offer a plugin there.
		if err := ours(at, len(rest) > 0); err != nil {
			return "", err
		}
		at = filepath.Join(at, next)
		info, err := os.Lstat(at)
		if err != nil {
			return "", lost(err)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: more than %d symbolic links: %w", path, maxLinks, core.ErrDenied)
		}
		if err := owned(at, info); err != nil {
			return "", err
		}
		target, err := os.Readlink(at)
		if err != nil {
			return "", lost(err)
		}
		at = filepath.Dir(at)
		if filepath.IsAbs(target) {
			at = root
		}
		rest = append(steps(target), rest...)
	}
	info, err := os.Lstat(at)
	if err != nil {
		return "", lost(err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s is not an executable file (%s): %w", at, info.Mode(), core.ErrDenied)
	}
	return at, ours(at, false)
}

// steps are the names in a path.
func steps(path string) []string {
	names := strings.Split(path, string(filepath.Separator))
	return slices.DeleteFunc(names, func(name string) bool { return name == "" || name == "." })
}

// ours says whether only root and we can write to a file or a folder. A sticky folder of
// root's or ours may be good enough.
func ours(path string, stickyIsGood bool) error {
	info, err := os.Lstat(path)
	if err != nil {
		return lost(err)
	}
	if err := owned(path, info); err != nil {
		return err
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	if info.Mode()&0o022 != 0 && !(sticky && stickyIsGood) {
		return fmt.Errorf("others can write to %s (%s): move the plugin, or run chmod go-w on that: %w", path, info.Mode(), core.ErrDenied)
	}
	return nil
}

// lost is why a file cannot be looked at.
func lost(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %w", core.ErrDenied, err)
	}
	return fmt.Errorf("%w: %w", core.ErrUnavailable, err)
}
