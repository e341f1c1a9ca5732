// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
)

// The members' certificates say which lists are missing, and so do ours.
func TestMissingLists(t *testing.T) {
	t.Parallel()
	v := newVerified(t)
	missing := func(d *clienttest.Device, want ...string) {
		t.Helper()
		if got, err := d.MissingLists(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("missing are %v, %v, want %v", got, err, want)
		}
	}
	missing(v.alice)
	v.certify(v.ca, v.alice, 1, time.Hour) // for no conversation
	missing(v.alice, listURL)
	missing(v.bob)
	v.rotate(v.alice, 1, time.Hour)
	missing(v.bob, listURL)
	v.do(v.bob, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.RegisterCRL(ctx, listURL, v.ca.list(1))
		return err
	})
	missing(v.bob)
	v.must(v.bob.Close(t.Context()))
	if _, err := v.bob.MissingLists(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Error(err)
	}
}
