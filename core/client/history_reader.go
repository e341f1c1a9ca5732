// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// onlyReads stands for the keys of a history client, which has none.
type onlyReads struct{}

func (onlyReads) Algorithms(context.Context) ([]core.KeyAlgorithm, error) { return nil, nil }

func (onlyReads) GenerateKey(context.Context, core.KeySpec) (core.PrivateKey, error) {
	return nil, ErrHistoryClient
}

func (onlyReads) OpenKey(context.Context, core.KeyRef, core.Secret) (core.PrivateKey, error) {
	return nil, ErrHistoryClient
}

// canCommit says why not.
func (c *Client) canCommit() error {
	if c.keys == (core.CryptoProvider)(onlyReads{}) {
		return ErrHistoryClient
	}
	if !c.online() {
		return ErrNoTransport
	}
	return nil
}

// OpenHistory opens a client that reads an era of a conversation's history: enter by
// [Transaction.ProcessWelcome] with the Welcome of the commit that added the history
// client, then give [Transaction.DecryptMessage] every message after that commit, in the
// order of the delivery service. The Welcome is CommitBundle.Welcome, as it was given to
// [Transport] with that commit: the delivery service, or who else shall let others
// read, keeps it. Whatever signs, sends or commits is [ErrHistoryClient].
//
// The store must be empty, or that of the same history client; one in memory will do,
// and it holds the secret. Keys, Transport and PrepareHistory of the configuration are
// not used. The errors are those of [ParseHistorySecret] and [Open]; ErrInitialized if
// the store is another client's.
func OpenHistory(ctx context.Context, cfg Config, secret HistorySecret) (*Client, error) {
	if cfg.Suites == nil {
		return nil, fmt.Errorf("client: suites are needed: %w", core.ErrInvalid)
	}
	b, err := openHistory(cfg.Suites, secret.Data.Bytes())
	if err != nil {
		return nil, err
	}
	defer wipeBundle(b)
	leaf := b.KeyPackage.LeafNode
	suite, err := cfg.Suites.Suite(b.KeyPackage.Suite)
	if err != nil {
		return nil, err
	}
	cfg.Keys, cfg.Transport, cfg.PrepareHistory = onlyReads{}, nil, nil
	cfg.RolledBack = NothingLost // who only reads uses no key twice
	c, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	id := core.ClientID(leaf.Credential.Identity)
	err = c.transaction(ctx, func(ctx context.Context, t *Transaction) error {
		return t.do(ctx, func() error {
			who, err := t.identity(ctx)
			switch {
			case err != nil:
				return err
			case who.id == id:
				return nil
			case who.id != "":
				return ErrInitialized
			}
			who.id = id
			own, err := t.putCredential(ctx, &who, suite.Parameters().Scheme, leaf.Credential, leaf.SignatureKey)
			if err != nil {
				return err
			}
			t.putIdentity(who)
			noKey := storedKey{ref: "history:"}
			t.segment.put(at(tableSignatureKey, string(own.SignatureKey)), theOnly, noKey.encode())
			pool, err := t.pool(ctx)
			if err != nil {
				return err
			}
			(&maker{pool: pool, suite: suite, own: own, lifetime: leaf.Lifetime}).put(b)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}
