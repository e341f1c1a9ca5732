// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/mls"
)

// trusting is what judges the members.
func (v view) trusting() (e2ei.Authenticator, error) { return v.env.Auth.(*authenticator).trusting() }

// e2eiMembers are members as package e2ei asks for them.
func e2eiMembers(members []mls.Member) iter.Seq[e2ei.Member] {
	return func(yield func(e2ei.Member) bool) {
		for _, m := range members {
			if !yield(e2ei.Member{Credential: m.Credential, SignatureKey: m.SignatureKey}) {
				return
			}
		}
	}
}

// E2EIState says whether all members are who their certificates say, at this time. What is
// pending does not count. Without a trust anchor nobody is verified, nor is a conversation with
// a history client, which has no certificate.
func (v View) E2EIState(ctx context.Context) (e2ei.ConversationState, error) {
	return ask(ctx, v, func(v view) (e2ei.ConversationState, error) {
		auth, err := v.trusting()
		if err != nil {
			return 0, err
		}
		members, err := v.group.Members(ctx, v.env)
		if err != nil {
			return 0, err
		}
		return auth.State(e2eiMembers(members), v.env.Now), nil
	})
}

// DeviceIdentities tells of the members with these client ids who they are and how their
// credentials stand, in leaf order. Who is no member is passed over; no id at all is
// ErrEmptyInput.
func (v View) DeviceIdentities(ctx context.Context, ids ...core.ClientID) ([]e2ei.WireIdentity, error) {
	if len(ids) == 0 {
		return nil, ErrEmptyInput
	}
	var list []e2ei.WireIdentity
	err := v.identities(ctx, func(id core.ClientID, read func() (e2ei.WireIdentity, error)) error {
		if !slices.Contains(ids, id) {
			return nil
		}
		who, err := read()
		list = append(list, who)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// UserIdentities is [View.DeviceIdentities] by person: a user id is what stands in a client id
// before the first colon. Who has no client in the conversation is not in the answer.
func (v View) UserIdentities(ctx context.Context, users ...string) (map[string][]e2ei.WireIdentity, error) {
	if len(users) == 0 {
		return nil, ErrEmptyInput
	}
	found := map[string][]e2ei.WireIdentity{}
	err := v.identities(ctx, func(id core.ClientID, read func() (e2ei.WireIdentity, error)) error {
		user, _, named := strings.Cut(string(id), ":")
		if !named || !slices.Contains(users, user) {
			return nil
		}
		who, err := read()
		found[user] = append(found[user], who)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// identities goes through the members.
func (v View) identities(ctx context.Context, f func(id core.ClientID, read func() (e2ei.WireIdentity, error)) error) error {
	return v.view(ctx, func(v view) error {
		auth, err := v.trusting()
		if err != nil {
			return err
		}
		suite, err := v.env.Suites.Suite(v.group.Suite())
		if err != nil {
			return err
		}
		members, err := v.group.Members(ctx, v.env)
		if err != nil {
			return err
		}
		for _, m := range members {
			id, err := v.identify(m)
			if err != nil {
				return err
			}
			err = f(id, func() (e2ei.WireIdentity, error) {
				return auth.Identity(e2ei.Member{Credential: m.Credential, SignatureKey: m.SignatureKey}, suite.Parameters(), v.env.Now)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// GroupInfoState is [View.E2EIState] of a conversation that we might join by its GroupInfo (an
// MLSMessage), with the tree if that travels out of band. One that does not verify is
// NotVerified, and the error says why: mls.ErrMalformed, a *mls.RuleError and their like.
// Certificates that do not hold are no error.
func (t *Transaction) GroupInfoState(ctx context.Context, groupInfo, tree []byte) (e2ei.ConversationState, error) {
	return in(ctx, t, func() (e2ei.ConversationState, error) {
		return t.client.groupInfoState(ctx, t.segment, groupInfo, tree)
	})
}

// GroupInfoState is [Transaction.GroupInfoState] with the PKI environment that is durable.
func (c *Client) GroupInfoState(ctx context.Context, groupInfo, tree []byte) (e2ei.ConversationState, error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	defer c.done()
	return c.groupInfoState(ctx, newSegment(c.store), groupInfo, tree)
}

func (c *Client) groupInfoState(ctx context.Context, s *segment, groupInfo, tree []byte) (e2ei.ConversationState, error) {
	auth, err := (&authenticator{ctx, c, s}).trusting()
	if err != nil {
		return 0, err
	}
	m, err := mls.UnmarshalMLSMessage(groupInfo)
	if err == nil && m.GroupInfo == nil {
		err = fmt.Errorf("not a GroupInfo: %w", mls.ErrMalformed)
	}
	if err != nil {
		return e2ei.NotVerified, err
	}
	env := c.env(ctx, s, "", 0)
	env.Auth = reader{c.auth}
	members, err := mls.GroupInfoMembers(env, m.GroupInfo, tree)
	if err != nil {
		return e2ei.NotVerified, err
	}
	return auth.State(e2eiMembers(members), env.Now), nil
}

// A reader reads credentials and judges none.
type reader struct{ core.Authenticator }

// Validate implements [core.Authenticator].
func (r reader) Validate(c core.Credential, signatureKey []byte, at time.Time, _ core.Purpose) (core.Identity, error) {
	return r.Authenticator.Validate(c, signatureKey, at, core.PurposeIdentify)
}

// E2EIEnabled says whether we have an X.509 credential that signs for a suite.
// ErrCredentialNotFound: we have none at all for it; ErrNotInitialized.
func (t *Transaction) E2EIEnabled(ctx context.Context, suite core.SuiteID) (bool, error) {
	return in(ctx, t, func() (bool, error) { return t.client.e2eiEnabled(ctx, t.segment, suite) })
}

// E2EIEnabled is [Transaction.E2EIEnabled] of what is durable.
func (c *Client) E2EIEnabled(ctx context.Context, suite core.SuiteID) (bool, error) {
	if err := c.open(); err != nil {
		return false, err
	}
	defer c.done()
	return c.e2eiEnabled(ctx, newSegment(c.store), suite)
}

func (c *Client) e2eiEnabled(ctx context.Context, s *segment, suite core.SuiteID) (bool, error) {
	list, err := c.filtered(ctx, s, CredentialFilter{Suite: suite})
	if err != nil {
		return false, err
	}
	if len(list) == 0 {
		if _, err := clientID(ctx, s); err != nil {
			return false, err
		}
		return false, ErrCredentialNotFound
	}
	return slices.ContainsFunc(list, func(own Credential) bool { return own.Credential.Type == core.CredentialX509 }), nil
}
