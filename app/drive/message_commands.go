// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"context"
	"errors"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
)

func encrypt(ctx context.Context, i *instance, r *request) (result, error) {
	if _, err := need("plaintext", r.Plaintext); err != nil {
		return nil, err
	}
	messages, err := i.encrypt(ctx, r, r.Plaintext)
	if err != nil {
		return nil, err
	}
	return result{"message": messages[0]}, nil
}

func encryptMany(ctx context.Context, i *instance, r *request) (result, error) {
	if err := needAll("plaintexts", r.Plaintexts); err != nil {
		return nil, err
	}
	messages, err := i.encrypt(ctx, r, r.Plaintexts...)
	return result{"messages": messages}, err
}

// encrypt hands messages out when the transaction is durable, and not before.
func (i *instance) encrypt(ctx context.Context, r *request, plaintexts ...[]byte) (messages [][]byte, err error) {
	err = i.in(ctx, r, func(ctx context.Context, c *client.Conversation) error {
		messages = [][]byte{}
		for _, p := range plaintexts {
			m, err := c.Encrypt(ctx, p, nil)
			if err != nil {
				return err
			}
			messages = append(messages, m)
		}
		return nil
	})
	return messages, err
}

// errRollback undoes a transaction that did what it should.
var errRollback = errors.New("rolled back, as asked")

// decrypt processes a message. If it is kept for later the reply is an error, and it is
// kept nevertheless unless a rollback is asked for.
func decrypt(ctx context.Context, i *instance, r *request) (result, error) {
	id, err := r.conversation()
	if err != nil {
		return nil, err
	}
	message, err := need("message", r.Message)
	if err != nil {
		return nil, err
	}
	var got client.Received
	err = i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error {
		got, err = tx.DecryptMessage(ctx, id, message)
		if _, kept := got.(*client.Buffered); err == nil && kept && r.Rollback {
			return errRollback
		}
		return err
	})
	if err != nil && !errors.Is(err, errRollback) {
		return nil, ownCommit(message, err)
	}
	shown, err := i.show(ctx, id, got)
	return result{"message": shown}, err
}

// decryptMany processes messages in one transaction. An error that is a message's
// fault is in its place.
func decryptMany(ctx context.Context, i *instance, r *request) (result, error) {
	id, err := r.conversation()
	if err != nil {
		return nil, err
	}
	if err := needAll("messages", r.Messages); err != nil {
		return nil, err
	}
	var got []client.Decrypted
	err = i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error {
		got, err = tx.DecryptMessages(ctx, id, r.Messages)
		return err
	})
	if err != nil {
		return nil, err
	}
	for k, m := range got {
		got[k].Err = ownCommit(r.Messages[k], m.Err)
	}
	return result{"messages": i.showAll(ctx, id, got)}, nil
}

// ownCommit tells a commit of ours that is not pending from another message of ours.
func ownCommit(message []byte, err error) error {
	if !errors.Is(err, mls.ErrOwnMessage) {
		return err
	}
	m, malformed := mls.UnmarshalMLSMessage(message)
	if malformed == nil && (m.PublicMessage != nil && m.PublicMessage.Content.ContentType == mls.ContentCommit ||
		m.PrivateMessage != nil && m.PrivateMessage.ContentType == mls.ContentCommit) {
		return errors.Join(errOwnCommit, err)
	}
	return err
}

// showAll shows what became of messages, errors in their place.
func (i *instance) showAll(ctx context.Context, id core.ConversationID, list []client.Decrypted) []result {
	out := []result{}
	for _, m := range list {
		shown, err := result(nil), m.Err
		if err == nil {
			shown, err = i.show(ctx, id, m.Received)
		}
		if err != nil {
			shown = result{"error": describe("decrypt", err)}
		}
		out = append(out, shown)
	}
	return out
}

// show is a message in a reply. What is kept is an error there.
func (i *instance) show(ctx context.Context, id core.ConversationID, m client.Received) (out result, err error) {
	// None if we were removed, or if the store fails now: that must not cost the message.
	members, _ := i.roster(ctx, id)
	var replayed []client.Decrypted
	switch m := m.(type) {
	case *client.Text:
		out = result{"type": "Text", "plaintext": m.Data, "sender": showClientID(m.Sender), "identity": members.identity(m.Sender)}
		replayed = m.Replayed
	case *client.CommitResult:
		out = result{"type": "Commit", "isActive": m.Active, "identity": members.identity(m.Committer)}
		replayed = m.Replayed
	case *client.ProposalResult:
		out = result{"type": "Proposal"}
		if m.Sender.Type == mls.SenderMember && members != nil {
			for _, member := range members.members {
				if member.Leaf == m.Sender.Leaf {
					out["identity"] = members.identity(member.ClientID)
				}
			}
		}
		if m.Delay != nil {
			out["delay"] = int64(*m.Delay / time.Second)
		}
		replayed = m.Replayed
	case *client.Buffered:
		return nil, errKept[m.Reason]
	}
	if len(replayed) > 0 {
		out["bufferedMessages"] = i.showAll(ctx, id, replayed)
	}
	return out, nil
}

// withReplayed adds what a new epoch made readable.
func (i *instance) withReplayed(ctx context.Context, r *request, out result, replayed []client.Decrypted) result {
	if len(replayed) > 0 {
		out["bufferedMessages"] = i.showAll(ctx, core.ConversationID(r.Conversation), replayed)
	}
	return out
}
