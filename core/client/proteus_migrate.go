// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
)

// A Migrated says what became of one record of a cryptobox.
type Migrated struct {
	Name string // "identity", "sessions/NAME" or "prekeys/ID"
	Kept bool   // there was one already, which stays
	Err  error  // why it was left out; nil: it is stored now, or was
}

// migratePage is how many records are moved at once.
const migratePage = 50

// MigrateCryptobox moves what a cryptobox has: the identity, sessions and prekeys. What is
// there already stays as it is, so it can be done again, and goes on where it was
// interrupted; a session or prekey that cannot be read, or is of another identity, is left
// out. An identity that we have counts, and not the cryptobox's: cryptobox.ErrNoIdentity
// only where neither has one, and then nothing is changed. In the end there is a prekey of
// last resort.
//
// The cryptobox must not be used any more: it has the same keys. Tell is called after each
// record is durable or was left out, with how many of all these are; it may be nil.
func (c *Client) MigrateCryptobox(ctx context.Context, box *cryptobox.Box, tell func(m Migrated, done, all int)) error {
	all, done := 1+len(box.Sessions)+len(box.PreKeys), 0
	told := func(page []Migrated) {
		for _, m := range page {
			if done++; tell != nil {
				tell(m, done, all)
			}
		}
	}
	// What a transaction does may be done again: only what is durable is told.
	durable := func(f func(ctx context.Context, p Proteus) ([]Migrated, error)) error {
		var page []Migrated
		err := c.Transaction(ctx, func(ctx context.Context, tx *Transaction) (err error) {
			return tx.do(ctx, func() error { page, err = f(ctx, tx.Proteus()); return err })
		})
		if err == nil {
			told(page)
		}
		return err
	}
	var identity proteus.PublicKey
	err := durable(func(ctx context.Context, p Proteus) ([]Migrated, error) {
		i, kept, err := p.takeIdentity(ctx, box)
		if err != nil {
			return nil, err
		}
		defer i.Wipe()
		identity = i.Public()
		return []Migrated{{Name: "identity", Kept: kept}}, nil
	})
	if err != nil {
		return err
	}
	for rest := box.Sessions; len(rest) > 0; {
		page := rest[:min(len(rest), migratePage)]
		rest = rest[len(page):]
		if err := durable(func(ctx context.Context, p Proteus) ([]Migrated, error) { return p.takeSessions(ctx, identity, page) }); err != nil {
			return err
		}
	}
	for rest := box.PreKeys; len(rest) > 0; {
		page := rest[:min(len(rest), migratePage)]
		rest = rest[len(page):]
		if err := durable(func(ctx context.Context, p Proteus) ([]Migrated, error) { return p.takePreKeys(ctx, page) }); err != nil {
			return err
		}
	}
	return c.Transaction(ctx, func(ctx context.Context, tx *Transaction) error { return tx.Proteus().Init(ctx) })
}

// takeIdentity stores the cryptobox's identity if we have none. The caller wipes it.
func (p Proteus) takeIdentity(ctx context.Context, box *cryptobox.Box) (i *proteus.IdentityKeyPair, kept bool, err error) {
	r, found, err := p.t.segment.getExpected(ctx, proteusPlace, theOnly)
	if err != nil {
		return nil, false, err
	}
	if found {
		i, err = decodeProteusIdentity(r)
		return i, true, err
	}
	if i, err = box.Identity(); err != nil {
		return nil, false, err
	}
	p.t.segment.put(proteusPlace, theOnly, newEncoder().raw(i.Marshal()))
	return i, false, nil
}

func (p Proteus) takeSessions(ctx context.Context, identity proteus.PublicKey, sessions []cryptobox.Session) (out []Migrated, err error) {
	names := make([]string, len(sessions))
	for i, s := range sessions {
		names[i] = s.Name
	}
	held, err := p.hold(ctx, names...)
	if err != nil {
		return nil, err
	}
	for i, s := range sessions {
		m := Migrated{Name: "sessions/" + s.Name, Kept: held[i].session != nil}
		if !m.Kept {
			var session *proteus.Session
			if session, m.Err = s.Read(identity); m.Err == nil {
				if err := p.replace(ctx, held[i], session); err != nil {
					return nil, err
				}
			}
		}
		out = append(out, m)
	}
	return out, nil
}

func (p Proteus) takePreKeys(ctx context.Context, keys []cryptobox.PreKey) (out []Migrated, err error) {
	for _, k := range keys {
		m := Migrated{Name: fmt.Sprint("prekeys/", k.ID)}
		_, found, err := p.t.segment.getExpected(ctx, preKeyPlace, item(be16(k.ID)))
		if err != nil {
			return nil, err
		}
		if m.Kept = found; !found {
			key, err := k.Read()
			if m.Err = err; err == nil {
				p.putPreKey(key)
				key.Wipe()
			}
		}
		out = append(out, m)
	}
	return out, nil
}
