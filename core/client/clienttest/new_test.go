// SPDX-License-Identifier: Apache-2.0

package clienttest_test

import (
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// Group makes the conversation that the first device asks for.
func TestNew(t *testing.T) {
	service := clienttest.NewService(clienttest.Options{})
	var devices []*clienttest.Device
	for _, name := range []core.ClientID{"alice", "bob"} {
		d := clienttest.NewDevice(t, service, name, memory.New(), client.Config{Suites: pure.New(), Keys: pure.New()})
		d.Identify(t, core.SuiteX25519AES128Ed25519, core.SuiteP256AES128P256)
		devices = append(devices, d)
	}
	devices[0].New.Suite = core.SuiteP256AES128P256
	clienttest.Group(t, "tea", devices[0], devices[1])
	if suite, err := devices[1].View("tea").Suite(t.Context()); suite != core.SuiteP256AES128P256 || err != nil {
		t.Errorf("suite %v, %v", suite, err)
	}
}
