// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// longer than a store takes in one value.
const longer = 2 << 20

// goOn checks that a conversation lives: both commit, also after a new start.
func (w *world) goOn(alice, bob *clienttest.Device, store core.Keystore) {
	w.Helper()
	w.catchUp()
	w.update(alice)
	w.catchUp()
	w.agree(alice, bob)
	again := clienttest.NewDevice(w, w.service, "bob", store, config())
	w.update(again)
	w.must(alice.Link.Drain(w.Context(), chat))
	w.agree(alice, again)
	w.send(alice, "on")
	w.reads(again, "on")
	w.must(alice.Settle(w.Context(), chat))
}

// TestLongRecords: what peers may make long is kept, however long, by who makes it
// and by who receives it. If it were not, one accepted commit would end a
// conversation for everybody.
func TestLongRecords(t *testing.T) {
	t.Parallel()
	for name, grow := range map[string]func(t *testing.T, w *world, alice *clienttest.Device){
		"extension": func(t *testing.T, w *world, alice *clienttest.Device) {
			extensions := []mls.Extension{mls.ExternalSendersExtension([]mls.ExternalSender{{
				SignatureKey: newShadow(t, "sender").bundle.KeyPackage.LeafNode.SignatureKey,
				Credential:   core.Credential{Type: core.CredentialBasic, Identity: make([]byte, longer)},
			}})}
			w.in(alice, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.Commit(ctx, client.Changes{Extensions: &extensions})
				return err
			})
		},
		"proposal": func(t *testing.T, w *world, alice *clienttest.Device) {
			w.in(alice, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.ProposeAdd(ctx, newShadow(t, "carol", longExtension).keyPackage())
				return err
			})
		},
		"leaf": func(t *testing.T, w *world, _ *clienttest.Device) {
			info, err := w.service.GroupInfo(chat)
			w.must(err)
			m, err := mls.UnmarshalMLSMessage(info)
			w.must(err)
			s := newShadow(t, "carol", longExtension)
			leaf := s.bundle.KeyPackage.LeafNode
			signer, err := s.env.Signer(t.Context(), leaf.SignatureKey)
			w.must(err)
			g, commit, _, err := mls.JoinExternal(t.Context(), s.env, mls.ExternalParams{
				GroupInfo: m.GroupInfo, Signer: signer, Credential: leaf.Credential,
				Capabilities: leaf.Capabilities, LeafExtensions: leaf.Extensions, Config: mls.DefaultConfig,
			})
			w.must(err)
			if info, err = g.GroupInfo(t.Context(), s.env, mls.GroupInfoParams{}); err != nil {
				t.Fatal(err)
			}
			outcome := w.service.SubmitCommit("carol", chat, client.CommitBundle{Commit: commit, GroupInfo: info})
			if outcome.Kind != client.Accepted {
				t.Fatal(outcome)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, clienttest.Options{})
			store := memory.New()
			alice, bob := w.device("alice"), w.deviceOn("bob", store, config())
			w.create(alice)
			w.add(alice, bob)
			grow(t, w, alice)
			w.goOn(alice, bob, store)
		})
	}
}

// longExtension is one of a type for private use.
var longExtension = mls.Extension{Type: 0xf0f0, Data: make([]byte, longer)}
