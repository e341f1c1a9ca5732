// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
)

// A Migrated says what became of one record of a cryptobox.
type Migrated struct {
	Name string // "identity", "sessions/NAME" or "prekeys/ID"
	Kept bool   // there is one already, which stays, or it was moved before and is gone since
	Err  error  // why it was left out; nil: it is stored now, or was
}

// migratePage is how many records are moved at once.
const migratePage = 50

// MigrateCryptobox moves what a cryptobox has: the identity, sessions and prekeys. What is
// there already stays as it is, so it can be done again, and goes on where it was
// interrupted; a session or prekey that cannot be read, or is of another identity, is left
// out. What was moved once does not come again when it was deleted or used up: its keys
// may have been used since. So it is if the store was ever put back to an older state:
// sessions are to be opened again by a prekey before they encrypt (ErrRecovering), and
// prekeys but that of last resort are left out. An identity that we have counts, and not
// the cryptobox's: cryptobox.ErrNoIdentity only where neither has one, and then nothing is
// changed. In the end there is a prekey of last resort.
//
// The cryptobox must not be used any more, nor moved to another store: it has the same
// keys. Tell is called after each record is durable or was left out, with how many of all
// these are; it may be nil.
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
	n := migratePage
	for rest := box.Sessions; len(rest) > 0; {
		page := rest[:min(len(rest), n)]
		err := durable(func(ctx context.Context, p Proteus) ([]Migrated, error) { return p.takeSessions(ctx, identity, page) })
		tooLarge := errors.Is(err, core.ErrTooLarge) // for one write
		switch {
		case tooLarge && len(page) > 1:
			n = len(page) / 2
			continue
		case tooLarge:
			told([]Migrated{{Name: inBox(page[0]), Err: err}})
		case err != nil:
			return err
		}
		rest = rest[len(page):]
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

// once marks a record of a cryptobox as moved; first is false if it is so marked.
func (p Proteus) once(ctx context.Context, name string) (first bool, err error) {
	_, moved, err := p.t.segment.getExpected(ctx, at(tableProteus, name), theOnly)
	if err == nil && !moved {
		p.t.segment.put(at(tableProteus, name), theOnly, newEncoder())
	}
	return err == nil && !moved, err
}

func inBox(s cryptobox.Session) string { return "sessions/" + s.Name }

func (p Proteus) takeSessions(ctx context.Context, identity proteus.PublicKey, sessions []cryptobox.Session) (out []Migrated, err error) {
	var names []string
	for _, s := range sessions {
		if s.Name != "" {
			names = append(names, s.Name)
		}
	}
	held, err := p.salvage(ctx, names...)
	if err != nil {
		return nil, err
	}
	for _, s := range sessions {
		m := Migrated{Name: inBox(s)}
		if s.Name == "" {
			m.Err = fmt.Errorf("a session without a name: %w", core.ErrInvalid)
		} else {
			m.Kept, m.Err, err = p.takeSession(ctx, held[0], identity, s)
			held = held[1:]
		}
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// takeSession says why a session is left out, or that it is kept.
func (p Proteus) takeSession(ctx context.Context, h *heldSession, identity proteus.PublicKey, s cryptobox.Session) (kept bool, left, err error) {
	if h.exists {
		return true, nil, nil
	}
	session, left := s.Read(identity)
	if left != nil {
		return false, left, nil
	}
	first, err := p.once(ctx, inBox(s))
	if err != nil || !first {
		session.Wipe(nil)
		return true, nil, err
	}
	if err := p.replace(ctx, h, session); err != nil {
		return false, nil, err
	}
	h.head.accidents = 0 // it is as old as the cryptobox
	return false, nil, nil
}

func (p Proteus) takePreKeys(ctx context.Context, keys []cryptobox.PreKey) (out []Migrated, err error) {
	for _, k := range keys {
		m := Migrated{Name: fmt.Sprint("prekeys/", k.ID)}
		_, found, err := p.t.segment.getExpected(ctx, preKeyPlace, item(be16(k.ID)))
		if err != nil {
			return nil, err
		}
		if m.Kept = found; !found {
			if m.Kept, m.Err, err = p.takePreKey(ctx, k); err != nil {
				return nil, err
			}
		}
		out = append(out, m)
	}
	return out, nil
}

// takePreKey says why a prekey is left out, or that it is used up.
func (p Proteus) takePreKey(ctx context.Context, k cryptobox.PreKey) (used bool, left, err error) {
	if p.t.client.accidents != 0 && k.ID != proteus.LastResortPreKeyID {
		return false, usedSince("it may have been used before the store was put back"), nil
	}
	key, left := k.Read()
	if left != nil {
		return false, left, nil
	}
	defer key.Wipe()
	first, err := p.once(ctx, fmt.Sprint("prekeys/", k.ID))
	if err == nil && first {
		p.putPreKey(key)
	}
	return !first, nil, err
}
