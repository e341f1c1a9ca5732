// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"

	"github.com/conclave-mls/conclave/core"
)

// A URI names a part and where it is.
type URI struct {
	Scheme string // in lower case
	text   string
	path   string // what follows the scheme, if that is not a host
	folder string
}

// URI reads one of the configuration's URIs. core.ErrInvalid: it is none.
func (c Config) URI(text string) (URI, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" {
		return URI{}, fmt.Errorf("%q is not a URI, which begins with a scheme such as \"file:\" or \"pkcs11:\": %w", withoutSecrets(text), core.ErrInvalid)
	}
	path := u.Path
	if u.Opaque != "" {
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return URI{}, fmt.Errorf("%q: %w: %w", withoutSecrets(text), core.ErrInvalid, err)
		}
	}
	return URI{Scheme: u.Scheme, text: text, path: path, folder: c.Folder}, nil
}

// String is the URI to show: a password in it is left out.
func (u URI) String() string { return withoutSecrets(u.text) }

// Text is the URI as it was written.
func (u URI) Text() string { return u.text }

var (
	passwordBefore = regexp.MustCompile(`(://[^:/?#@]*:).*@`)
	passwordAmong  = regexp.MustCompile(`(?i)((?:password|passphrase|secret)=)[^&;\s]*`)
	pinAmong       = regexp.MustCompile(`(?i)(pin-value=)[^&]*`) // only "&" ends it
)

// withoutSecrets also takes what is no URI: the password may be what is wrong with it.
func withoutSecrets(text string) string {
	text = pinAmong.ReplaceAllString(text, "${1}xxxxx")
	return passwordAmong.ReplaceAllString(passwordBefore.ReplaceAllString(text, "${1}xxxxx@"), "${1}xxxxx")
}

// File is the path in a URI that names a file: "scheme:relative/path" or
// "scheme:///absolute/path". core.ErrInvalid: there is none.
func (u URI) File() (string, error) {
	if u.path == "" {
		return "", fmt.Errorf("%q: a path is missing: %w", u, core.ErrInvalid)
	}
	return Config{Folder: u.folder}.File(u.path), nil
}

// File is a path that may be relative to the folder of the configuration.
func (c Config) File(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(c.Folder, path)
}

// Nothing is for a scheme that takes nothing, such as "memory:".
// core.ErrInvalid: something follows the scheme.
func (u URI) Nothing() error {
	if u.text != u.Scheme+":" {
		return fmt.Errorf("%q: write %q, nothing follows: %w", u, u.Scheme+":", core.ErrInvalid)
	}
	return nil
}

// FileURI is the URI of an absolute path.
func FileURI(scheme, path string) string {
	return (&url.URL{Scheme: scheme, Path: filepath.ToSlash(path)}).String()
}
