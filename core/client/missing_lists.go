// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/conclave-mls/conclave/core/e2ei"
)

// MissingLists gives the addresses of the revocation lists that are not registered and that
// our credentials, the members of our conversations or the CAs name: see
// [e2ei.Environment.MissingLists]. It has nothing without a trust anchor. With an error, which
// says which conversations could not be read, the addresses of the others are there.
func (c *Client) MissingLists(ctx context.Context) (urls []string, err error) {
	err = c.certified(ctx, func(env *e2ei.Environment, members iter.Seq[e2ei.Member]) {
		urls = env.MissingLists(members, c.now())
	})
	return urls, err
}

// MissingCAs gives the CAs that are not registered and by way of which members of our
// conversations hold, in PEM, for [Transaction.RegisterIntermediate]: see
// [e2ei.Environment.MissingCAs]. Register them before their lists. For errors see
// [Client.MissingLists].
func (c *Client) MissingCAs(ctx context.Context) (text []byte, err error) {
	err = c.certified(ctx, func(env *e2ei.Environment, members iter.Seq[e2ei.Member]) {
		for _, der := range slices.Backward(env.MissingCAs(members, c.now())) {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
	})
	return text, err
}

// certified goes through our credentials and all members, if there is a trust anchor. They have
// to be taken to the last one.
func (c *Client) certified(ctx context.Context, f func(*e2ei.Environment, iter.Seq[e2ei.Member])) error {
	if err := c.open(); err != nil {
		return err
	}
	defer c.done()
	s := newSegment(c.store)
	env, err := c.environment(ctx, s)
	if err != nil || !env.Ready() {
		return err
	}
	own, err := credentials(ctx, s)
	if err != nil {
		return err
	}
	ids, err := conversations(ctx, s)
	if err != nil {
		return err
	}
	var failed error
	f(env, func(yield func(e2ei.Member) bool) {
		for _, k := range own {
			yield(e2ei.Member{Credential: k.Credential, SignatureKey: k.SignatureKey})
		}
		for _, id := range ids {
			err := c.look(ctx, id, func(v view) error {
				members, err := v.group.Members(ctx, v.env)
				if err != nil {
					return err
				}
				for m := range e2eiMembers(members) {
					yield(m)
				}
				return nil
			})
			if err != nil && !errors.Is(err, ErrConversationNotFound) { // that we only are about to join
				failed = errors.Join(failed, fmt.Errorf("members of %v: %w", id.LogValue(), err))
			}
			if ctx.Err() != nil {
				return
			}
		}
	})
	return failed
}
