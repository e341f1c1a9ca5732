// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A URI is a PKCS #11 URI of RFC 7512: which module, which token, which key, and where the
// PIN is. What is not given is the zero value. However it is printed, the PIN is not.
//
// Of the path, the attributes library-* and slot-manufacturer and slot-description are not
// taken, because nothing here looks at them: they would promise what is not checked.
type URI struct {
	Token, Manufacturer, Model, Serial string // what the token says of itself
	SlotID                             *uint  // numbers of slots move: the last resort
	ID                                 []byte // CKA_ID
	Object                             string // CKA_LABEL
	Type                               string // "public", "private", "cert", "secret-key" or "data"

	ModulePath string // absolute; the code of this file runs here
	ModuleName string // such as "softhsm2", looked up where Debian puts modules
	PINSource  string // file:/PATH, /PATH, env:NAME or fd:NUMBER
	PINValue   core.Secret

	MaxSessions int    // x-max-sessions: how many to use at once
	Engine      string // x-engine: "p11" or "crypto11"; see [OpenCAKey]
	InitArgs    string // x-init-args: what NSS wants to be initialised with
	KEKMethod   string // x-kek-method: "aes-gcm", "aes-kw" or "aes-cbc-hmac"
	HMACKey     string // x-hmac-key: label of the second key that aes-cbc-hmac has
	FinalTry    bool   // x-final-try=yes: log in with the last try that the token leaves

	// blank are attributes that are given and empty: the token has to have none.
	blank [4]bool // as in labels

	unknown []string
}

// Unknown are the names of those of its query attributes that mean nothing here, such as
// "x-max-session": somebody else's, or misspelt.
func (u URI) Unknown() []string { return slices.Clone(u.unknown) }

// labels are the attributes that a token is known by.
func (u *URI) labels() [4]*string {
	return [4]*string{&u.Token, &u.Manufacturer, &u.Model, &u.Serial}
}

// ParseURI reads a URI, strictly: an unknown attribute, one that is there twice, a bad
// percent escape, a character that wants one, a relative module-path, and a pin-value
// beside a pin-source are ErrInvalidInput. Only query attributes that begin with "x-" may
// be unknown; they are somebody else's. No error shows a value.
func ParseURI(text string) (URI, error) {
	u, err := parseURI(text)
	if err != nil {
		return URI{}, err
	}
	return u, nil
}

// ParseReference reads the name of a key, which chooses neither module nor PIN: with a
// query, with a slot number, or of another scheme it is core.ErrDenied.
func ParseReference(ref core.KeyRef) (URI, error) {
	denied := func(why string) error {
		return &Error{Op: "read key reference", Kind: core.ErrDenied, Detail: why}
	}
	switch {
	case ref.Scheme() != "pkcs11":
		return URI{}, denied("its scheme is not pkcs11")
	case strings.Contains(string(ref), "?"):
		return URI{}, denied("it has a query; module, PIN and options come from the configuration alone")
	}
	u, err := ParseURI(string(ref))
	if err == nil && u.SlotID != nil {
		return URI{}, denied("it has a slot-id, and slots are renumbered")
	}
	return u, err
}

// String is the canonical form, but for pin-value: that has a text in its place with
// which ParseURI fails.
func (u URI) String() string {
	text := "pkcs11:" + u.write(uriPath)
	if query := u.write(uriQuery); query != "" {
		text += "?" + query
	}
	return text
}

// Reference is the name to store for a key: the path, without slot-id.
func (u URI) Reference() core.KeyRef {
	u.SlotID = nil
	return core.KeyRef("pkcs11:" + u.write(uriPath))
}

// tokenInfo is a token that is as the URI says.
func (u URI) tokenInfo() cryptoki.TokenInfo {
	return cryptoki.TokenInfo{Label: u.Token, Manufacturer: u.Manufacturer, Model: u.Model, Serial: u.Serial}
}

// Matches reports whether a token is one of those that the URI describes. slot-id is not
// looked at: a token does not know its slot.
func (u URI) Matches(t cryptoki.TokenInfo) bool {
	has := [4]string{t.Label, t.Manufacturer, t.Model, t.Serial}
	for i, want := range u.labels() {
		if (*want != "" || u.blank[i]) && *want != has[i] {
			return false
		}
	}
	return true
}

// triplets are the folders of Debian's architectures.
var triplets = map[string]string{
	"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu", "386": "i386-linux-gnu", "arm": "arm-linux-gnueabihf",
	"ppc64le": "powerpc64le-linux-gnu", "riscv64": "riscv64-linux-gnu", "s390x": "s390x-linux-gnu",
}

// moduleFolders are where a module-name is looked up, and nowhere else.
func moduleFolders() []string {
	var all []string
	for _, lib := range []string{"/usr/lib/" + triplets[runtime.GOARCH], "/usr/lib64", "/usr/lib", "/usr/local/lib"} {
		for _, sub := range []string{"pkcs11", "softhsm", "nss", "opencryptoki", ""} {
			all = append(all, filepath.Join(lib, sub))
		}
	}
	return all
}

// Module is the path of the module. ErrInvalidInput: the URI names none; ErrModuleLoad: it
// is not where modules are looked for.
func (u URI) Module() (string, error) {
	switch {
	case u.ModulePath != "":
		return u.ModulePath, nil
	case u.ModuleName == "":
		return "", &Error{Op: "find module", Kind: ErrInvalidInput, Detail: "the URI has neither module-path nor module-name"}
	}
	return findModule(u.ModuleName, moduleFolders())
}

// findModule gives the first file, with or without what RFC 7512 (section 2.3) calls the
// affixes of a name.
func findModule(name string, folders []string) (string, error) {
	for _, folder := range folders {
		for _, file := range []string{name, name + ".so", "lib" + name + ".so"} {
			path := filepath.Join(folder, file)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				return path, nil
			}
		}
	}
	return "", &Error{Op: "find module", Token: name, Kind: ErrModuleLoad,
		Detail: fmt.Sprintf("no %s.so and no lib%s.so in %s; give module-path", name, name, strings.Join(folders, ", "))}
}
