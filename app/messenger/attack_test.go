// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/app/messenger"
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

// Somebody who adds us to a conversation while there is no room for anything unread
// does not keep us from reading, which makes room.
func TestFullAndInvited(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	const n = 8
	for i := range n {
		size := messenger.MaxText
		if i == 5 {
			size = 60 << 10 // what is left after it, a few invitations fill
		}
		must(t, alice.Send(t.Context(), id, []byte(strings.Repeat("x", size))))
	}
	if err := bob.Sync(t.Context()); !errors.Is(err, messenger.ErrFull) {
		t.Fatalf("sync: %v", err)
	}
	for range 60 {
		_, err := alice.Create(t.Context(), "more")
		must(t, err)
	}
	list, err := alice.List(t.Context())
	must(t, err)
	for _, c := range list {
		if string(c.ID) != id {
			must(t, alice.Add(t.Context(), string(c.ID), "bob"))
		}
	}
	read := 0
	for range 20 {
		must(t, bob.Read(t.Context(), id, func(core.ConversationID, messenger.Item) error { read++; return nil }))
	}
	if read != n {
		t.Errorf("%d texts", read)
	}
	must(t, bob.Sync(t.Context()))
}
