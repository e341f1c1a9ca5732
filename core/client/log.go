// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// What a transaction does is logged when it is durable. Ids go into a log through
// their LogValue only, which handlers call for a value of its own and not within a
// slice or a struct; and nothing else of a message does.

// note keeps a line for when the segment is durable.
func (t *Transaction) note(level slog.Level, h *held, message string, attrs ...slog.Attr) {
	if t.client.log.Enabled(context.Background(), level) {
		attrs = append([]slog.Attr{slog.Any("conversation", h.id)}, attrs...)
		t.segment.notes = append(t.segment.notes, func(ctx context.Context) { t.client.log.LogAttrs(ctx, level, message, attrs...) })
	}
}

// noteCommit tells of a commit that begins a new epoch.
func (t *Transaction) noteCommit(h *held, c *CommitResult, proposals []mls.ReceivedProposal) {
	var kinds []string
	for _, p := range proposals {
		kinds = append(kinds, kindOf(p.Proposal))
	}
	t.note(slog.LevelInfo, h, "epoch advanced", slog.Uint64("epoch", c.Epoch), slog.Bool("own", c.Own),
		slog.Any("committer", c.Committer), slog.Any("proposals", kinds),
		slog.Any("added", loggedIDs(c.Added)), slog.Any("removed", loggedIDs(c.Removed)), slog.Bool("active", c.Active))
}

func (t *Transaction) noteBuffered(h *held, message string, content mls.ContentType, attrs ...slog.Attr) {
	t.note(slog.LevelDebug, h, message, append([]slog.Attr{slog.String("content", contentName(content))}, attrs...)...)
}

// noteReplayed tells of a message that was buffered, and was dropped if there is an
// error.
func (t *Transaction) noteReplayed(h *held, content mls.ContentType, err error) {
	if err != nil {
		t.noteBuffered(h, "buffered message dropped", content, slog.Any("error", err))
		return
	}
	t.noteBuffered(h, "buffered message replayed", content)
}

// loggedIDs logs ids as each would be alone.
type loggedIDs []core.ClientID

func (l loggedIDs) LogValue() slog.Value {
	out := make([]string, len(l))
	for i, id := range l {
		out[i] = id.LogValue().String()
	}
	return slog.AnyValue(out)
}

func kindOf(p mls.Proposal) string {
	switch p.(type) {
	case *mls.Add:
		return "add"
	case *mls.Update:
		return "update"
	case *mls.Remove:
		return "remove"
	case *mls.PreSharedKey:
		return "psk"
	case *mls.ReInit:
		return "reinit"
	case *mls.ExternalInit:
		return "external_init"
	case *mls.GroupContextExtensions:
		return "group_context_extensions"
	}
	return fmt.Sprintf("0x%04X", uint16(p.Type()))
}

func (r BufferReason) String() string {
	switch r {
	case FutureEpoch:
		return "of the next epoch"
	case MissingProposals:
		return "lacks proposals"
	case JoinPending:
		return "a join waits"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

func contentName(t mls.ContentType) string {
	switch t {
	case mls.ContentApplication:
		return "text"
	case mls.ContentProposal:
		return "proposal"
	case mls.ContentCommit:
		return "commit"
	}
	return fmt.Sprintf("content %d", uint8(t))
}
