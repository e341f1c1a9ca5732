// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
)

var (
	// ErrPreKeyExists: there is a prekey of this id, and others may have its bundle.
	ErrPreKeyExists = fmt.Errorf("client: prekey exists: %w", core.ErrDenied)
	// ErrNoFreePreKey: all ids from 1 to 65534 are in use.
	ErrNoFreePreKey = fmt.Errorf("client: no free prekey id: %w", core.ErrUnavailable)
)

// NewPreKey makes the prekey of an id from 0 to 65534, and gives its bundle, encoded, to be
// published. ErrPreKeyExists if there is one.
func (p Proteus) NewPreKey(ctx context.Context, id uint16) ([]byte, error) {
	return in(ctx, p.t, func() ([]byte, error) {
		if id == proteus.LastResortPreKeyID {
			return nil, fmt.Errorf("prekey %d is that of last resort: %w", id, core.ErrDenied)
		}
		_, found, err := p.t.segment.getExpected(ctx, preKeyPlace, item(be16(id)))
		if err != nil {
			return nil, err
		}
		if found {
			return nil, fmt.Errorf("prekey %d: %w", id, ErrPreKeyExists)
		}
		return p.makePreKey(ctx, id)
	})
}

// NewPreKeyAuto makes the prekey of the lowest free id from 1 on: ErrNoFreePreKey if there
// is none.
func (p Proteus) NewPreKeyAuto(ctx context.Context) (id uint16, bundle []byte, err error) {
	err = p.t.do(ctx, func() error {
		ids, err := p.preKeys(ctx)
		if err != nil {
			return err
		}
		free := 1
		for _, taken := range ids {
			if int(taken) == free {
				free++
			}
		}
		if free >= proteus.LastResortPreKeyID {
			return ErrNoFreePreKey
		}
		id = uint16(free)
		p.t.segment.expect(preKeyPlace, item(be16(id)), core.Version{})
		bundle, err = p.makePreKey(ctx, id)
		return err
	})
	return id, bundle, err
}

// LastResortPreKey gives the bundle of the prekey that stays when it was used, which is
// always the same.
func (p Proteus) LastResortPreKey(ctx context.Context) ([]byte, error) {
	return in(ctx, p.t, func() ([]byte, error) { return p.lastResort(ctx) })
}

func (p Proteus) lastResort(ctx context.Context) ([]byte, error) {
	r, found, err := p.t.segment.getExpected(ctx, preKeyPlace, item(be16(proteus.LastResortPreKeyID)))
	if err != nil {
		return nil, err
	}
	if !found {
		return p.makePreKey(ctx, proteus.LastResortPreKeyID)
	}
	k, err := decodePreKey(r.Value)
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	i, err := p.identity(ctx)
	if err != nil {
		return nil, err
	}
	return k.Bundle(i).Marshal(), nil
}

// PreKeys lists the ids of the prekeys that are not used yet, that of last resort
// included, ascending.
func (p Proteus) PreKeys(ctx context.Context) ([]uint16, error) {
	return in(ctx, p.t, func() ([]uint16, error) { return p.preKeys(ctx) })
}

func (p Proteus) preKeys(ctx context.Context) ([]uint16, error) { return preKeys(ctx, p.t.segment) }

func preKeys(ctx context.Context, s *segment) (ids []uint16, err error) {
	answers, err := s.read(ctx, query{place: preKeyPlace, prefix: item(), keysOnly: true})
	if err != nil {
		return nil, err
	}
	for _, r := range answers[0] {
		if len(r.Key) != len(inList)+2 {
			return nil, fmt.Errorf("the prekeys: %w", core.ErrDamaged)
		}
		ids = append(ids, binary.BigEndian.Uint16(r.Key[len(inList):]))
	}
	return ids, nil
}

// dropPreKeys is for who recovers: each may have been used since. That of last resort stays,
// as others have its bundle and it is not used up.
func dropPreKeys(ctx context.Context, s *segment) error {
	ids, err := preKeys(ctx, s)
	for _, id := range ids {
		if id != proteus.LastResortPreKeyID {
			s.del(preKeyPlace, item(be16(id)))
		}
	}
	return err
}

func (p Proteus) makePreKey(ctx context.Context, id uint16) ([]byte, error) {
	i, err := p.identity(ctx)
	if err != nil {
		return nil, err
	}
	k, err := proteus.GeneratePreKey(nil, id)
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	p.putPreKey(k)
	return k.Bundle(i).Marshal(), nil
}

func (p Proteus) putPreKey(k *proteus.PreKey) {
	p.t.segment.put(preKeyPlace, item(be16(k.ID)), newEncoder().raw(k.Marshal()))
}

// preKey finds a prekey for the engine.
func (p Proteus) preKey(ctx context.Context, id uint16) (*proteus.PreKey, error) {
	// It is expected to be there until it is deleted with the session that it opens: of two
	// processes that read the same message one is late.
	r, found, err := p.t.segment.getExpected(ctx, preKeyPlace, item(be16(id)))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, core.ErrNotFound
	}
	return decodePreKey(r.Value)
}

// usedPreKey deletes a prekey, but that of last resort.
func (p Proteus) usedPreKey(id *uint16) {
	if id != nil && *id != proteus.LastResortPreKeyID {
		p.t.segment.del(preKeyPlace, item(be16(*id)))
	}
}

func decodePreKey(value []byte) (k *proteus.PreKey, err error) {
	defer clear(value)
	var stored error
	err = decodeRecord("a prekey", value, func(d *decoder) { k, stored = proteus.UnmarshalPreKey(d.rest()) })
	if stored != nil {
		return nil, fmt.Errorf("a prekey: %w: %v", core.ErrDamaged, stored)
	}
	return k, err
}
