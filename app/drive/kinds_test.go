// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
)

// An error that says nothing of a protocol is not called one of MLS, and what is wrong
// with a request is of the protocol of its command.
func TestKinds(t *testing.T) {
	t.Parallel()
	store := &core.ProviderError{Provider: "sqlite", Op: "read", Err: core.ErrDenied}
	for _, c := range []struct {
		command string
		err     error
		kind    string
		name    any
	}{
		{"encrypt", errors.New("whatever"), "Other", nil},
		{"proteusEncrypt", errors.New("whatever"), "Other", nil},
		{"encrypt", fmt.Errorf("group: %w", core.ErrInvalid), "Mls.Other", nil},
		{"proteusEncrypt", fmt.Errorf("session: %w", core.ErrInvalid), "Proteus.Other", nil},
		{"init", core.ErrUnsupported, "Mls.Other", "Unsupported"},
		{"proteusEncrypt", core.ErrUnsupported, "Proteus.Other", "Unsupported"},
		{"encrypt", client.ErrConversationNotFound, "Mls.Other", "ConversationNotFound"},
		{"encrypt", mls.ErrMissingTree, "Mls.Other", nil},
		{"encrypt", store, "Other", nil},
		{"encrypt", core.ErrClosed, "Other", "Closed"},
		{"encrypt", errors.Join(core.ErrInvalid, core.ErrDamaged), "Other", "Damaged"},
		{"proteusEncrypt", badRequest("no such field"), "BadRequest", nil},
	} {
		if f := describe(c.command, c.err); f.Kind != c.kind || f.Detail["name"] != c.name {
			t.Errorf("%s: %v: %s, %v; want %s, %v", c.command, c.err, f.Kind, f.Detail["name"], c.kind, c.name)
		}
	}
}
