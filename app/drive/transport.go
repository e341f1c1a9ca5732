// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// transportKind is what the delivery service answers to a commit.
type transportKind string

const (
	accept transportKind = "accept"
	reject transportKind = "reject"
	crash  transportKind = "crash"
)

// A bundle is a commit with what belongs to it, in a reply.
type bundle struct {
	Commit              []byte `json:"commit"`
	Welcome             []byte `json:"welcome,omitempty"`
	GroupInfo           []byte `json:"groupInfo"`
	GroupInfoEncryption int    `json:"groupInfoEncryption"` // 1: none
	RatchetTreeType     int    `json:"ratchetTreeType"`     // 1: the whole tree
	EncryptedMessage    []byte `json:"encryptedMessage,omitempty"`
}

// A transport is the delivery service of an instance: what is submitted goes into the
// reply of the request that is answered at the moment, which says what the service
// answers. Nothing ever waits for the instance: messages come by the command decrypt.
type transport struct {
	engine  *engine
	request *request
}

var _ client.Transport = (*transport)(nil)

// errOutside is for what is sent while no request is answered; nothing does so.
var errOutside = errors.New("no request to send this with")

// SubmitCommit implements [client.Transport].
func (t *transport) SubmitCommit(ctx context.Context, _ core.ConversationID, _ string, b client.CommitBundle) (client.Outcome, error) {
	r := t.request
	if r == nil {
		return client.Outcome{}, errOutside
	}
	r.bundles = append(r.bundles, bundle{
		Commit: b.Commit, Welcome: b.Welcome, GroupInfo: b.GroupInfo, EncryptedMessage: b.EncryptedMessage,
		GroupInfoEncryption: 1, RatchetTreeType: 1,
	})
	switch r.Transport.Kind {
	case reject:
		return client.Outcome{Kind: client.Refused, Reason: r.Transport.Reason}, nil
	case crash:
		if err := t.engine.send(reply{ID: r.ID, OK: true, Crashed: true, Result: r.with(nil)}); err != nil {
			return client.Outcome{}, err
		}
		t.engine.options.Crash()
		<-ctx.Done() // the end is near
		return client.Outcome{}, ctx.Err()
	}
	return client.Outcome{Kind: client.Accepted}, nil
}

// SendMessage implements [client.Transport]. No command puts anything into an outbox.
func (t *transport) SendMessage(context.Context, core.ConversationID, string, []byte) (client.Outcome, error) {
	return client.Outcome{}, fmt.Errorf("message: %w", errOutside)
}

// Drain implements [client.Transport].
func (t *transport) Drain(context.Context, core.ConversationID) error { return nil }
