// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"net/http"
	"testing"
)

// A commit that waits for its answer is no message that waits as well.
func TestHealthOfCommit(t *testing.T) {
	all := people(t, "alice", "bob")
	alice := all[0]
	id := conversation(t, "friends", all)
	alice.network.set(failing(http.MethodPost, "/v1/commits"), nil)
	if err := alice.Update(t.Context(), id); err == nil {
		t.Error("committed through a network that is down")
	}
	h, err := alice.Health(t.Context())
	must(t, err)
	if w := h.Chats[0]; !w.Commit || w.Unsent != 0 {
		t.Errorf("%+v", w)
	}
}
