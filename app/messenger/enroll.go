// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// An Answer meets a need of an issuer: a login, a hook of the application, a file, time. An
// error leaves what was asked for open.
type Answer func(context.Context, core.Need) (core.Input, error)

// ErrPerson: the issuer needs somebody.
var ErrPerson = errors.New("the issuer needs a person")

// ErrNobody: the issuer is that of basic credentials, which nobody vouches for.
var ErrNobody = fmt.Errorf("the issuer issues no certificates: %w", core.ErrUnsupported)

// ErrOpen: another enrolment is open, for other names.
var ErrOpen = fmt.Errorf("an enrolment is open already: %w", core.ErrDenied)

// ErrReplaced: there is a newer certificate than the one that is to be renewed.
var ErrReplaced = fmt.Errorf("the certificate has been replaced already: %w", core.ErrDenied)

// nobody answers.
func nobody(context.Context, core.Need) (core.Input, error) { return core.Input{}, ErrPerson }

// Open lists what was asked of issuers and has not come to its end.
func (m *Messenger) Open(ctx context.Context) ([]client.OpenIssue, error) {
	return m.client.OpenIssues(ctx)
}

// Drop forgets what was asked of issuers and has not come to its end. They are not told.
func (m *Messenger) Drop(ctx context.Context) (dropped int, err error) {
	open, err := m.client.OpenIssues(ctx)
	if err != nil {
		return 0, err
	}
	for _, o := range open {
		err := m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			return tx.DropEnrollment(ctx, o.Handle)
		})
		if err != nil {
			return dropped, err
		}
		dropped++
	}
	return dropped, nil
}

// Enroll asks the issuer to issue, renew or revoke a credential, or goes on with that where it
// was interrupted: names that are not given are those of then. A new credential is the newest
// from then on; see [Messenger.Adopt]. A client without an identity has one then; see
// [Messenger.Register]. ErrOpen: something is open for other names. ErrNobody. ErrReplaced. What answer and the issuer
// say are the other errors, ErrPerson for a nil answer; see [client.Client.Issue].
func (m *Messenger) Enroll(ctx context.Context, p client.IssueParams, answer Answer) (client.Credential, error) {
	if answer == nil {
		answer = nobody
	}
	p.Issuer = m.issuerName
	if p.Action == 0 {
		p.Action = core.ActionIssue
	}
	if p.Suite == 0 && p.Credential == 0 { // else it is of the scheme of that
		p.Suite = m.suite
	}
	switch info, err := m.issuer.Describe(ctx); {
	case err != nil:
		return client.Credential{}, err
	case info.Type != core.CredentialX509:
		return client.Credential{}, ErrNobody
	case !slices.Contains(info.Actions, p.Action):
		return client.Credential{}, fmt.Errorf("the issuer %s: action %d: %w", info.Name, p.Action, core.ErrUnsupported)
	}
	var o client.OpenIssue
	err := m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
		o, err = begin(ctx, tx, p)
		return err
	})
	if err != nil && !errors.Is(err, errBegun) {
		return client.Credential{}, err
	}
	return m.Resume(ctx, o, answer)
}

// errBegun undoes what was begun, for something is open already.
var errBegun = errors.New("begun before")

// begin finds what is open, with errBegun, or begins it. Beginning comes first: whoever does
// so too after what is read then is in conflict with it, so that of two processes one begins.
func begin(ctx context.Context, tx *client.Transaction, p client.IssueParams) (client.OpenIssue, error) {
	none := client.OpenIssue{}
	h, isOpen := tx.BeginIssue(ctx, p)
	if isOpen != nil && !errors.Is(isOpen, client.ErrIssueOpen) {
		return none, isOpen
	}
	open, err := tx.OpenIssues(ctx)
	if err != nil {
		return none, err
	}
	for _, was := range open {
		if was.Handle == h || was.Issuer != p.Issuer || was.Action != p.Action || was.Credential != p.Credential ||
			p.Suite != 0 && was.Suite != p.Suite {
			continue
		}
		if p.Handle != "" && p.Handle != was.IssueParams.Handle || p.DisplayName != "" && p.DisplayName != was.DisplayName ||
			p.ClientID != "" && was.ClientID != "" && p.ClientID != was.ClientID {
			return none, fmt.Errorf("for %q, %q: %w", was.IssueParams.Handle, was.DisplayName, ErrOpen)
		}
		return was, errBegun
	}
	if isOpen != nil {
		return none, isOpen
	}
	if p.Action == core.ActionRenew {
		own, err := tx.Credentials(ctx, client.CredentialFilter{Type: core.CredentialX509})
		if err != nil {
			return none, err
		}
		at := slices.IndexFunc(own, func(c client.Credential) bool { return c.Ref == p.Credential })
		if at >= 0 && slices.ContainsFunc(own[at+1:], func(c client.Credential) bool { return c.Scheme == own[at].Scheme }) {
			return none, ErrReplaced
		}
	}
	return client.OpenIssue{Handle: h, IssueParams: p}, nil
}

// Resume goes on with what is open. core.ErrUnsupported: another issuer was asked.
func (m *Messenger) Resume(ctx context.Context, o client.OpenIssue, answer Answer) (client.Credential, error) {
	if o.Issuer != m.issuerName {
		return client.Credential{}, fmt.Errorf("what is open was asked of %s, and the issuer is %s: %w", o.Issuer, m.issuerName, core.ErrUnsupported)
	}
	result, err := m.client.Issue(ctx, o.Handle, m.issuer, answer)
	return result.Credential, err
}
