// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// Signature keys are found by their public key. What a provider keeps itself is
// stored as a reference; the material of a software key is sealed beside it.
//
// A key outside the store is journalled: its id is written before the key is made,
// and the batch that names the key takes that record away. What remains in the
// journal after a crash names keys that nobody else does, and is swept: marked
// dying first, so that no batch can still name the key, then deleted.

// A keyID is chosen before the key is made, and names it in a token.
type keyID [16]byte

const keyLabel = "conclave signature key"

// keeper returns the provider's own deleter if it keeps the keys that it makes.
func (c *Client) keeper() core.KeyDeleter {
	p := c.keys
	if router, ok := p.(*core.KeyRouter); ok {
		p = router.Default
	}
	deleter, _ := p.(core.KeyDeleter)
	return deleter
}

// newKey makes a signature key and puts it into the open segment.
func (t *Transaction) newKey(ctx context.Context, algorithm core.KeyAlgorithm) (core.Signer, error) {
	var id keyID
	_, _ = rand.Read(id[:])
	keeper := t.client.keeper()
	if keeper != nil {
		if err := t.journal(ctx, id, algorithm); err != nil {
			return nil, err
		}
	}
	key, err := t.client.keys.GenerateKey(ctx, keySpec(id, algorithm))
	if err != nil {
		return nil, err
	}
	if keeper != nil {
		if err := t.client.stillJournalled(ctx, id); err != nil {
			return nil, errors.Join(err, keeper.DeleteKey(ctx, key.Ref()))
		}
	}
	signer, ok := key.(core.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s does not sign: %w", key.Ref(), core.ErrUnsupported)
	}
	record := newEncoder().bytes([]byte(key.Ref()))
	if software, ok := key.(core.SoftwareKey); ok {
		record = record.bytes(software.Material().Bytes())
	} else {
		record = record.bytes(nil)
	}
	t.segment.put(at(tableSignatureKey, string(signer.Public())), theOnly, record)
	return signer, nil
}

func keySpec(id keyID, algorithm core.KeyAlgorithm) core.KeySpec {
	return core.KeySpec{ID: id, Algorithm: algorithm, Use: core.UseSign, Label: keyLabel}
}

// journal writes the id of a key that is about to be made, at once, and makes the
// open segment take it away.
func (t *Transaction) journal(ctx context.Context, id keyID, algorithm core.KeyAlgorithm) error {
	p := at(tableJournal, "")
	s := newSegment(t.client.store)
	s.expect(p, id[:], core.Version{})
	s.put(p, id[:], journalRecord(algorithm, false))
	versions, err := s.apply(ctx)
	if err != nil {
		return err
	}
	t.keys = append(t.keys, id)
	t.segment.expect(p, id[:], versions[p][string(id[:])])
	t.segment.del(p, id[:])
	return nil
}

// stillJournalled looks for the record again after the key was made: a sweep that
// came before has deleted nothing, and will not come back. ErrConflict if so.
func (c *Client) stillJournalled(ctx context.Context, id keyID) error {
	r, found, err := newSegment(c.store).get(ctx, at(tableJournal, ""), id[:])
	if err != nil {
		return err
	}
	dying := true
	if found {
		if _, dying, err = readJournal(r.Value); err != nil {
			return err
		}
	}
	if dying {
		return fmt.Errorf("another process swept the key while it was made: %w", core.ErrConflict)
	}
	return nil
}

func readJournal(record []byte) (algorithm core.KeyAlgorithm, dying bool, err error) {
	err = decodeRecord("a key to be made", record, func(d *decoder) {
		algorithm, dying = core.KeyAlgorithm(d.bytes()), d.flag()
	})
	return algorithm, dying, err
}

func journalRecord(algorithm core.KeyAlgorithm, dying bool) []byte {
	return newEncoder().bytes([]byte(algorithm)).flag(dying)
}

// sweep deletes the keys that a crash left without a name.
func (c *Client) sweep(ctx context.Context) error {
	answers, err := newSegment(c.store).read(ctx, query{place: at(tableJournal, ""), keysOnly: true})
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range answers[0] {
		errs = append(errs, c.sweepKey(ctx, keyID(r.Key)))
	}
	return errors.Join(errs...)
}

// sweepKey deletes one journalled key: after the mark nothing can name it.
func (c *Client) sweepKey(ctx context.Context, id keyID) error {
	p := at(tableJournal, "")
	s := newSegment(c.store)
	r, found, err := s.getExpected(ctx, p, id[:])
	if err != nil || !found {
		return err
	}
	algorithm, dying, err := readJournal(r.Value)
	if err != nil {
		return err
	}
	if !dying {
		s.put(p, id[:], journalRecord(algorithm, true))
		if _, err := s.apply(ctx); errors.Is(err, core.ErrConflict) {
			return nil // it was named, or somebody else sweeps
		} else if err != nil {
			return err
		}
	}
	deleter := c.keeper()
	if deleter == nil {
		return fmt.Errorf("journalled key %x: the provider cannot delete: %w", id, core.ErrUnsupported)
	}
	// The provider returns the key of this id if it was made: so its name is learnt.
	key, err := c.keys.GenerateKey(ctx, keySpec(id, algorithm))
	if err != nil {
		return err
	}
	if err := deleter.DeleteKey(ctx, key.Ref()); err != nil {
		return err
	}
	last := newSegment(c.store)
	last.del(p, id[:])
	_, err = last.apply(ctx)
	return err
}

// signer opens one of our signature keys.
func (t *Transaction) signer(ctx context.Context, public []byte) (core.Signer, error) {
	return t.client.signer(ctx, t.segment, public)
}

func (c *Client) signer(ctx context.Context, s *segment, public []byte) (core.Signer, error) {
	if known, ok := c.signers.Load(string(public)); ok {
		return known.(core.Signer), nil
	}
	r, found, err := s.get(ctx, at(tableSignatureKey, string(public)), theOnly)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("private key of a signature key: %w", core.ErrNotFound)
	}
	var ref, material []byte
	err = decodeRecord("a signature key", r.Value, func(d *decoder) { ref, material = d.bytes(), d.bytes() })
	if err != nil {
		return nil, err
	}
	key, err := c.keys.OpenKey(ctx, core.KeyRef(ref), core.NewSecret(material))
	if err != nil {
		return nil, err
	}
	signer, ok := key.(core.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s does not sign: %w", ref, core.ErrUnsupported)
	}
	c.signers.Store(string(public), signer)
	return signer, nil
}
