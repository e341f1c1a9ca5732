// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// whileRecovering is what becomes of each operation on a conversation whose keys may
// have been used since: those that are not listed are done as ever.
var whileRecovering = map[string]error{
	"AddMembers":                                   client.ErrRecovering,
	"RemoveMembers":                                client.ErrRecovering,
	"UpdateKeyMaterial":                            client.ErrRecovering,
	"Rotate":                                       client.ErrRecovering,
	"CommitPendingProposals":                       client.ErrRecovering,
	"SetCredential":                                client.ErrRecovering,
	"Commit with a PSK":                            client.ErrRecovering,
	"Commit of extensions":                         client.ErrRecovering,
	"EnableHistorySharing":                         client.ErrRecovering,
	"RemoveMembers, a new era":                     client.ErrRecovering,
	"DisableHistorySharing":                        client.ErrRecovering,
	"Conversation.ExportSecret":                    client.ErrRecovering,
	"Conversation.GroupInfo":                       client.ErrRecovering,
	"Conversation.PendingProposals":                client.ErrRecovering,
	"ExportSecret":                                 client.ErrRecovering,
	"Send":                                         client.ErrRecovering,
	"Send and UpdateKeyMaterial":                   client.ErrRecovering,
	"StageCommit":                                  client.ErrRecovering,
	"StageCommit overtaken":                        client.ErrRecovering,
	"UpdateKeyMaterial overtaken":                  client.ErrRecovering,
	"DiscardStaged":                                client.ErrRecovering,
	"Encrypt":                                      client.ErrRecovering,
	"ProposeAdd":                                   client.ErrRecovering,
	"ProposeRemove":                                client.ErrRecovering,
	"ProposeUpdate":                                client.ErrRecovering,
	"ProposePSK":                                   client.ErrRecovering,
	"Leave":                                        client.ErrRecovering,
	"ClearPendingProposal":                         client.ErrRecovering,
	"CommitPendingProposals of others":             client.ErrRecovering,
	"UpdateKeyMaterial behind a commit":            client.ErrRecovering,
	"UpdateKeyMaterial behind texts":               client.ErrRecovering,
	"DiscardPendingCommit":                         client.ErrRecovering,
	"DecryptMessage: text":                         client.ErrRecovering,
	"DecryptMessage: proposal":                     client.ErrRecovering,
	"DecryptMessage: commit":                       client.ErrRecovering,
	"DecryptMessage: removed":                      client.ErrRecovering,
	"DecryptMessage: future":                       client.ErrRecovering,
	"DecryptMessage: own commit":                   client.ErrRecovering,
	"DecryptMessage: commit and what was buffered": client.ErrRecovering,
	"DecryptMessage: commit without its proposal":  client.ErrRecovering,
	"DecryptMessage: the missing proposal":         client.ErrRecovering,
	"DecryptMessage: commit that overtook ours":    client.ErrRecovering,
	"DecryptMessage: commit that overtakes texts":  client.ErrRecovering,
	"SetParent":                                    client.ErrRecovering,
	"Replay":                                       client.ErrRecovering,
	"DiscardPendingJoin":                           core.ErrNotFound,        // it is dropped already
	"ProcessWelcome":                               client.ErrOrphanWelcome, // the key package is
	"ProcessWelcome by a last resort":              client.ErrOrphanWelcome,
}

// After an accident every operation is refused, before it has changed anything, unless it
// does without the keys of the conversation.
func TestRecoveringRefuses(t *testing.T) {
	t.Parallel()
	for name := range whileRecovering {
		operationOf(name) // it is there
	}
	for _, op := range operations {
		if op.nobody || slices.Contains([]string{"ProcessWelcome, recovering", "Open and Close"}, op.name) {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, op, setting{})
			s.putBack()
			if i, err := s.alice.Info(t.Context(), chat); err == nil && (i.PendingProposals > 0 || i.PendingCommit || i.PendingJoin || i.Buffered > 0 || i.BufferedCommit) {
				t.Errorf("something waits: %+v", i)
			}
			before, sent := s.mine(), len(s.service.Log(chat))
			_, err := s.play(t.Context())
			want := whileRecovering[op.name]
			if !errors.Is(err, want) {
				t.Fatalf("got %v, want %v", err, want)
			}
			if resumes := strings.HasPrefix(op.name, "Resume") || op.name == "Settle"; want == nil && !resumes {
				return
			}
			if now := s.mine(); now != before || len(s.service.Log(chat)) != sent {
				t.Errorf("it changed something:\nbefore %s\nnow    %s", before, now)
			}
			if list, err := s.alice.Recovering(t.Context()); !op.outside && !slices.Contains(list, chat) || err != nil {
				t.Errorf("%q, %v", list, err)
			}
		})
	}
}

// Who wipes a conversation instead of joining it again keeps nothing of it, whatever
// waited there.
func TestWipeWhileRecovering(t *testing.T) {
	t.Parallel()
	wipe := func(s *stage) string {
		t.Helper()
		s.do(s.alice, func(ctx context.Context, tx *client.Transaction) error { return tx.WipeConversation(ctx, chat) })
		rows, _ := s.rows(s.store, client.TableFloors)
		return rows
	}
	for _, name := range []string{
		"Send", "Resume, texts wait", "Resume, a commit is staged", "DiscardPendingCommit", "DiscardPendingJoin",
		"DecryptMessage: commit and what was buffered", "DecryptMessage: the missing proposal", "RemoveMembers, a new era",
	} {
		op := operationOf(name)
		first := newStage(t, op, setting{})
		first.putBack()
		got := wipe(first)
		second := newStage(t, operationOf(name), setting{})
		if !op.outside {
			wipe(second)
		} else {
			second.do(second.alice, func(ctx context.Context, tx *client.Transaction) error { return tx.DiscardPendingJoin(ctx, chat) })
		}
		second.putBack()
		want, _ := second.rows(second.store, client.TableFloors)
		if got != want {
			t.Errorf("%s: left are%s, want%s", name, got, want)
		}
	}
}
