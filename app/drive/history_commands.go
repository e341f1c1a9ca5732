// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A historySecret is that of a history client, in a reply.
type historySecret struct {
	ClientID []byte `json:"clientId"`
	Data     []byte `json:"data"`
}

func showHistory(s client.HistorySecret) historySecret {
	return historySecret{ClientID: []byte(s.ClientID), Data: append([]byte{}, s.Data.Bytes()...)}
}

// prepareHistory has the members be sent a secret as it is, and shows it in the reply
// of the request.
func (t *transport) prepareHistory(_ core.ConversationID, s client.HistorySecret) ([]byte, error) {
	shown := showHistory(s)
	if r := t.request; r != nil {
		r.histories = append(r.histories, shown)
	}
	return shown.Data, nil
}

func enableHistorySharing(ctx context.Context, i *instance, r *request) (result, error) {
	return i.commit(ctx, r, func(ctx context.Context, c *client.Conversation) (*client.CommitResult, error) {
		return c.EnableHistorySharing(ctx)
	})
}

func disableHistorySharing(ctx context.Context, i *instance, r *request) (result, error) {
	return i.commit(ctx, r, func(ctx context.Context, c *client.Conversation) (*client.CommitResult, error) {
		return c.DisableHistorySharing(ctx)
	})
}

func historySharing(ctx context.Context, i *instance, r *request) (result, error) {
	return ask(ctx, i, r, "enabled", client.View.HistorySharing)
}
