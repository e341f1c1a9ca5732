// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// poolSize is how many key packages wait at the service to be used once.
const poolSize = 20

// ErrNotRegistered: Register was not called, or did not come to its end.
var ErrNotRegistered = fmt.Errorf("not registered at the delivery service: %w", core.ErrNotFound)

// Register makes the identity, if there is none, makes it known to the delivery
// service and publishes key packages, so that others can add us. It may be called
// again until it succeeds. core.ErrConflict: we are somebody else already.
// core.ErrDenied: the service knows another client of this id. ErrPerson: the issuer wants
// more than the id: see [Messenger.Enroll], which comes first then.
func (m *Messenger) Register(ctx context.Context, id core.ClientID) error {
	if _, err := m.client.ClientID(ctx); errors.Is(err, client.ErrNotInitialized) {
		info, err := m.issuer.Describe(ctx)
		if err == nil && info.Type == core.CredentialX509 {
			_, err = m.Enroll(ctx, client.IssueParams{ClientID: id}, nil)
		}
		if err != nil {
			return err
		}
	}
	var key []byte
	err := m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		switch have, err := tx.ClientID(ctx); {
		case errors.Is(err, client.ErrNotInitialized):
			if err := tx.InitMLS(ctx, id, m.suite); err != nil {
				return err
			}
		case err != nil:
			return err
		case have != id:
			return fmt.Errorf("this is %q already: %w", have, core.ErrConflict)
		}
		return edit(ctx, tx, func(n *note) {
			if len(n.Key) == 0 {
				n.Key = make([]byte, 32)
				_, _ = rand.Read(n.Key) // never fails, see crypto/rand
			}
			key = n.Key
		})
	})
	if err != nil {
		return err
	}
	token, err := m.service.Register(ctx, id, core.NewSecret(key))
	if err != nil {
		return err
	}
	defer token.Wipe()
	err = m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return edit(ctx, tx, func(n *note) { n.Token = token.Bytes() })
	})
	if err != nil {
		return err
	}
	return m.publish(ctx, true)
}

// Abandon deletes an identity of another id, which the service has not accepted and
// which is in no conversation, so that there can be another one. If it has, the
// messenger is of no use any more: open another.
func (m *Messenger) Abandon(ctx context.Context, but core.ClientID) (done bool, err error) {
	have, err := m.client.ClientID(ctx)
	if errors.Is(err, client.ErrNotInitialized) || err == nil && have == but {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	n, err := parseNote(m.client.Data(ctx))
	if err != nil || len(n.Token) > 0 {
		return false, err
	}
	ids, err := m.client.Conversations(ctx)
	if err != nil || len(ids) > 0 {
		return false, err
	}
	return true, m.client.Wipe(ctx)
}

// publish tops the key packages at the service up. With fresh ones only, those of
// before are thrown away, there and then here. Another process may do the same: what the
// service has last must be what is kept here.
func (m *Messenger) publish(ctx context.Context, fresh bool) error {
	for range publishTries {
		last, err := m.publishOnce(ctx, fresh)
		if err != nil || !fresh {
			return err
		}
		n, err := parseNote(m.client.Data(ctx))
		if err != nil || bytes.Equal(n.LastResort, last) {
			return err
		}
	}
	return fmt.Errorf("key packages: others replace them all the time: %w", core.ErrConflict)
}

const publishTries = 5

// publishOnce gives the reference of the key package of last resort that it has published.
func (m *Messenger) publishOnce(ctx context.Context, fresh bool) (last []byte, err error) {
	kind, err := m.kind(ctx, m.suite)
	if err != nil {
		return nil, err
	}
	var r renewal
	err = m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
		if fresh {
			r, err = m.renewPackages(ctx, tx, kind)
		} else {
			r.fresh, err = tx.KeyPackages(ctx, m.suite, kind, poolSize)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var packages [][]byte
	for _, k := range r.fresh {
		packages = append(packages, k.Message)
	}
	if !fresh {
		_, err = m.service.Upload(ctx, packages, nil)
		return nil, err
	}
	if _, err = m.service.Replace(ctx, packages, r.last.Message); err != nil || len(r.old) == 0 {
		return r.last.Ref, err
	}
	if err := m.welcomes(ctx); err != nil && !errors.Is(err, ErrFull) { // those that need the old ones
		return nil, err
	}
	return r.last.Ref, m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return tx.DeleteKeyPackages(ctx, r.old...)
	})
}

// A renewal is key packages that take the place of others.
type renewal struct {
	fresh []client.KeyPackage
	last  client.KeyPackage // the last resort
	old   [][]byte          // references
}

func (m *Messenger) renewPackages(ctx context.Context, tx *client.Transaction, kind core.CredentialType) (r renewal, err error) {
	old, err := stored(ctx, tx)
	if err != nil {
		return r, err
	}
	for _, k := range old {
		if k.Suite == m.suite && !k.LastResort {
			r.old = append(r.old, k.Ref)
		}
	}
	if r.fresh, err = tx.NewKeyPackages(ctx, m.suite, kind, poolSize); err != nil {
		return r, err
	}
	if r.last, err = tx.NewLastResortKeyPackage(ctx, m.suite, kind); err != nil {
		return r, err
	}
	err = edit(ctx, tx, func(n *note) {
		if len(n.LastResort) > 0 {
			r.old = append(r.old, n.LastResort)
		}
		n.LastResort = r.last.Ref
	})
	return r, err
}
