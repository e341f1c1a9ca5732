// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest

import (
	"os"
	"regexp"
	"strings"
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

var spied = regexp.MustCompile(`(?m)^\d+: (C_\w+)$`)

// Calls gives the names of the functions that were called, in order: "C_Initialize", ...
// If names are given, only those. It is for tokens of [Spy].
func (k *Token) Calls(t testing.TB, names ...string) (calls []string) {
	t.Helper()
	log, err := os.ReadFile(k.site.path("spy.log"))
	if os.IsNotExist(err) {
		return nil
	}
	must(t, err)
	for _, call := range spied.FindAllStringSubmatch(string(log), -1) {
		if len(names) == 0 || strings.Contains(" "+strings.Join(names, " ")+" ", " "+call[1]+" ") {
			calls = append(calls, call[1])
		}
	}
	return calls
}
