// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// The PKI environment is a set of certificates and revocation lists, each a record. Its
// value is made of all of them, and kept for as long as the head of the set stays the same.
// What a transaction registers is in the value that its own operations see, and in that of
// all others when it is durable.

var pkiPlace = at(tablePKI, "")

// A knownEnvironment is the value of the environment as of a version of its head.
type knownEnvironment struct {
	version core.Version
	value   *e2ei.Environment
}

// environment is whom the client trusts, as the segment sees it.
func (c *Client) environment(ctx context.Context, s *segment) (*e2ei.Environment, error) {
	if s.pki != nil {
		return s.pki, nil
	}
	r, found, err := s.get(ctx, pkiPlace, theOnly)
	if err != nil {
		return nil, err
	}
	known := c.pki.Load()
	switch {
	case !found:
		known = &knownEnvironment{value: new(e2ei.Environment)}
	case known == nil || known.version != r.Version:
		if known, err = readEnvironment(ctx, s); err != nil {
			return nil, err
		}
		c.pki.Store(known)
	}
	s.pki = known.value
	return s.pki, nil
}

// readEnvironment reads the head with what lies beside it, so that both are of one time.
func readEnvironment(ctx context.Context, s *segment) (*knownEnvironment, error) {
	answers, err := s.read(ctx, query{place: pkiPlace})
	if err != nil {
		return nil, err
	}
	known := &knownEnvironment{}
	var items []e2ei.Item
	for _, r := range answers[0] {
		if slices.Equal(r.Key, theOnly) {
			known.version = r.Version
			continue
		}
		var i e2ei.Item
		err := decodeRecord("the PKI environment", r.Value, func(d *decoder) {
			i = e2ei.Item{Kind: e2ei.ItemKind(d.u8()), Key: string(d.bytes()), DER: d.bytes()}
		})
		if err != nil {
			return nil, err
		}
		items = append(items, i)
	}
	known.value, err = e2ei.NewEnvironment(items)
	return known, err
}

// Environment is whom the client trusts: trust anchors, intermediates and revocation lists.
// It does not change: what is registered later is in another value.
func (t *Transaction) Environment(ctx context.Context) (*e2ei.Environment, error) {
	return in(ctx, t, func() (*e2ei.Environment, error) { return t.client.environment(ctx, t.segment) })
}

// Environment is [Transaction.Environment] of what is durable.
func (c *Client) Environment(ctx context.Context) (*e2ei.Environment, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	defer c.done()
	return c.environment(ctx, newSegment(c.store))
}

// A registrar adds to the environment in the open segment. Nobody else does meanwhile.
type registrar struct {
	*set
	value *e2ei.Environment
}

func (t *Transaction) registrar(ctx context.Context) (*registrar, error) {
	x, err := t.segment.set(ctx, pkiPlace)
	if err != nil {
		return nil, err
	}
	if t.segment.changes[pkiPlace] == nil {
		t.segment.pki = nil // it may be older than the head that was just read
	}
	value, err := t.client.environment(ctx, t.segment)
	return &registrar{x, value}, err
}

// registrarOf also reads the certificates that it is for.
func (t *Transaction) registrarOf(ctx context.Context, pem []byte) (*registrar, [][]byte, error) {
	certificates, err := e2ei.ParsePEM(pem)
	if err != nil {
		return nil, nil, err
	}
	r, err := t.registrar(ctx)
	return r, certificates, err
}

// add adds one item; nil: nothing changes. Where there is no room, what is of no use any more
// goes.
func (r *registrar) add(at time.Time, one func(*e2ei.Environment) (*e2ei.Environment, *e2ei.Item, error)) error {
	value, item, err := one(r.value)
	if errors.Is(err, e2ei.ErrFull) {
		pruned, gone := r.value.Prune(at)
		if len(gone) == 0 {
			return err
		}
		if value, item, err = one(pruned); err == nil {
			r.lose(pruned, gone)
		}
	}
	if err != nil || item == nil {
		return err
	}
	r.put(itemKey(*item), newEncoder().u8(uint8(item.Kind)).bytes([]byte(item.Key)).bytes(item.DER))
	r.value, r.s.pki = value, value
	return nil
}

// lose deletes items.
func (r *registrar) lose(value *e2ei.Environment, gone []e2ei.Item) {
	for _, item := range gone {
		r.remove(itemKey(item))
	}
	r.value, r.s.pki = value, value
}

// itemKey is the kind of an item and a digest of its name, of which a key has room for 30 bytes.
func itemKey(item e2ei.Item) []byte {
	name := sha256.Sum256([]byte(item.Key))
	return append([]byte{byte(item.Kind)}, name[:30]...)
}

// RegisterTrustAnchor adds the certificates of a PEM text, of CAs that have signed
// themselves, to those that are trusted. e2ei.ErrRegistered: all are there already; for what
// else is refused see [e2ei.Environment.AddAnchor].
func (t *Transaction) RegisterTrustAnchor(ctx context.Context, pem []byte) error {
	return t.do(ctx, func() error {
		r, certificates, err := t.registrarOf(ctx, pem)
		if err != nil {
			return err
		}
		there := 0
		for _, der := range certificates {
			err := r.add(t.client.now(), func(e *e2ei.Environment) (*e2ei.Environment, *e2ei.Item, error) {
				return e.AddAnchor(der, t.client.now())
			})
			if errors.Is(err, e2ei.ErrRegistered) {
				there++
			} else if err != nil {
				return err
			}
		}
		if there == len(certificates) {
			return e2ei.ErrRegistered
		}
		return nil
	})
}

// RemoveTrustAnchor takes the certificates of a PEM text away from those that are trusted, with
// the intermediates and lists that are of no use without them. Whom they vouched for stays in
// conversations, and is shown as revoked; but without any anchor nothing is checked, as before
// the first. core.ErrNotFound: one is none of the anchors.
func (t *Transaction) RemoveTrustAnchor(ctx context.Context, pem []byte) error {
	return t.do(ctx, func() error {
		r, certificates, err := t.registrarOf(ctx, pem)
		if err != nil {
			return err
		}
		for _, der := range certificates {
			value, gone, err := r.value.RemoveAnchor(der)
			if err != nil {
				return err
			}
			r.lose(value, gone)
		}
		return nil
	})
}

// RemoveCRL takes the lists of a distribution point away, such as one that is there no more.
// Whom they alone revoked is no longer known. core.ErrNotFound: there is none.
func (t *Transaction) RemoveCRL(ctx context.Context, url string) error {
	return t.do(ctx, func() error {
		r, err := t.registrar(ctx)
		if err != nil {
			return err
		}
		value, gone, err := r.value.RemoveCRL(url)
		if err != nil {
			return err
		}
		r.lose(value, gone)
		return nil
	})
}

// RegisterIntermediate adds the certificates of a PEM text, of CAs that a trust anchor
// vouches for, each by way of those after it or those that are there. An anchor among them
// changes nothing: some CAs repeat their root. The result are the addresses of revocation
// lists that they name and of which none is registered. For what is refused see
// [e2ei.Environment.AddIntermediate].
func (t *Transaction) RegisterIntermediate(ctx context.Context, pem []byte) (distributionPoints []string, err error) {
	return in(ctx, t, func() ([]string, error) {
		certificates, err := e2ei.ParsePEM(pem)
		if err != nil {
			return nil, err
		}
		r, err := t.addIntermediates(ctx, certificates, nil)
		if err != nil {
			return nil, err
		}
		return r.value.NewDistributionPoints(certificates...), nil
	})
}

// addIntermediates adds CAs (DER), the last one first. It passes over those that are refused
// with the error that may be, if it is not nil.
func (t *Transaction) addIntermediates(ctx context.Context, certificates [][]byte, may error) (*registrar, error) {
	r, err := t.registrar(ctx)
	if err != nil {
		return nil, err
	}
	for _, der := range slices.Backward(certificates) {
		err := r.add(t.client.now(), func(e *e2ei.Environment) (*e2ei.Environment, *e2ei.Item, error) {
			return e.AddIntermediate(der, t.client.now())
		})
		if err != nil && !errors.Is(err, may) {
			return nil, err
		}
	}
	return r, nil
}

// RegisterCRL adds the revocation list (DER) that was fetched from a distribution point. If it
// is Dirty, or the first of its address, look at [View.E2EIState] of the conversations again.
// For what is refused see [e2ei.Environment.AddCRL].
func (t *Transaction) RegisterCRL(ctx context.Context, url string, der []byte) (e2ei.CRLRegistration, error) {
	return in(ctx, t, func() (e2ei.CRLRegistration, error) {
		r, err := t.registrar(ctx)
		if err != nil {
			return e2ei.CRLRegistration{}, err
		}
		var done e2ei.CRLRegistration
		err = r.add(t.client.now(), func(e *e2ei.Environment) (value *e2ei.Environment, item *e2ei.Item, err error) {
			value, item, done, err = e.AddCRL(url, der, t.client.now())
			return value, item, err
		})
		return done, err
	})
}
