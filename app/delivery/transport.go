// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A Transport is what a [client.Client] needs of a delivery service, over a
// [Client] of this one. Receive has to be called before a conversation is used.
type Transport struct {
	client  *Client
	receive func(context.Context, core.ConversationID, Entry) error
}

var (
	_ client.Transport       = (*Transport)(nil)
	_ client.GroupInfoSource = (*Transport)(nil)
)

// NewTransport returns the transport of a client of the service.
func NewTransport(c *Client) *Transport { return &Transport{client: c} }

// Receive says who takes what waits in a conversation's log. An entry is confirmed
// once f returned nil: then what came of it has to be durable. It may be given
// again after a crash.
func (t *Transport) Receive(f func(context.Context, core.ConversationID, Entry) error) { t.receive = f }

// SubmitCommit implements [client.Transport]. The service knows a commit by its
// bytes, so the key is not needed. It keeps nothing that was read, so there is no
// history to be shared, and a commit that adds a history client is refused.
func (t *Transport) SubmitCommit(ctx context.Context, _ core.ConversationID, _ string, b client.CommitBundle) (client.Outcome, error) {
	if slices.ContainsFunc(b.Added, client.IsHistoryClient) {
		return client.Outcome{Kind: client.Refused, Reason: "this delivery service keeps no history"}, nil
	}
	answer, err := t.client.SubmitCommit(ctx, b)
	return answer.Outcome, err
}

// SendMessage implements [client.Transport].
func (t *Transport) SendMessage(ctx context.Context, _ core.ConversationID, key string, message []byte) (client.Outcome, error) {
	answer, err := t.client.SendMessage(ctx, []byte(key), message)
	return answer.Outcome, err
}

// Drain implements [client.Transport]. Who was never let into the conversation
// has nothing waiting there.
func (t *Transport) Drain(ctx context.Context, id core.ConversationID) error {
	if t.receive == nil {
		return fmt.Errorf("delivery service: nobody receives: %w", core.ErrUnsupported)
	}
	err := t.client.Drain(ctx, id, func(ctx context.Context, e Entry) error { return t.receive(ctx, id, e) })
	var refusal *Error
	if errors.As(err, &refusal) && refusal.Code == CodeDenied {
		return nil
	}
	return err
}

// GroupInfo implements [client.GroupInfoSource].
func (t *Transport) GroupInfo(ctx context.Context, id core.ConversationID) ([]byte, error) {
	return t.client.GroupInfo(ctx, id)
}
