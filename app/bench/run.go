// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

// Options say what to measure.
type Options struct {
	Suites []core.SuiteID
	Stores []string // "memory", "sqlite", "postgres"
	Sizes  []int    // of groups: 2 or more members
	Rounds int      // the systems take turns in each
	// Peer is the folder of Core Crypto's benchmark, with bench-cc.mjs and its packages; empty:
	// there is none. It has no more than PeerSize members, as what it takes grows with the square.
	Peer     string
	PeerSize int
	// Postgres is the data source name of a database, see [postgres.Open]; schemas that are
	// called bench1, bench2 and so on are made in it. Empty: there is none.
	Postgres string
	// Keys makes the signature keys of clients, in a token for example, which Signer names;
	// nil: they are in software.
	Keys   core.CryptoProvider
	Signer string
}

// A bench is what all turns have in common.
type bench struct {
	Options
	folder   string // of databases
	suites   core.SuiteSource
	software core.CryptoProvider
	keys     core.CryptoProvider
	serial   int                       // of stores
	pool     map[core.SuiteID][][]byte // key packages of clients that are nowhere else
}

// Run measures, and calls progress before each turn with what it is and how many of how many
// are done.
func Run(ctx context.Context, o Options, progress func(what string, done, total int)) (_ []Row, err error) {
	b := &bench{Options: o, suites: pure.New(), software: pure.New(), keys: o.Keys, pool: map[core.SuiteID][][]byte{}}
	if b.keys == nil {
		b.keys = b.software
	}
	for _, n := range o.Sizes {
		if n < 2 {
			return nil, fmt.Errorf("a group of %d: 2 members or more are needed: %w", n, core.ErrInvalid)
		}
	}
	if b.folder, err = os.MkdirTemp("", "conclave-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.folder)
	var all tally
	plan := b.plan()
	for round := range o.Rounds {
		for i := range plan {
			p := plan[i]
			progress(p.what, round*len(plan)+i, o.Rounds*len(plan))
			rows, err := p.do(ctx)
			if err != nil {
				return nil, err
			}
			all.add(rows...)
		}
	}
	return all.medians(), nil
}

// A step is one turn of a round.
type step struct {
	what string
	do   func(context.Context) ([]Row, error)
}

// plan is a round: for each suite, store and size each system has its turn.
func (b *bench) plan() (steps []step) {
	for _, suite := range b.Suites {
		for _, store := range b.Stores {
			for _, n := range append([]int{0}, b.Sizes...) {
				of := Row{System: Ours, Suite: int(suite), Store: store, Signer: b.Signer, N: n}
				what := fmt.Sprintf("suite %d, %s, %d members", suite, store, n)
				ours := func(tree string, f func(context.Context, *turn) error) {
					of := of
					of.Tree = tree
					steps = append(steps, step{what + ", " + tree, func(ctx context.Context) ([]Row, error) {
						t := &turn{of: of}
						err := f(ctx, t)
						return t.medians(), err
					}})
				}
				theirs := func(parts string) {
					of := of
					of.System = Peer
					steps = append(steps, step{what + ", Core Crypto", func(ctx context.Context) ([]Row, error) {
						return b.peer(ctx, of, parts)
					}})
				}
				compare := b.Peer != "" && b.Signer == "" && store != "postgres"
				switch {
				case n == 0:
					ours("", b.single)
					if compare {
						theirs("basic")
					}
				default:
					ours("bare", b.bare)
					if compare && n <= b.PeerSize {
						theirs("mls,app")
					}
					if compare && n <= peerWarm {
						theirs("warm")
					}
				}
			}
		}
	}
	return steps
}

// peerWarm is the largest warm group of Core Crypto's: all of its members commit, and all
// of the others receive it.
const peerWarm = 100

// packages are n key packages of clients of which there is nothing else, the same ones each
// time.
func (b *bench) packages(ctx context.Context, id core.SuiteID, n int) ([][]byte, error) {
	suite, err := b.suites.Suite(id)
	if err != nil {
		return nil, err
	}
	for len(b.pool[id]) < n {
		name := fmt.Sprintf("member %d", len(b.pool[id]))
		p, err := keyPackage(ctx, suite, b.software, core.ClientID(name))
		if err != nil {
			return nil, err
		}
		b.pool[id] = append(b.pool[id], (&mls.MLSMessage{KeyPackage: p.KeyPackage}).Marshal())
	}
	return b.pool[id][:max(n, 0)], nil
}

func keyPackage(ctx context.Context, suite core.Suite, keys core.CryptoProvider, id core.ClientID) (*mls.KeyPackageBundle, error) {
	signer, err := newSigner(ctx, suite, keys)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return mls.NewKeyPackage(ctx, mls.KeyPackageParams{
		Suite: suite, Signer: signer, Credential: core.BasicCredential(id),
		Capabilities: mls.DefaultCapabilities([]core.SuiteID{suite.ID()}),
		Lifetime:     mls.Lifetime{NotBefore: uint64(now.Add(-time.Hour).Unix()), NotAfter: uint64(now.Add(24 * time.Hour).Unix())},
	})
}

func newSigner(ctx context.Context, suite core.Suite, keys core.CryptoProvider) (core.Signer, error) {
	key, err := keys.GenerateKey(ctx, core.KeySpec{Algorithm: suite.Parameters().Signature, Use: core.UseSign})
	if err != nil {
		return nil, err
	}
	return key.(core.Signer), nil
}
