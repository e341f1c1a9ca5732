// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/seal"
)

// Config is what a client is made of. Store, Suites and Keys must be there.
type Config struct {
	Store  *seal.Store // of the records; the client closes it, not the keystore behind it
	Suites core.SuiteSource
	Keys   core.CryptoProvider // of the signature keys

	// Authenticator says whose a credential is, and whether to believe it; nil:
	// e2ei.Authenticator{}, which takes basic credentials and the certificates of Wire. To
	// one of that type each operation gives the PKI environment of the store, see
	// RegisterTrustAnchor; another one is asked as it is. A pointer to one, a type that embeds
	// one, and one with an Environment are core.ErrInvalid: for more to ask there is Admit.
	Authenticator core.Authenticator
	Transport     Transport        // nil: nothing can be sent or committed; see SetTransport
	Clock         func() time.Time // nil: time.Now
	Logger        *slog.Logger     // nil: none
	Observe       func(Event)      // see Client.Observe; nil: nobody
	// Admit is asked before somebody comes into a conversation; an error keeps them
	// out. nil: everybody may whom the other members let in. See Admission.
	Admit func(ctx context.Context, a Admission) error

	// PrepareHistory makes, of the secret of a history client that we are about to add
	// to a conversation, the data of the message by which the members get it, up to
	// 64 KiB; nil: the secret as it is. It is called before anything leaves us, so that
	// the application can keep the secret: if the commit wins, a HistoryClientCreated
	// event follows, else the client will never be a member. It must not use the client.
	//
	// To the others the message is a *Text like any other, so data should be in the
	// application's own format, which says that it is a history secret. Who receives it
	// takes the secret out and asks ParseHistorySecret and CheckHistorySecret.
	PrepareHistory func(core.ConversationID, HistorySecret) ([]byte, error)

	// RolledBack is what to do if the store was put back to an older state.
	RolledBack AfterRollback
	// MaxLifetime is the longest range of a key package's lifetime with which we add
	// a client; 0 is DefaultMaxLifetime, less than 0 is no limit.
	MaxLifetime time.Duration
	// InitialKeyPackages is how many key packages [Transaction.InitMLS] makes for each
	// suite, for an application that publishes that many at once; 0 is none.
	InitialKeyPackages int
	// NoGrease leaves out the meaningless values that we send so that peers are found
	// which do not ignore the unknown (RFC 9420 section 13.5).
	NoGrease bool
	// MaxOutboxLag is how many epochs an unsent message may be behind before it is
	// encrypted again; 0 is 1.
	MaxOutboxLag uint64
	// NoRenewal leaves it to the application to do again what another member's commit
	// has overtaken: a commit that loses is ErrCommitLost at once, and proposals that it
	// did not cover are CommitResult.Dropped.
	NoRenewal bool
	// Backoff is the pause before the try after the first, the second, ... has failed
	// over a conflict; nil is a few milliseconds, doubled each time up to 64.
	Backoff func(try int) time.Duration
	// Cache is where groups stay in memory, for clients of one process that share it; nil
	// is one of its own.
	Cache *Cache
	// Lease is how long a process that died may keep others from sending what is
	// in an outbox; 0 is 3 seconds.
	Lease time.Duration
}

// withDefaults puts in what was left out. No limit of MaxLifetime is 0 then, as for the
// engine.
func (cfg Config) withDefaults() Config {
	if cfg.Authenticator == nil {
		cfg.Authenticator = e2ei.Authenticator{}
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.MaxLifetime == 0:
		cfg.MaxLifetime = DefaultMaxLifetime
	case cfg.MaxLifetime < 0:
		cfg.MaxLifetime = 0
	}
	if cfg.Backoff == nil {
		cfg.Backoff = backoff
	}
	if cfg.Cache == nil {
		cfg.Cache = NewCache(cacheSize)
	}
	cfg.MaxOutboxLag = cmp.Or(cfg.MaxOutboxLag, 1)
	cfg.Lease = cmp.Or(cfg.Lease, 3*time.Second)
	return cfg
}

// A Client is one device of a person: its keys and its conversations. It is safe
// for concurrent use, also with other clients, in other processes, on one store.
type Client struct {
	cfg       Config // with its defaults; what stands below is used from there: it may change, or is wrapped
	store     *guardedStore
	accidents uint32 // of the store, that the client knows of
	suites    core.SuiteSource
	keys      core.CryptoProvider
	auth      core.Authenticator
	link      atomic.Pointer[Transport]
	now       func() time.Time
	log       *slog.Logger

	process    [16]byte  // names this client in leases
	locks      lockTable // of parties, and of outboxes that are sent from
	moreToSend sync.Map  // conversations whose outbox somebody wanted to look at meanwhile
	cache      *Cache
	pki        atomic.Pointer[knownEnvironment]
	observers  observers
	signers    sync.Map // public key to core.Signer
	fresh      sync.Map // digest to a freshCommit, while it is submitted
	committing sync.Map // IdempotencyKey to *waiter: commits whose outcome a caller waits for
	mu         sync.Mutex
	read       map[core.ConversationID]uint64 // all messages of the epochs before it were read; see maxRead
	burnt      map[place][]raise              // of a party, by its place
	closed     bool
	wiped      bool
	underway   int
	idle       chan struct{} // closed when closed and nothing is under way
}

// Open opens a client on its store. It touches no network; see [Client.Resume].
// Keys outside the store that a crash left without a name are deleted, or the logger
// hears why they cannot be. That writes: if the store loses the answer, it waits until the
// store gives one or the context ends. A store that was
// put back to an older state is core.ErrRolledBack: see [AfterRollback].
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Store == nil || cfg.Suites == nil || cfg.Keys == nil {
		return nil, fmt.Errorf("client: a store, suites and a crypto provider are needed: %w", core.ErrInvalid)
	}
	cfg = cfg.withDefaults()
	if err := cfg.checkAuthenticator(); err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg, store: &guardedStore{Store: cfg.Store}, suites: cfg.Suites, keys: cfg.Keys, auth: cfg.Authenticator,
		cache: cfg.Cache, now: cfg.Clock, log: cfg.Logger, idle: make(chan struct{}),
	}
	_, _ = rand.Read(c.process[:])
	if cfg.Observe != nil {
		c.Observe(cfg.Observe)
	}
	c.SetTransport(cfg.Transport)
	recovering, err := c.meetAccident(ctx, cfg.RolledBack)
	if err != nil {
		return nil, err
	}
	if recovering {
		c.entered(ctx)
	}
	kept, err := c.keepsKeys(ctx)
	if err != nil {
		return nil, err
	}
	if kept {
		return c, nil
	}
	_, stay, err := c.sweep(ctx)
	if err != nil && (ctx.Err() != nil || !errors.Is(err, core.ErrUnavailable)) {
		return nil, err
	}
	if err = errors.Join(err, stay); err != nil { // a token may be away, or be another one now for good
		c.log.Warn("keys that nothing names stay until the next start", "error", err)
	}
	return c, nil
}

// RandomBytes returns n bytes from the system's generator.
func RandomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return b
}
