// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/seal"
)

// ErrProteusNotInitialized: [Proteus.Init] has never been called.
var ErrProteusNotInitialized = fmt.Errorf("client: Proteus is not initialised: %w", core.ErrUnavailable)

// Proteus has the operations on Proteus sessions, as part of a transaction: what they change
// is durable with it or not at all, and what they encrypt is not to be sent before. A
// session is named by the application, by what is not empty; by custom that is the user and
// the client of the other side. Errors have the numbers that Proteus applications know: see
// [proteus.Error].
type Proteus struct{ t *Transaction }

// Proteus gives the operations of the other protocol.
func (t *Transaction) Proteus() Proteus { return Proteus{t} }

var (
	proteusPlace = at(tableProteus, "")
	preKeyPlace  = at(tablePreKey, "")
)

// Init makes the identity and the prekey of last resort, if they are not there.
func (p Proteus) Init(ctx context.Context) error {
	return p.t.do(ctx, func() error {
		_, found, err := p.t.segment.getExpected(ctx, proteusPlace, theOnly)
		if err != nil {
			return err
		}
		if !found {
			i, err := proteus.GenerateIdentity(nil)
			if err != nil {
				return err
			}
			defer i.Wipe()
			p.t.segment.put(proteusPlace, theOnly, newEncoder().raw(i.Marshal()))
		}
		_, err = p.lastResort(ctx)
		return err
	})
}

// identity reads who we are in Proteus, once for a transaction, whose it is: that the halves of
// the key fit takes longer than many an operation.
func (p Proteus) identity(ctx context.Context) (*proteus.IdentityKeyPair, error) {
	if p.t.proteus != nil {
		return p.t.proteus, nil
	}
	r, found, err := p.t.segment.get(ctx, proteusPlace, theOnly)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrProteusNotInitialized
	}
	p.t.proteus, err = decodeProteusIdentity(r)
	return p.t.proteus, err
}

func decodeProteusIdentity(r seal.Record) (i *proteus.IdentityKeyPair, err error) {
	defer clear(r.Value)
	var stored error
	err = decodeRecord("the Proteus identity", r.Value, func(d *decoder) {
		i, stored = proteus.UnmarshalIdentity(d.rest())
	})
	if stored != nil {
		return nil, fmt.Errorf("the Proteus identity: %w: %v", core.ErrDamaged, stored)
	}
	return i, err
}

// Fingerprint is our identity key, as 64 lowercase hexadecimal digits.
func (p Proteus) Fingerprint(ctx context.Context) (string, error) {
	return in(ctx, p.t, func() (string, error) {
		i, err := p.identity(ctx)
		if err != nil {
			return "", err
		}
		return i.Public().Fingerprint(), nil
	})
}
