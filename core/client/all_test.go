// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core/client"
)

// All has a message before what was replayed with it, and errors in their place.
func TestAll(t *testing.T) {
	t.Parallel()
	lost := errors.New("lost")
	text := func(data string) *client.Text { return &client.Text{Data: []byte(data)} }
	replayed := []client.Decrypted{{Received: text("one")}, {Err: lost}, {Received: text("two")}}
	of := func(r client.Received) (list []string) {
		for r, err := range client.All(r) {
			if text, ok := r.(*client.Text); ok && err == nil {
				list = append(list, string(text.Data))
				continue
			}
			list = append(list, fmt.Sprintf("%T %v", r, err))
		}
		return list
	}
	for _, test := range []struct {
		in   client.Received
		want []string
	}{
		{nil, nil},
		{&client.Buffered{}, []string{"*client.Buffered <nil>"}},
		{&client.Text{Data: []byte("zero"), Replayed: replayed}, []string{"zero", "one", "<nil> lost", "two"}},
		{&client.ProposalResult{Replayed: replayed}, []string{"*client.ProposalResult <nil>", "one", "<nil> lost", "two"}},
		{&client.CommitResult{Replayed: replayed}, []string{"*client.CommitResult <nil>", "one", "<nil> lost", "two"}},
	} {
		if got := of(test.in); !slices.Equal(got, test.want) {
			t.Errorf("%T: %q, want %q", test.in, got, test.want)
		}
	}
	for range client.All(&client.CommitResult{Replayed: replayed}) {
		break // and no more is yielded, or it panics
	}
}

func TestAdmissionKindString(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for k := client.AddedByMember; k <= client.JoinedByCommit+1; k++ {
		seen[k.String()] = true
	}
	if len(seen) != 5 || !seen["added by a member"] || !seen["way 5"] {
		t.Errorf("ways in: %v", seen)
	}
}
