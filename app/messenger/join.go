// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
)

// Join enters a conversation by an external commit, without being invited: with
// another device of somebody who is in it, or again after its state here was lost.
// It takes the whole id. core.ErrNotFound: no member has published what it takes.
func (m *Messenger) Join(ctx context.Context, id core.ConversationID) error {
	if err := m.SignIn(ctx); err != nil {
		return err
	}
	if known, err := m.Find(ctx, string(id)); err == nil {
		id = known
	}
	info, err := m.service.GroupInfo(ctx, id)
	if err != nil {
		return fmt.Errorf("conversation %q: %w", id, err)
	}
	parsed, err := mls.UnmarshalMLSMessage(info)
	if err != nil {
		return err
	}
	if g := parsed.GroupInfo; g == nil || string(g.GroupContext.GroupID) != string(id) {
		return fmt.Errorf("the delivery service gave the GroupInfo of another conversation than %q: %w", id, mls.ErrWrongGroup)
	}
	kind, err := m.kind(ctx, parsed.GroupInfo.GroupContext.Suite)
	if err != nil {
		return err
	}
	accepted := false
	err = m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, result, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{Credential: kind})
		if err != nil {
			return err
		}
		accepted = true
		if err := took(ctx, tx, c.ID(), result, 0); err != nil {
			return err
		}
		return edit(ctx, tx, func(n *note) { n.inside(c.ID()) })
	})
	return halfway(accepted, err)
}

// Rejoin is [Messenger.Join] for a conversation that is known here, by its name, and
// whose state here is of no use: commits are missing, or records are damaged. What
// was written in the epochs that we missed stays unread.
func (m *Messenger) Rejoin(ctx context.Context, name string) error {
	if err := m.SignIn(ctx); err != nil {
		return err
	}
	id, err := m.Find(ctx, name)
	if err != nil {
		return err
	}
	return m.rejoin(ctx, id, client.JoinConfig{})
}

func (m *Messenger) rejoin(ctx context.Context, id core.ConversationID, cfg client.JoinConfig) (err error) {
	if cfg.Credential, err = m.kind(ctx, m.suiteOf(ctx, id)); err != nil {
		return err
	}
	result, err := m.client.RejoinWith(ctx, id, cfg)
	if err != nil {
		return err
	}
	return halfway(true, m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if err := took(ctx, tx, id, result, 0); err != nil {
			return err
		}
		return edit(ctx, tx, func(n *note) {
			n.inside(id)
			n.chat(id).Reused = false
		})
	}))
}

// A Rotation is what became of one conversation.
type Rotation struct {
	ID    core.ConversationID
	Epoch uint64
	Err   error // nil: the new key is in use there
}

// ErrCertified: a fresh key needs a certificate, and that takes an enrolment.
var ErrCertified = fmt.Errorf("our credential is a certificate, which a fresh key does not have: %w", core.ErrUnsupported)

// Rotate makes a fresh signature key with a new credential, takes both into use in
// every conversation with a commit of its own, and replaces the key packages. A
// conversation that fails does not stop the others; Rotate again. ErrCertified: see
// [Messenger.Enroll].
func (m *Messenger) Rotate(ctx context.Context) (done []Rotation, err error) {
	if err := m.Sync(ctx); err != nil {
		return nil, err
	}
	ids, err := m.client.Conversations(ctx)
	if err != nil {
		return nil, err
	}
	suites := []core.SuiteID{m.suite}
	for _, id := range ids {
		info, err := m.client.Info(ctx, id)
		if err != nil {
			return nil, err
		}
		if info.Recovering {
			return nil, client.ErrRecovering
		}
		if !slices.Contains(suites, info.Suite) {
			suites = append(suites, info.Suite)
		}
	}
	for _, s := range suites {
		kind, err := m.kind(ctx, s)
		if err == nil && kind != core.CredentialBasic {
			err = ErrCertified
		}
		if err != nil {
			return nil, err
		}
	}
	err = m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		for _, s := range suites {
			if _, err := tx.NewCredential(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m.adopt(ctx, true)
}
