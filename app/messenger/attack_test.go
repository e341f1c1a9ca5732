// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// Who asks to join one conversation is not led into another, whatever the service
// answers.
func TestJoinOfAnother(t *testing.T) {
	all := people(t, "alice", "bob", "carol")
	id, trap := conversation(t, "friends", all[:2]), conversation(t, "trap", all[:2])
	carol := all[2]
	carol.network.set(func(r *http.Request) error {
		if strings.HasSuffix(r.URL.Path, "/info") {
			r.URL.Path = "/v1/groups/" + base64.RawURLEncoding.EncodeToString([]byte(trap)) + "/info"
		}
		return nil
	}, nil)
	if err := carol.Join(t.Context(), core.ConversationID(id)); !errors.Is(err, mls.ErrWrongGroup) {
		t.Errorf("%v, want ErrWrongGroup", err)
	}
	if list, err := carol.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("carol is in %v, %v", list, err)
	}
}
