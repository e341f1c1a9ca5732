// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core/coretest"
)

// An origin is where a module comes from.
type origin struct {
	file     string // its name
	library  string // the Debian package that it is in
	packages string // what is to be installed for it and its tools
	target   string // of the Makefile, that does so
}

var (
	softHSM   = origin{"libsofthsm2.so", "libsofthsm2", "softhsm2", "setup"}
	softokn   = origin{"libsoftokn3.so", "libnss3", "libnss3 libnss3-tools", "setup"}
	p11Client = origin{"p11-kit-client.so", "p11-kit-modules", "p11-kit p11-kit-modules", "setup"}
	spyModule = origin{"pkcs11-spy.so", "opensc-pkcs11", "opensc", "setup"}
)

// places are where modules are on systems without dpkg.
var places = []string{
	"/usr/lib", "/usr/lib64", "/usr/lib/*-linux-*", "/usr/local/lib", "/usr/local/lib64",
	"/opt/homebrew/lib", "/run/current-system/sw/lib",
}

// find gives the path of the module. What is missing ends the test.
func (o origin) find(t testing.TB) string {
	t.Helper()
	if list, err := exec.Command("dpkg", "-L", o.library).Output(); err == nil {
		for path := range strings.Lines(string(list)) {
			path = strings.TrimSpace(path)
			if filepath.Base(path) == o.file && isFile(path) {
				return path
			}
		}
	}
	for _, place := range places {
		for _, folder := range []string{"", "softhsm", "pkcs11", "nss"} {
			found, _ := filepath.Glob(filepath.Join(place, folder, o.file))
			for _, path := range found {
				if isFile(path) {
					return path
				}
			}
		}
	}
	o.lacking(t, o.file)
	return ""
}

// tool gives the path of a program that the origin's packages bring.
func (o origin) tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		o.lacking(t, name)
	}
	return path
}

func (o origin) lacking(t testing.TB, what string) {
	t.Helper()
	coretest.Lacking(t, fmt.Sprintf("needs %s: make %s, or apt-get install %s", what, o.target, o.packages))
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// variables are the ones that modules read, and their values for a site. An entry with
// both ends NUL is looked for in the file: that is how the name is in it.
var variables = []struct{ name, file, prefix string }{
	{"SOFTHSM2_CONF", "softhsm2.conf", ""},
	{"P11_KIT_SERVER_ADDRESS", "socket", "unix:path="},
	{"PKCS11SPY", "spied.so", ""},
	{"PKCS11SPY_OUTPUT", "spy.log", ""},
}

// A site is a folder for a token, and what the variables that name its files are called.
type site struct {
	folder string
	names  map[string]string // by the name that the module's makers gave
}

// sites are made many at once: a variable that is set while a module of another test
// reads one may crash the process, in C.
var sites struct {
	sync.Mutex
	base string
	free []*site
	used int
}

// newSite gives a site for the time of the test.
func newSite(t testing.TB) *site {
	t.Helper()
	sites.Lock()
	defer sites.Unlock()
	if len(sites.free) == 0 {
		if err := moreSites(); err != nil {
			t.Fatal(err)
		}
	}
	s := sites.free[0]
	if err := os.MkdirAll(s.folder, 0o700); err != nil {
		t.Fatal(err)
	}
	sites.free = sites.free[1:]
	sites.used++
	t.Cleanup(func() {
		sites.Lock()
		defer sites.Unlock()
		if err := os.RemoveAll(s.folder); err != nil {
			t.Error(err)
		}
		// It is not used again: the loader knows files by their paths for ever.
		if sites.used--; sites.used == 0 {
			_ = os.Remove(sites.base)
		}
	})
	return s
}

func moreSites() error {
	if sites.base == "" {
		base, err := os.MkdirTemp("", "softhsmtest") // short: it is the path of a socket
		if err != nil {
			return err
		}
		sites.base = base
	}
	for range 96 {
		s := &site{names: map[string]string{}}
		s.folder = filepath.Join(sites.base, rand.Text()[:6])
		for _, v := range variables {
			s.names[v.name] = "X" + rand.Text()[:len(v.name)-1]
			if err := os.Setenv(s.names[v.name], v.prefix+s.path(v.file)); err != nil {
				return err
			}
		}
		sites.free = append(sites.free, s)
	}
	return nil
}

func (s *site) path(elem ...string) string {
	return filepath.Join(append([]string{s.folder}, elem...)...)
}

// env is what the site's modules read.
func (s *site) env() []string {
	var env []string
	for _, v := range variables {
		env = append(env, s.names[v.name]+"="+v.prefix+s.path(v.file))
	}
	return env
}

// module copies a module into the site. The copy reads the site's variable instead of
// these.
func (s *site) module(from string, reads ...string) (string, error) {
	code, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	for _, name := range reads {
		old, mine := []byte("\x00"+name+"\x00"), []byte("\x00"+s.names[name]+"\x00")
		if bytes.Count(code, old) != 1 {
			return "", fmt.Errorf("%s does not read %s", from, name)
		}
		code = bytes.Replace(code, old, mine, 1)
	}
	f, err := os.CreateTemp(s.folder, "*-"+filepath.Base(from))
	if err != nil {
		return "", err
	}
	_, err = f.Write(code)
	return f.Name(), errors.Join(err, f.Chmod(0o700), f.Close())
}
