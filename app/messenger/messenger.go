// SPDX-License-Identifier: Apache-2.0

// Package messenger is one person's side of conversations: a [client.Client] and
// a delivery service under verbs that a command line needs. Start with [New] and
// [Messenger.Register]; then Create, Add, Send, Read and their like.
//
// It promises that what came from the service is confirmed to it only when it is
// durable here, and that it is told by Read at least once, as a rule exactly once:
// what is unread waits in the client's own store, sealed, up to 512 KiB in all.
// Every verb first takes what waits in the conversation, so that it acts on the
// newest epoch.
//
// A conversation is named by its id or, where that is clear, by the name that it
// was created with: "friends" for "friends-1f6b09c2". The delivery service sees
// the ids. The client id of a basic credential is believed: compare fingerprints with
// people by other means. Of an X.509 credential [Messenger.Identities] says whether it
// holds.
package messenger

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// Parts are what a Messenger needs. Transport is the client's, over Service.
type Parts struct {
	Client    *client.Client
	Service   *delivery.Client
	Transport *delivery.Transport
	Issuer    core.CredentialIssuer
	// IssuerName names it in what is kept of an enrolment, which no other goes on with.
	IssuerName string
	// Authenticator is the client's: it reads whose a key package is. nil: that of Wire and
	// of basic credentials.
	Authenticator core.Authenticator
	Notices       *Notices // the client's observer; nil: nobody hears of them
	Suite         core.SuiteID
	// Progress hears how far long work is: so many done of a total, which is 0 if
	// nobody knows it. nil: nobody. It should not block.
	Progress func(what string, done, total int)
}

// A Messenger acts for the client of one store. It is safe for concurrent use.
type Messenger struct {
	client     *client.Client
	service    *delivery.Client
	transport  *delivery.Transport
	issuer     core.CredentialIssuer
	issuerName string
	auth       core.Authenticator
	notices    *Notices
	suite      core.SuiteID
	progress   func(what string, done, total int)

	mu       sync.Mutex
	login    bool
	received atomic.Int64 // messages
}

// New returns a messenger. It takes over what the transport receives.
func New(p Parts) *Messenger {
	if p.Notices == nil {
		p.Notices = new(Notices)
	}
	if p.Authenticator == nil {
		p.Authenticator = e2ei.Authenticator{}
	}
	m := &Messenger{client: p.Client, service: p.Service, transport: p.Transport, issuer: p.Issuer, issuerName: p.IssuerName, auth: p.Authenticator, notices: p.Notices, suite: p.Suite, progress: p.Progress}
	if m.progress == nil {
		m.progress = func(string, int, int) {}
	}
	p.Transport.Receive(m.receive)
	return m
}

// Notices are what a person has to hear of beside the result of a verb. The zero
// value is ready.
type Notices struct {
	mu   sync.Mutex
	list []string
}

// Observe is for client.Config.
func (n *Notices) Observe(e client.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var text string
	switch e := e.(type) {
	case client.Undelivered:
		text = fmt.Sprintf("not delivered to %s: %q: %s", e.Conversation, e.Data, e.Reason)
	case client.Lapsed:
		text = fmt.Sprintf("a proposal of ours in %s lapsed: %s", e.Conversation, e.Reason)
	case client.Committed:
		if !e.Result.Own {
			return // others have done it
		}
		text = fmt.Sprintf("a commit of ours in %s has gone through after all; epoch %d", e.Conversation, e.Result.Epoch)
	case client.CommitFailed:
		text = fmt.Sprintf("a commit of ours in %s was not made: %v", e.Conversation, e.Err)
	case client.OutOfSync:
		text = fmt.Sprintf("commits of %s seem to be missing here: it is in epoch %d, and a message is of epoch %d; if that is so the next time too: conclave chat rejoin %[1]s",
			e.Conversation, e.Epoch, e.Seen)
	case client.RolledBack:
		text = "the database was put back to an older state: the key packages in it were dropped, and each conversation in it has to be joined again once"
	default:
		return
	}
	n.list = append(n.list, text)
}

// Notices returns what a person has to hear of, once.
func (m *Messenger) Notices() []string {
	m.notices.mu.Lock()
	defer m.notices.mu.Unlock()
	list := m.notices.list
	m.notices.list = nil
	return list
}

// ID is who we are. client.ErrNotInitialized: nobody yet.
func (m *Messenger) ID(ctx context.Context) (core.ClientID, error) { return m.client.ClientID(ctx) }

// SignIn gives the service's client the token that Register kept. The verbs do it
// by themselves.
func (m *Messenger) SignIn(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.login {
		return nil
	}
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return err
	}
	if len(n.Token) == 0 {
		return ErrNotRegistered
	}
	m.service.SetToken(core.NewSecret(n.Token))
	m.login = true
	return nil
}
