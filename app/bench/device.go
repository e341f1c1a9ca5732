// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// A counting keystore counts what is handed to Apply: keys and values.
type counting struct {
	core.Keystore
	applied atomic.Int64
}

func (c *counting) Apply(ctx context.Context, b core.Batch) error {
	n := 0
	for _, e := range b.Expect {
		n += len(e.Key)
	}
	for _, d := range b.Dels {
		n += len(d.Prefix)
	}
	for _, p := range b.Puts {
		n += len(p.Key) + len(p.Value)
	}
	c.applied.Add(int64(n))
	return c.Keystore.Apply(ctx, b)
}

// accepting is a delivery service that takes everything at once, and keeps the last commit.
type accepting struct{ last client.CommitBundle }

func (a *accepting) SubmitCommit(_ context.Context, _ core.ConversationID, _ string, b client.CommitBundle) (client.Outcome, error) {
	a.last = b
	return client.Outcome{Kind: client.Accepted}, nil
}

func (a *accepting) SendMessage(context.Context, core.ConversationID, string, []byte) (client.Outcome, error) {
	return client.Outcome{Kind: client.Accepted}, nil
}

func (a *accepting) Drain(context.Context, core.ConversationID) error { return nil }

// A device is a client on a store of its own.
type device struct {
	*client.Client
	accepting
	id    core.ClientID
	place string // of its store
	store *counting
}

// wrapper is the key of all stores: to derive one from a passphrase is not measured here.
func wrapper() (core.KeyWrapper, error) { return seal.RawKey(core.NewSecret(make([]byte, 32))) }

// open opens the store at a place, in an engine, and the client in it.
func (b *bench) open(ctx context.Context, engine, place string) (_ *device, err error) {
	d := &device{place: place}
	var ks core.Keystore
	switch engine {
	case "memory":
		ks = memory.New()
	case "sqlite":
		ks, err = sqlite.Open(ctx, filepath.Join(b.folder, place))
	case "postgres":
		ks, err = postgres.Open(ctx, b.Postgres+"&schema="+place)
	default:
		err = fmt.Errorf("no store is called %q: %w", engine, core.ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	d.store = &counting{Keystore: ks}
	w, err := wrapper()
	if err != nil {
		return nil, err
	}
	sealed, err := seal.Open(ctx, d.store, w, "bench")
	if err != nil {
		return nil, err
	}
	d.Client, err = client.Open(ctx, client.Config{Store: sealed, Suites: b.suites, Keys: b.keys, Transport: d})
	return d, err
}

// place names a store that there was not before.
func (b *bench) place() string {
	b.serial++
	return fmt.Sprintf("bench%d", b.serial)
}

// device is a new client with a credential for the suite of the turn.
func (b *bench) device(ctx context.Context, t *turn) (*device, error) {
	d, err := b.open(ctx, t.of.Store, b.place())
	if err != nil {
		return nil, err
	}
	d.id = core.ClientID(rand.Text())
	return d, d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, d.id, core.SuiteID(t.of.Suite))
	})
}

// reopen is the same client on the same store, which was closed.
func (b *bench) reopen(ctx context.Context, t *turn, d *device) (*device, error) {
	again, err := b.open(ctx, t.of.Store, d.place)
	if err != nil {
		return nil, err
	}
	again.id = d.id
	return again, nil
}

func (d *device) close(ctx context.Context) error {
	err := d.Close(ctx)
	if err2 := d.store.Close(); err == nil {
		err = err2
	}
	return err
}

// in does something in a conversation, in one transaction.
func (d *device) in(ctx context.Context, id core.ConversationID, f func(context.Context, *client.Conversation) error) error {
	return d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, id)
		if err != nil {
			return err
		}
		return f(ctx, c)
	})
}

func (d *device) receive(ctx context.Context, id core.ConversationID, message []byte) error {
	return d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.DecryptMessage(ctx, id, message)
		return err
	})
}

// keyPackage is a key package of ours, for another member to add us with.
func (d *device) keyPackage(ctx context.Context, suite core.SuiteID) (message []byte, err error) {
	err = d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		made, err := tx.NewKeyPackages(ctx, suite, core.CredentialBasic, 1)
		if err != nil {
			return err
		}
		message = made[0].Message
		return nil
	})
	return message, err
}
