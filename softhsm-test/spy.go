// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest

import (
	"bytes"
	"os"
	"slices"
	"testing"
)

// Spy is the token through a module that writes down each call and passes it on, with
// whatever the calls of this and of other processes are; see [Token.Calls]. The module
// behind it is an instance of its own.
func Spy(t testing.TB, k *Token) *Token {
	t.Helper()
	module := spyModule.find(t)
	spy := *k
	spy.site, spy.local, spy.server = newSite(t), k, nil
	code, err := os.ReadFile(k.ModulePath)
	must(t, err)
	must(t, os.WriteFile(spy.site.path("spied.so"), code, 0o700))
	spy.ModulePath, err = spy.site.module(module, "PKCS11SPY", "PKCS11SPY_OUTPUT")
	must(t, err)
	return &spy
}

// Calls gives the names of the functions that were called, in order: "C_Initialize", ...
// If names are given, only those. It is for tokens of [Spy].
func (k *Token) Calls(t testing.TB, names ...string) (calls []string) {
	t.Helper()
	log, err := os.ReadFile(k.site.path("spy.log"))
	if os.IsNotExist(err) {
		return nil
	}
	must(t, err)
	for line := range bytes.Lines(log) { // NUMBER: C_NAME, and what it was given
		number, name, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(": "))
		if !ok || !bytes.HasPrefix(name, []byte("C_")) || len(bytes.Trim(number, "0123456789")) > 0 {
			continue
		}
		if len(names) == 0 || slices.Contains(names, string(name)) {
			calls = append(calls, string(name))
		}
	}
	return calls
}
