// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core/e2ei"
)

// MissingLists gives the addresses of the revocation lists that are not registered and that
// our credentials, the members of our conversations or the CAs name: see
// [e2ei.Environment.MissingLists]. It has nothing without a trust anchor. With an error, which
// says which conversations could not be read, the addresses of the others are there.
func (c *Client) MissingLists(ctx context.Context) ([]string, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	defer c.done()
	s := newSegment(c.store)
	env, err := c.environment(ctx, s)
	if err != nil || !env.Ready() {
		return nil, err
	}
	own, err := credentials(ctx, s)
	if err != nil {
		return nil, err
	}
	ids, err := conversations(ctx, s)
	if err != nil {
		return nil, err
	}
	var failed error
	urls := env.MissingLists(func(yield func(e2ei.Member) bool) {
		for _, k := range own {
			yield(e2ei.Member{Credential: k.Credential, SignatureKey: k.SignatureKey}) // which never is enough
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
	}, c.now())
	return urls, failed
}
