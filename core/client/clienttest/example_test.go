// SPDX-License-Identifier: Apache-2.0

package clienttest_test

import (
	"context"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// TestGroupOfThree is what a test of an application begins with.
func TestGroupOfThree(t *testing.T) {
	service := clienttest.NewService(clienttest.Options{})
	trio := map[core.ClientID]*clienttest.Device{}
	for _, id := range []core.ClientID{"alice", "bob", "carol"} {
		trio[id] = clienttest.NewDevice(t, service, id, memory.New(), client.Config{Suites: pure.New(), Keys: pure.New()})
		trio[id].Identify(t, core.SuiteX25519AES128Ed25519)
	}
	clienttest.Group(t, "tea", trio["alice"], trio["bob"], trio["carol"])

	err := trio["bob"].Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, "tea")
		if err == nil {
			_, err = c.Send(ctx, []byte("hello"), nil)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []core.ClientID{"alice", "carol"} {
		if err := trio[id].Link.Drain(t.Context(), "tea"); err != nil {
			t.Fatal(err)
		}
		if texts := trio[id].Texts(); len(texts) != 1 || texts[0] != "hello" {
			t.Errorf("%s read %q", id, texts)
		}
	}
}
