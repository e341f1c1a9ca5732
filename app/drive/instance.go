// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"context"
	"errors"
	"path/filepath"

	"go.uber.org/dig"
	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/seal"
)

// An instance is one client.
type instance struct {
	app       *fx.App
	client    *client.Client
	suites    core.SuiteSource
	transport *transport
	wrapper   core.KeyWrapper // what seals the database
	key       core.Secret     // of that; empty if the configuration has it
	audit     modules.AuditLog
	path      string         // of the database, if the request named it
	defaults  []core.SuiteID // the suites of init and addCredential, the default first
	events    []result
	known     map[core.ConversationID]*roster
}

// keySize is that of a database key, in bytes.
const keySize = 32

// maxEvents is how many events are kept for the command that asks for them.
const maxEvents = 1000

// instance finds the one that a request names.
func (e *engine) instance(r *request) (*instance, error) {
	i, ok := e.instances[r.Instance]
	if !ok {
		return nil, bad("no instance %s: call init first", r.Instance)
	}
	return i, nil
}

// initialize is the command init.
func initialize(ctx context.Context, e *engine, r *request) (_ result, err error) {
	switch {
	case e.instances[r.Instance] != nil:
		return nil, bad("instance %s exists", r.Instance)
	case r.Suites != nil && len(r.Suites) == 0:
		return nil, bad("ciphersuites: there are none")
	}
	var id core.ClientID
	if r.ClientID != "" {
		if id, err = parseClientID("clientId", r.ClientID); err != nil {
			return nil, err
		}
	}
	i, err := e.open(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.close(ctx))
		}
	}()
	out := result{}
	if i.path != "" {
		out["db"] = i.path
	}
	if r.MLS == nil || *r.MLS {
		if id, err = i.identify(ctx, id); err != nil {
			return nil, err
		}
		out["clientId"] = showClientID(id)
	}
	if r.Proteus {
		shown, err := proteusInit(ctx, i, r)
		if err != nil {
			return nil, err
		}
		out["fingerprint"] = shown["fingerprint"]
	}
	e.instances[r.Instance] = i
	return out, nil
}

// open puts the parts of an instance together.
func (e *engine) open(ctx context.Context, r *request) (*instance, error) {
	i := &instance{
		transport: &transport{engine: e}, defaults: r.Suites,
		known: map[core.ConversationID]*roster{},
	}
	if i.defaults == nil {
		i.defaults = []core.SuiteID{core.SuiteX25519AES128Ed25519}
	}
	c, tenant := e.options.Config, r.Instance
	if r.DB != "" {
		path, err := filepath.Abs(r.DB)
		if err != nil {
			return nil, bad("db: %v", err)
		}
		i.path, c.Keystore, tenant = path, config.FileURI("sqlite", path), "conclave"
	}
	options := []fx.Option{
		fx.Populate(&i.client, &i.suites, &i.wrapper, &i.audit),
		fx.Replace(e.log, modules.Tenant(tenant), modules.Observer(i.observe)),
		// A script hears of what others have overtaken and does it again itself.
		fx.Replace(client.Config{NoRenewal: true, PrepareHistory: i.transport.prepareHistory}),
		fx.Replace(fx.Annotate(i.transport, fx.As(new(client.Transport)))),
		fx.WithLogger(func() fxevent.Logger { return fxevent.NopLogger }),
	}
	if r.DBKey != nil || c.Key == "" {
		key := r.DBKey
		if key == nil {
			key = make([]byte, keySize)
		}
		wrapper, secret, err := rawKey(key)
		if err != nil {
			return nil, err
		}
		i.key = secret
		options = append(options, fx.Replace(fx.Annotate(wrapper, fx.As(new(core.KeyWrapper)))))
	}
	i.app = app.New(c, append(options, e.options.Parts...)...)
	err := i.app.Err()
	if err == nil {
		err = i.app.Start(ctx)
	}
	if err != nil {
		i.key.Wipe()
		return nil, dig.RootCause(err)
	}
	return i, nil
}

// rawKey seals a database with the key of a request, which is to be wiped at the end.
func rawKey(key []byte) (core.KeyWrapper, core.Secret, error) {
	if len(key) != keySize {
		return nil, core.Secret{}, bad("dbKey: %d bytes, not %d", len(key), keySize)
	}
	secret := core.NewSecret(key)
	wrapper, err := seal.RawKey(secret)
	return wrapper, secret, err
}

// identify makes the identity of an instance, unless the database has one already, and
// the credentials that are lacking. No id is the database's own, or a random one.
func (i *instance) identify(ctx context.Context, asked core.ClientID) (id core.ClientID, err error) {
	err = i.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		id, err = tx.ClientID(ctx)
		if errors.Is(err, client.ErrNotInitialized) {
			if id = asked; id == "" {
				id = newClientID()
			}
			return tx.InitMLS(ctx, id, i.defaults...)
		}
		if err != nil {
			return err
		}
		if asked != "" && asked != id {
			return bad("clientId: the database is another client's")
		}
		for _, suite := range i.defaults {
			have, err := tx.Credentials(ctx, client.CredentialFilter{Suite: suite})
			if err == nil && len(have) == 0 {
				_, err = tx.NewCredential(ctx, suite)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return id, err
}

func (i *instance) observe(e client.Event) {
	switch e := e.(type) {
	case client.EpochChanged:
		i.events = append(i.events, result{"event": "epochChanged", "conversation": []byte(e.Conversation), "epoch": e.Epoch})
	case client.HistoryClientCreated:
		s := showHistory(e.Secret)
		i.events = append(i.events, result{
			"event": "historyClientCreated", "conversation": []byte(e.Conversation), "clientId": s.ClientID, "data": s.Data,
		})
	}
	i.events = i.events[max(0, len(i.events)-maxEvents):]
}

func (i *instance) close(ctx context.Context) error {
	err := i.app.Stop(ctx)
	i.key.Wipe()
	return err
}

// transact runs a transaction and tells whether its end failed.
func (i *instance) transact(ctx context.Context, f func(context.Context, *client.Transaction) error) error {
	through := false
	err := i.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		err := f(ctx, tx)
		through = err == nil
		return err
	})
	if err != nil && through {
		return &lateError{err}
	}
	return err
}

// in runs a transaction on the conversation of a request.
func (i *instance) in(ctx context.Context, r *request, f func(context.Context, *client.Conversation) error) error {
	id, err := r.conversation()
	if err != nil {
		return err
	}
	return i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, id)
		if err != nil {
			return err
		}
		return f(ctx, c)
	})
}

// suite is that of a request, or the default.
func (i *instance) suite(r *request) (core.Suite, error) {
	id := r.Suite
	if id == 0 {
		id = i.defaults[0]
	}
	return i.suites.Suite(id)
}

// A roster has the members of an epoch, so that a message need not look them up.
type roster struct {
	epoch   uint64
	suite   core.Suite
	members []client.Member
}

// roster reads the members of a conversation as they durably are.
func (i *instance) roster(ctx context.Context, id core.ConversationID) (*roster, error) {
	view := i.client.View(id)
	epoch, err := view.Epoch(ctx)
	if err != nil {
		delete(i.known, id)
		return nil, err
	}
	if r := i.known[id]; r != nil && r.epoch == epoch {
		return r, nil
	}
	suite, err := view.Suite(ctx)
	if err != nil {
		return nil, err
	}
	r := &roster{epoch: epoch}
	if r.suite, err = i.suites.Suite(suite); err != nil {
		return nil, err
	}
	if r.members, err = view.Members(ctx); err != nil {
		return nil, err
	}
	i.known[id] = r
	return r, nil
}

// identity is what a reply says of a member, or of one who was.
func (r *roster) identity(id core.ClientID) result {
	text, ok := normalClientID(string(id))
	if !ok {
		text = id
	}
	out := result{"clientId": string(text), "status": "Valid", "credentialType": "Basic"}
	if r == nil {
		return out
	}
	for _, m := range r.members {
		if m.ClientID == id {
			out["thumbprint"], _ = e2ei.Thumbprint(r.suite.Parameters(), m.SignatureKey)
		}
	}
	return out
}
