// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A Health is what can be said of the messenger's state without asking the service.
type Health struct {
	ID         core.ClientID // empty: there is no identity yet
	Registered bool          // Register came to its end
	// KeyPackages are those of our suite that may be used once and are valid; Expires
	// is when the first of them no longer is, Expired counts those that are not.
	KeyPackages int
	Expires     time.Time
	Expired     int
	LastResort  time.Time // when it expires; zero: there is none
	Key         []byte    // public half of our newest signature key
	Chats       []Waiting
}

// Waiting is what waits in a conversation.
type Waiting struct {
	ID           core.ConversationID
	Commit, Join bool // of ours, for the service's answer
	Proposals    int  // to be committed
	Buffered     int  // messages that came before what they need
	Unsent       int
	Leaving      bool
	Recovering   bool // it is to be joined again: see Recover

	Key    []byte // public half of our signature key there; nil: it is not looked at
	KeyErr error  // why that does not sign
}

// errUndone undoes a transaction that was made to see whether it can be.
var errUndone = errors.New("undone")

// Health looks at everything that is kept, so that what is damaged shows:
// core.ErrDamaged. It also has our newest key, and that of each conversation, sign
// something that is thrown away.
func (m *Messenger) Health(ctx context.Context) (h Health, err error) {
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return h, err
	}
	h.Registered = len(n.Token) > 0
	if h.ID, err = m.client.ClientID(ctx); errors.Is(err, client.ErrNotInitialized) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	if _, err := m.client.Credentials(ctx, client.CredentialFilter{}); err != nil {
		return h, err
	}
	var packages []client.KeyPackage
	err = m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
		packages, err = tx.StoredKeyPackages(ctx)
		return err
	})
	if err != nil {
		return h, err
	}
	kind, err := m.kind(ctx, m.suite)
	if err != nil {
		return h, err
	}
	if err := m.signs(ctx, m.suite, kind, 0); err != nil {
		return h, err
	}
	if h.Key, err = m.client.ClientPublicKey(ctx, m.suite, kind); err != nil {
		return h, err
	}
	tried := map[client.CredentialRef]error{}
	now := time.Now()
	for _, k := range packages {
		switch {
		case k.LastResort && bytes.Equal(k.Ref, n.LastResort):
			h.LastResort = k.Expires
		case k.LastResort || k.Suite != m.suite:
		case !k.Expires.After(now):
			h.Expired++
		default:
			h.KeyPackages++
			if h.Expires.IsZero() || k.Expires.Before(h.Expires) {
				h.Expires = k.Expires
			}
		}
	}
	ids, err := m.client.Conversations(ctx)
	if err != nil {
		return h, err
	}
	for _, id := range ids {
		w := Waiting{ID: id, Leaving: n.chat(id).Leaving}
		info, err := m.client.Info(ctx, id)
		if errors.Is(err, core.ErrNotFound) { // we are only about to join
			w.Join = true
		} else if err != nil {
			return h, err
		} else {
			w.Recovering = info.Recovering
			w.Commit, w.Join, w.Proposals, w.Buffered = info.PendingCommit, info.PendingJoin, info.PendingProposals, info.Buffered
			if _, err := m.client.ClientIDs(ctx, id); err != nil {
				return h, err
			}
			own, err := m.client.Credential(ctx, id)
			if err != nil {
				return h, err
			}
			if !w.Recovering {
				w.Key = own.SignatureKey
				if _, again := tried[own.Ref]; !again {
					tried[own.Ref] = m.signs(ctx, info.Suite, own.Credential.Type, own.Ref)
				}
				w.KeyErr = tried[own.Ref]
			}
		}
		if w.Unsent, err = m.client.Unsent(ctx, id); err != nil {
			return h, err
		}
		if w.Commit && w.Unsent > 0 {
			w.Unsent-- // it is told of already
		}
		h.Chats = append(h.Chats, w)
	}
	return h, nil
}

// signs has the key of a credential, 0 for the newest, sign a key package that nobody gets.
func (m *Messenger) signs(ctx context.Context, suite core.SuiteID, kind core.CredentialType, ref client.CredentialRef) error {
	err := m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		o := client.KeyPackageOptions{Suite: suite, Credential: kind, CredentialRef: ref}
		if _, err := tx.MakeKeyPackages(ctx, o, 1); err != nil {
			return err
		}
		return errUndone
	})
	if errors.Is(err, errUndone) {
		return nil
	}
	return err
}
