// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/providers/pure"
)

// A person plays one member in the examples that follow the first, by the calls that
// the first spells out. Everything lives in memory.
type person struct {
	name string
	key  core.Signer
	env  *mls.Env
	able mls.Capabilities
}

func newPerson(name string) *person {
	provider := pure.New()
	key, err := provider.GenerateKey(context.Background(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign, Label: name})
	check(err)
	p := &person{name: name, key: key.(core.Signer), able: mls.DefaultCapabilities(provider.Suites())}
	p.env = &mls.Env{
		Suites: provider,
		Auth:   trusting{},
		Signer: func(context.Context, []byte) (core.Signer, error) { return p.key, nil },
		Fetch: func(_ context.Context, queries []record.Query) ([][]record.Record, error) {
			return make([][]record.Record, len(queries)), nil // nothing is stored
		},
		Now: time.Now(),
	}
	return p
}

// lifetime is four weeks, and an hour back for clocks that are late.
func (p *person) lifetime() mls.Lifetime {
	return mls.Lifetime{
		NotBefore: uint64(p.env.Now.Add(-time.Hour).Unix()),
		NotAfter:  uint64(p.env.Now.Add(28 * 24 * time.Hour).Unix()),
	}
}

func (p *person) keyPackage(suite core.SuiteID) *mls.KeyPackageBundle {
	s, err := p.env.Suites.Suite(suite)
	check(err)
	bundle, err := mls.NewKeyPackage(context.Background(), mls.KeyPackageParams{
		Suite: s, Signer: p.key, Credential: core.BasicCredential(core.ClientID(p.name)),
		Capabilities: p.able, Lifetime: p.lifetime(),
	})
	check(err)
	return bundle
}

func (p *person) create(suite core.SuiteID, id string, extensions ...mls.Extension) *mls.Group {
	s, err := p.env.Suites.Suite(suite)
	check(err)
	g, _, err := mls.Create(context.Background(), p.env, mls.CreateParams{
		Suite: s, GroupID: []byte(id), Signer: p.key, Credential: core.BasicCredential(core.ClientID(p.name)),
		Capabilities: p.able, Extensions: extensions, Lifetime: p.lifetime(), Config: mls.DefaultConfig,
	})
	check(err)
	return g
}

// commit commits the proposals and all that wait, as if the service had accepted it.
func (p *person) commit(g *mls.Group, proposals ...mls.Proposal) (*mls.Group, mls.CommitBundle) {
	g, pending, _, err := g.Commit(context.Background(), p.env, mls.CommitParams{Proposals: proposals})
	check(err)
	return p.merge(g, pending)
}

func (p *person) merge(g *mls.Group, pending *mls.PendingCommit) (*mls.Group, mls.CommitBundle) {
	sent, err := pending.Bundle(context.Background(), p.env, g)
	check(err)
	g, _, _, err = g.Merge(context.Background(), p.env, pending)
	check(err)
	return g, sent
}

func (p *person) process(g *mls.Group, message []byte) (*mls.Group, mls.Processed) {
	m, err := mls.UnmarshalMLSMessage(message)
	check(err)
	g, processed, _, err := g.Process(context.Background(), p.env, m)
	check(err)
	return g, processed
}

// join enters by a Welcome; before is the group of ours that the new one follows, if
// it follows one.
func (p *person) join(welcome []byte, bundle *mls.KeyPackageBundle, before *mls.Group) (*mls.Group, *mls.Joined) {
	m, err := mls.UnmarshalMLSMessage(welcome)
	check(err)
	g, joined, _, err := mls.Join(context.Background(), p.env, mls.JoinParams{
		Welcome: m.Welcome, Config: mls.DefaultConfig,
		KeyPackage: func(context.Context, []byte) (*mls.KeyPackageBundle, error) { return bundle, nil },
		Predecessor: func(context.Context, []byte) (*mls.Group, *mls.Env, error) {
			if before == nil {
				return nil, nil, core.ErrNotFound
			}
			return before, p.env, nil
		},
	})
	check(err)
	return g, joined
}
