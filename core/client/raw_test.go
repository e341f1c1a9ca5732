// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/providers/pure"
)

// A raw is a member that does what our client does not: the engine with its hands
// free, in memory.
type raw struct {
	*world
	id     core.ClientID
	signer core.Signer
	env    *mls.Env
	group  *mls.Group
}

func (w *world) raw(id core.ClientID) *raw {
	w.Helper()
	key, err := pure.New().GenerateKey(w.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	w.must(err)
	r := &raw{world: w, id: id, signer: key.(core.Signer)}
	r.env = &mls.Env{
		Suites: pure.New(), Auth: client.Basic{},
		Signer: func(context.Context, []byte) (core.Signer, error) { return r.signer, nil },
		Fetch: func(_ context.Context, q []record.Query) ([][]record.Record, error) {
			return make([][]record.Record, len(q)), nil // all is in memory
		},
	}
	return r
}

func (r *raw) suite() core.Suite {
	r.Helper()
	s, err := r.env.Suites.Suite(suite1)
	r.must(err)
	return s
}

func (r *raw) bundle() *mls.KeyPackageBundle {
	r.Helper()
	b, err := mls.NewKeyPackage(r.Context(), mls.KeyPackageParams{
		Suite: r.suite(), Signer: r.signer, Credential: core.BasicCredential(r.id), Capabilities: mls.DefaultCapabilities(pure.New().Suites()),
		Lifetime: mls.Lifetime{NotBefore: uint64(time.Now().Add(-time.Hour).Unix()), NotAfter: uint64(time.Now().Add(time.Hour).Unix())},
	})
	r.must(err)
	return b
}

// joinBy has a device add the member.
func (r *raw) joinBy(by interface {
	Transaction(context.Context, func(context.Context, *client.Transaction) error) error
}) {
	r.Helper()
	b := r.bundle()
	r.must(by.Transaction(r.Context(), func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, chat)
		if err == nil {
			_, err = c.AddMembers(ctx, (&mls.MLSMessage{KeyPackage: b.KeyPackage}).Marshal())
		}
		return err
	}))
	welcome, ok := r.service.Welcome(r.id)
	if !ok {
		r.Fatal("no Welcome")
	}
	m, err := mls.UnmarshalMLSMessage(welcome.Message)
	r.must(err)
	r.group, _, _, err = mls.Join(r.Context(), r.env, mls.JoinParams{
		Welcome: m.Welcome, Config: r.policy,
		KeyPackage: func(context.Context, []byte) (*mls.KeyPackageBundle, error) { return b, nil },
	})
	r.must(err)
}

// propose publishes a proposal.
func (r *raw) propose(p mls.Proposal) mls.ProposalRef {
	r.Helper()
	g, sent, _, err := r.group.Propose(r.Context(), r.env, p, nil)
	r.must(err)
	r.group = g
	if o := r.service.SendMessage(r.id, chat, string(sent.Ref), sent.Message); o.Kind != client.Accepted {
		r.Fatal(o)
	}
	return sent.Ref
}

// commit publishes a commit.
func (r *raw) commit(p mls.CommitParams) []byte {
	r.Helper()
	g, pending, _, err := r.group.Commit(r.Context(), r.env, p)
	r.must(err)
	b, err := pending.Bundle(r.Context(), r.env, g)
	r.must(err)
	if o := r.service.SubmitCommit(r.id, chat, client.CommitBundle{Commit: b.Commit, Welcome: b.Welcome, GroupInfo: b.GroupInfo}); o.Kind != client.Accepted {
		r.Fatal(o)
	}
	r.group, _, _, err = g.Merge(r.Context(), r.env, pending)
	r.must(err)
	return b.Commit
}
