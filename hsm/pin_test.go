// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestThePINComesFromItsSource(t *testing.T) {
	folder := t.TempDir()
	path := writeFile(t, filepath.Join(folder, "p i n"), "12 34\r\n\n")
	t.Setenv("CONCLAVE_TEST_PIN", "from env\n")
	for source, want := range map[string]string{
		"env:CONCLAVE_TEST_PIN": "from env", path: "12 34", "file:" + path: "12 34", "file://" + path: "12 34",
	} {
		for range 2 {
			pin, err := URI{PINSource: source}.pin()
			if err != nil || string(pin.Bytes()) != want {
				t.Errorf("%s: %q, %v", source, pin.Bytes(), err)
			}
			pin.Wipe() // of one reading only
		}
	}
	u := URI{PINValue: core.NewSecret([]byte("1234"))}
	for range 2 {
		pin, err := u.pin()
		if err != nil || string(pin.Bytes()) != "1234" {
			t.Errorf("pin-value: %q, %v", pin.Bytes(), err)
		}
		pin.Wipe()
	}
	writeFile(t, path, "5678")
	if pin, err := (URI{PINSource: path}).pin(); err != nil || string(pin.Bytes()) != "5678" {
		t.Errorf("after a change: %q, %v", pin.Bytes(), err)
	}
}

func TestWhatIsNoPINIsNotTried(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("CONCLAVE_TEST_PIN", "")
	for name, u := range map[string]URI{
		"no source":      {},
		"no file":        {PINSource: filepath.Join(folder, "none")},
		"a folder":       {PINSource: folder},
		"a device":       {PINSource: os.DevNull},
		"an empty file":  {PINSource: writeFile(t, filepath.Join(folder, "empty"), "")},
		"newlines only":  {PINSource: writeFile(t, filepath.Join(folder, "newlines"), "\n\r\n")},
		"two lines":      {PINSource: writeFile(t, filepath.Join(folder, "lines"), "secret12\nsecret34\n")},
		"a zero byte":    {PINSource: writeFile(t, filepath.Join(folder, "zero"), "secret12\x00")},
		"a big file":     {PINSource: writeFile(t, filepath.Join(folder, "big"), strings.Repeat("secret12", 129))},
		"an empty env":   {PINSource: "env:CONCLAVE_TEST_PIN"},
		"no env":         {PINSource: "env:CONCLAVE_TEST_PIN_2"},
		"a command":      {PINSource: "|echo secret12"},
		"not to be read": {PINSource: "fd:60000"},
		"an empty value": {PINValue: core.NewSecret([]byte("\n"))},
	} {
		pin, err := u.pin()
		if !errors.Is(err, ErrPINRequired) || !errors.Is(err, core.ErrDenied) || !pin.IsZero() {
			t.Errorf("%s: %v, %v", name, pin, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the PIN is in the error: %v", name, err)
		}
	}
	for path, why := range map[string]string{filepath.Join(folder, "big"): "more than 1024 bytes", os.DevNull: "not a regular file"} {
		if _, err := (URI{PINSource: path}).pin(); !strings.Contains(err.Error(), why) {
			t.Error(err)
		}
	}
	exact := strings.Repeat("1", maxPIN)
	if pin, err := (URI{PINSource: writeFile(t, filepath.Join(folder, "exact"), exact)}).pin(); err != nil || string(pin.Bytes()) != exact {
		t.Errorf("the longest one: %v", err)
	}
}

func TestModuleNamesAreLookedUpInKnownFoldersOnly(t *testing.T) {
	t.Parallel()
	one, two := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(one, "libabc.so"), "")
	writeFile(t, filepath.Join(two, "abc.so"), "")
	writeFile(t, filepath.Join(two, "def.so.1"), "")
	if err := os.Mkdir(filepath.Join(one, "def"), 0o700); err != nil { // not a file
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"abc": filepath.Join(one, "libabc.so"), "abc.so": filepath.Join(two, "abc.so"), "def.so.1": filepath.Join(two, "def.so.1"),
	} {
		if path, err := findModule(name, []string{one, two}); err != nil || path != want {
			t.Errorf("%s: %s, %v", name, path, err)
		}
	}
	for _, name := range []string{"def", "ghi"} {
		if path, err := findModule(name, []string{one, two}); !errors.Is(err, ErrModuleLoad) {
			t.Errorf("%s: %s, %v", name, path, err)
		}
	}
	for _, folder := range moduleFolders() {
		if !filepath.IsAbs(folder) {
			t.Errorf("%q", folder)
		}
	}
	if path, err := (URI{ModulePath: "/a.so"}).Module(); err != nil || path != "/a.so" {
		t.Errorf("%s, %v", path, err)
	}
	if _, err := (URI{}).Module(); !errors.Is(err, ErrInvalidInput) {
		t.Error(err)
	}
	if _, err := (URI{ModuleName: "conclave-none"}).Module(); !errors.Is(err, ErrModuleLoad) {
		t.Error(err)
	}
}
