// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// Peers choose the ids of conversations and clients: what a shell would run, or take for
// a flag or for several words, is not completed.
func TestCompletionOfHostileNames(t *testing.T) {
	t.Parallel()
	for _, id := range []core.ConversationID{
		"$(touch pwned)", "a`touch pwned`", "a;touch pwned", "a b", "--delivery=unix:x", "a\tb", "a\nb", "~", "a*", "a'", `a"`, `a\b`,
		"a|b", "a&b", "a<b", "a{b,c}", "a\u202eb", "a\x80", "!a", "#a", "a$b", "_activeHelp_ a", "",
	} {
		if out := names(listed(id)); len(out) != 0 {
			t.Errorf("%q is completed: %q", id, out)
		}
	}
	var got []string
	for _, c := range names(listed("friends-1f6b09c2", "größe", "team@example.org:8443/x+y")) {
		name, _, _ := strings.Cut(c, "\t")
		got = append(got, name)
	}
	if !slices.Equal(got, []string{"friends", "größe", "team@example.org:8443/x+y"}) {
		t.Errorf("%q", got)
	}
}

func listed(ids ...core.ConversationID) (list []messenger.Status) {
	for _, id := range ids {
		list = append(list, messenger.Status{Info: client.Info{ID: id}})
	}
	return list
}

// What doctor says to do can be copied, whatever a conversation is called.
func TestDoctorQuotesNames(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	d := &doctor{program: &program{out: &out}}
	d.chats(messenger.Health{Chats: []messenger.Waiting{{ID: "x';touch pwned;'", Buffered: 1}, {ID: "friends-1f6b09c2", Buffered: 1}}})
	const quoted = `'x'\'';touch pwned;'\'''`
	for _, want := range []string{"chat info " + quoted + " goes", "chat rejoin " + quoted + "\n", "chat rejoin friends-1f6b09c2\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
}
