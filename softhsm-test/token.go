// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A Token is one of a test, with nothing on it, alone in its module.
type Token struct {
	Kind       string // "softhsm", "nss", "p11-kit", "tpm" or "opencryptoki"; golden files are called so
	ModulePath string // a copy of the module that has this token only
	Label      string
	PIN, SOPIN string
	PINFile    string // holds the PIN and a newline
	InitArgs   string // for C_Initialize; NSS only

	uri    string // given; "": made of the above
	site   *site
	server *server // of p11-kit; nil: the token is not remote
	local  *Token  // p11-kit and Spy: what is behind it

	remove  func()                             // of a TPM: stops its resource manager
	restore func(t testing.TB) (remove func()) // and starts another
}

// New makes a token of SoftHSM.
func New(t testing.TB) *Token {
	t.Helper()
	k := newToken(t, "softhsm")
	k.SOPIN = rand.Text()
	util, module := softHSM.tool(t, "softhsm2-util"), softHSM.find(t)
	must(t, os.Mkdir(k.store(), 0o700))
	// A process that forked must not use what it inherited: see the module's manual.
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n"+
		"slots.removable = false\nslots.mechanisms = ALL\nlibrary.reset_on_fork = true\n", k.store())
	must(t, os.WriteFile(k.site.path("softhsm2.conf"), []byte(conf), 0o600))
	var err error
	k.ModulePath, err = k.site.module(module, "SOFTHSM2_CONF")
	must(t, err)
	k.Run(t, util, "--module", k.ModulePath, "--init-token", "--free", "--label", k.Label, "--so-pin", k.SOPIN, "--pin", k.PIN)
	return k
}

// NSS makes a token of NSS softokn, a database of certutil. It has the NIST curves only,
// and InitArgs, which are in the URI as x-init-args.
//
// A process has one at a time, and parallel tests wait for one another: copies of the
// module share libraries that the first of them to be finalised shuts down for all.
func NSS(t testing.TB) *Token {
	t.Helper()
	select {
	case nss <- struct{}{}:
	case <-time.After(8 * time.Minute):
		t.Fatal("another NSS token has been in use for eight minutes, perhaps one of this test's own")
	}
	t.Cleanup(func() { <-nss })
	k := newToken(t, "nss")
	certutil, module := softokn.tool(t, "certutil"), softokn.find(t)
	must(t, os.Mkdir(k.store(), 0o700))
	k.Run(t, certutil, "-N", "-d", "sql:"+k.store(), "-f", k.PINFile)
	k.InitArgs = fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags= dbTokenDescription='%s'", k.store(), k.Label)
	var err error
	k.ModulePath, err = k.site.module(module)
	must(t, err)
	return k
}

var nss = make(chan struct{}, 1)

// Given is a token that is there already, such as a real one, of which only the URI is
// known: the result is for [Token.URI] only.
func Given(uri string) *Token { return &Token{Kind: "given", uri: uri} }

var labels atomic.Int64

// newToken is a token without a module. Its label has a space, as real ones do.
func newToken(t testing.TB, kind string) *Token {
	t.Helper()
	k := &Token{Kind: kind, PIN: rand.Text(), site: newSite(t)}
	k.Label = fmt.Sprintf("%s %d", kind, labels.Add(1))
	k.PINFile = k.site.path("pin")
	must(t, os.WriteFile(k.PINFile, []byte(k.PIN+"\n"), 0o600))
	return k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// URI is the token with its module and its PIN's file, by RFC 7512, without an object.
func (k *Token) URI() string {
	if k.uri != "" {
		return k.uri
	}
	uri := "pkcs11:token=" + escape(k.Label) + "?module-path=" + escape(k.ModulePath) + "&pin-source=file:" + escape(k.PINFile)
	if k.InitArgs != "" {
		uri += "&x-init-args=" + escape(k.InitArgs)
	}
	return uri
}

// escape leaves what needs no escape in any attribute.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c == '/' || c == '-' || c == '.' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// Env is what a process needs in its environment to use the module. A child that inherits
// this process's has it.
func (k *Token) Env() []string {
	if k.local != nil {
		return append(k.local.Env(), k.site.env()...)
	}
	return k.site.env()
}

// Run runs a program, such as pkcs11-tool, that uses the module, and gives its output. One
// that fails ends the test.
func (k *Token) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), k.Env()...)
	// softhsm2-util reads it as well, besides the module that it is given.
	cmd.Env = append(cmd.Env, "SOFTHSM2_CONF="+k.site.path("softhsm2.conf"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.ReplaceAll(cmd.String(), k.PIN, "PIN"), err, out)
	}
	return string(out)
}

// Remove takes the token away, as one is pulled out: the files of SoftHSM, the server and
// the workers of p11-kit, the resource manager of a TPM. It is for those three.
func (k *Token) Remove(t testing.TB) {
	t.Helper()
	switch {
	case k.server != nil:
		k.server.stop(t)
	case k.local != nil:
		k.local.Remove(t)
	case k.restore != nil:
		k.remove()
	case k.Kind == "softhsm":
		must(t, os.Rename(k.store(), k.away()))
		must(t, os.Mkdir(k.store(), 0o700))
	default:
		t.Fatalf("a token of %s cannot be removed", k.Kind)
	}
}

// Restore brings the token back.
func (k *Token) Restore(t testing.TB) {
	t.Helper()
	switch {
	case k.server != nil:
		k.server.start(t)
	case k.local != nil:
		k.local.Restore(t)
	case k.restore != nil:
		k.remove = k.restore(t)
	default:
		must(t, os.Remove(k.store())) // empty, unless somebody made a token meanwhile
		must(t, os.Rename(k.away(), k.store()))
	}
}

func (k *Token) store() string { return k.site.path("tokens") }
func (k *Token) away() string  { return k.site.path("away") }
