// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
)

// Identify makes the identity of a device, with its own id.
func (d *Device) Identify(t TB, suites ...core.SuiteID) {
	t.Helper()
	err := d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, d.Link.ID, suites...)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// KeyPackage makes a key package of the device, an MLSMessage.
func (d *Device) KeyPackage(t TB, suite core.SuiteID) (message []byte) {
	t.Helper()
	err := d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		k, err := tx.NewKeyPackages(ctx, suite, core.CredentialBasic, 1)
		if err == nil {
			message = k[0].Message
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// Group makes a conversation of the first device, as its field New says, and adds the
// others in one commit.
func Group(t TB, id core.ConversationID, first *Device, others ...*Device) {
	t.Helper()
	err := first.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		cfg := first.New
		if cfg.Group == (mls.Config{}) {
			cfg.Group = first.Join.Group
		}
		c, err := tx.NewConversation(ctx, id, cfg)
		if err != nil {
			return err
		}
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		var packages [][]byte
		for _, d := range others {
			packages = append(packages, d.KeyPackage(t, info.Suite))
		}
		if len(packages) > 0 {
			_, err = c.AddMembers(ctx, packages...)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range others {
		if err := d.Welcomes(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
