// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A Loss is what is left to do after the store was put back to an older state.
type Loss struct {
	Conversations []core.ConversationID // to be joined again
	KeyPackages   bool                  // are to be made again
}

// Any says that there is something.
func (l Loss) Any() bool { return len(l.Conversations) > 0 || l.KeyPackages }

// Lost tells what is left to do for [Messenger.Recover].
func (m *Messenger) Lost(ctx context.Context) (l Loss, err error) {
	if l.Conversations, err = m.client.Recovering(ctx); err != nil {
		return l, err
	}
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return l, err
	}
	if l.KeyPackages = n.Renew; n.Renew || len(n.LastResort) == 0 {
		return l, nil
	}
	err = m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.StoredKeyPackages(ctx)
		l.KeyPackages = !slices.ContainsFunc(list, func(k client.KeyPackage) bool { return bytes.Equal(k.Ref, n.LastResort) })
		return err
	})
	return l, err
}

// A Return is what became of a conversation that was to be joined again.
type Return struct {
	ID    core.ConversationID
	Epoch uint64
	Left  bool // we were leaving it, and that had come to its end: it is deleted here
	// Err is nil if we are back. client.ErrLeafMoves: see Recover. client.ErrLeafGone: we
	// were removed, or have left; Join comes back, Leave deletes it here. For
	// client.ErrNoExternalPub a member has to remove us and to add us again.
	Err error
}

// Recover goes on after the store was put back to an older state and the client was
// opened with client.Recover: fresh key packages take the place of those at the service,
// and every conversation is joined again in which we still are. A conversation that fails
// does not stop the others; call it again.
//
// Where our new leaf would be at another place than the old one, it is left alone unless
// moved says so: members with Core Crypto 10.3 would go on without the others. There
// it is better that a member removes us and adds us again, which needs nothing here.
func (m *Messenger) Recover(ctx context.Context, moved bool) (list []Return, err error) {
	if err := m.SignIn(ctx); err != nil {
		return nil, err
	}
	lost, err := m.Lost(ctx)
	if err != nil {
		return nil, err
	}
	if lost.KeyPackages {
		if err := m.renew(ctx); err != nil {
			return nil, err
		}
	}
	if err := m.welcomes(ctx); err != nil && !errors.Is(err, ErrFull) { // some may have us back already
		return nil, err
	}
	ids, err := m.client.Recovering(ctx)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		m.progress("conversations joined again", i, len(ids))
		r := Return{ID: id}
		if r.Epoch, r.Left, r.Err = m.comeBack(ctx, id, moved); ctx.Err() != nil {
			return list, ctx.Err()
		}
		list = append(list, r)
	}
	return list, nil
}

// renew publishes fresh key packages, and remembers until then that it has to be done.
func (m *Messenger) renew(ctx context.Context) error {
	still := func(is bool) error {
		return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			return edit(ctx, tx, func(n *note) { n.Renew = is })
		})
	}
	if err := still(true); err != nil {
		return err
	}
	if err := m.withKey(ctx, m.suite, func() error { return m.publish(ctx, true) }); err != nil {
		return err
	}
	return still(false)
}

func (m *Messenger) comeBack(ctx context.Context, id core.ConversationID, moved bool) (epoch uint64, left bool, err error) {
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return 0, false, err
	}
	err = m.withKey(ctx, m.suiteOf(ctx, id), func() error {
		return m.rejoin(ctx, id, client.JoinConfig{Member: true, InPlace: !moved})
	})
	if errors.Is(err, client.ErrLeafGone) && n.chat(id).Leaving {
		return 0, true, m.forget(ctx, id)
	}
	if err != nil {
		return 0, false, err
	}
	info, err := m.client.Info(ctx, id)
	return info.Epoch, false, err
}

// withKey tries something with our newest credential, and with a new one if the key of
// that is gone and it is no certificate.
func (m *Messenger) withKey(ctx context.Context, suite core.SuiteID, try func() error) error {
	err := try()
	if !errors.Is(err, client.ErrKeyGone) {
		return err
	}
	if kind, kindErr := m.kind(ctx, suite); kindErr != nil || kind != core.CredentialBasic {
		return errors.Join(err, kindErr)
	}
	err = m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewCredential(ctx, suite)
		return err
	})
	if err != nil {
		return err
	}
	return try()
}

// forget deletes a conversation here. Nobody is told.
func (m *Messenger) forget(ctx context.Context, id core.ConversationID) error {
	return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return tx.WipeConversation(ctx, id)
	})
}

// SweepKeys deletes keys outside the store that nothing names: see
// [client.Client.SweepKeys].
func (m *Messenger) SweepKeys(ctx context.Context) (deleted int, err error) {
	return m.client.SweepKeys(ctx)
}

// recovering is client.ErrRecovering for a conversation that is to be joined again.
func (m *Messenger) recovering(ctx context.Context, id core.ConversationID) error {
	info, err := m.client.Info(ctx, id)
	if err == nil && info.Recovering {
		return client.ErrRecovering
	}
	return nil
}
