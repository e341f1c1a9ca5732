// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
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
// dying first, so that no batch can still name the key, then deleted. The batch that
// drops the last name of a key puts it into the journal as dying at once.

// A keyID is chosen before the key is made, and names it in a token.
type keyID [16]byte

func newKeyID() (id keyID) {
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	return id
}

const keyLabel = "conclave signature key"

// deleter returns who keeps the key of a reference, and of an empty one those that will
// be made; nil if that one deletes none.
func (c *Client) deleter(ref core.KeyRef) core.KeyDeleter {
	deleter, _ := core.ProviderOf(c.keys, ref).(core.KeyDeleter)
	return deleter
}

// newKey makes a signature key and puts it into the open segment.
func (t *Transaction) newKey(ctx context.Context, algorithm core.KeyAlgorithm) (core.Signer, error) {
	id := newKeyID()
	keeper := t.client.deleter("")
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
	stored := storedKey{ref: key.Ref()}
	if software, ok := key.(core.SoftwareKey); ok {
		stored.material = software.Material()
	}
	t.segment.put(at(tableSignatureKey, string(signer.Public())), theOnly, stored.encode())
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
	s.put(p, id[:], journalled{algorithm: algorithm}.encode())
	versions, err := s.apply(ctx)
	if err != nil {
		return err
	}
	t.segment.keys = append(t.segment.keys, id)
	t.segment.expect(p, id[:], versions[recordName{p, string(id[:])}])
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
	j := journalled{dying: true}
	if found {
		if j, err = decodeJournalled(r.Value); err != nil {
			return err
		}
	}
	if j.dying {
		return fmt.Errorf("another process swept the key while it was made: %w", core.ErrConflict)
	}
	return nil
}

// journalled is a key outside the store that nothing names: to be made, and then its
// algorithm is known, or to be deleted by its reference.
type journalled struct {
	algorithm core.KeyAlgorithm
	ref       core.KeyRef
	dying     bool
}

func (j journalled) encode() []byte {
	return newEncoder().bytes([]byte(j.algorithm)).bytes([]byte(j.ref)).flag(j.dying)
}

func decodeJournalled(record []byte) (j journalled, err error) {
	err = decodeRecord("a key that nothing names", record, func(d *decoder) {
		j = journalled{core.KeyAlgorithm(d.bytes()), core.KeyRef(d.bytes()), d.flag()}
	})
	return j, err
}

// sweep deletes the keys that a crash left without a name, and says how many. Why some stay,
// which their provider says, is apart from what is wrong with the store or the context.
func (c *Client) sweep(ctx context.Context) (deleted int, stay, err error) {
	answers, err := newSegment(c.store).read(ctx, query{place: at(tableJournal, ""), keysOnly: true})
	if err != nil {
		return 0, nil, err
	}
	for _, r := range answers[0] {
		switch e := c.sweepKey(ctx, keyID(r.Key)); {
		case isKeyTrouble(e) && ctx.Err() == nil:
			stay = errors.Join(stay, e)
		case e != nil:
			err = errors.Join(err, e)
		default:
			deleted++
		}
	}
	return deleted, stay, err
}

// sweepKey deletes one journalled key: after the mark nothing can name it. What its
// provider says is a keyTrouble.
func (c *Client) sweepKey(ctx context.Context, id keyID) error {
	p := at(tableJournal, "")
	s := newSegment(c.store)
	r, found, err := s.getExpected(ctx, p, id[:])
	if err != nil || !found {
		return err
	}
	j, err := decodeJournalled(r.Value)
	if err != nil {
		return err
	}
	if !j.dying {
		j.dying = true
		s.put(p, id[:], j.encode())
		if _, err := s.apply(ctx); errors.Is(err, core.ErrConflict) {
			return nil // it was named, or somebody else sweeps
		} else if err != nil {
			return err
		}
	}
	deleter := c.deleter(j.ref)
	if deleter == nil {
		return keyTrouble{fmt.Errorf("journalled key %x: no provider deletes it: %w", id, core.ErrUnsupported)}
	}
	if j.ref == "" {
		// The provider returns the key of this id if it was made: so its name is learnt.
		key, err := c.keys.GenerateKey(ctx, keySpec(id, j.algorithm))
		if err != nil {
			return keyTrouble{err}
		}
		j.ref = key.Ref()
	}
	if err := deleter.DeleteKey(ctx, j.ref); err != nil {
		return keyTrouble{err}
	}
	last := newSegment(c.store)
	last.del(p, id[:])
	_, err = last.apply(ctx)
	return err
}

// A droppedKey is a signature key that nothing names any more.
type droppedKey struct {
	public []byte
	queued *keyID // to be deleted outside the store, as the journal says
}

// dropKey deletes a signature key of which the caller takes the last name away. One
// outside the store is queued, to be deleted when the segment is durable.
func (t *Transaction) dropKey(ctx context.Context, public []byte) error {
	p := at(tableSignatureKey, string(public))
	r, found, err := t.segment.get(ctx, p, theOnly)
	if err != nil || !found {
		return err
	}
	k, err := decodeStoredKey(r.Value)
	if err != nil {
		return err
	}
	dropped := droppedKey{public: public}
	t.segment.del(p, theOnly)
	if k.material.IsZero() {
		id := newKeyID()
		dropped.queued = &id
		t.segment.put(at(tableJournal, ""), id[:], journalled{ref: k.ref, dying: true}.encode())
	}
	k.material.Wipe()
	t.segment.dropped = append(t.segment.dropped, dropped)
	return nil
}

// forgetKeys deletes what durable segments have dropped. What cannot be deleted now
// is swept when the client is opened.
func (c *Client) forgetKeys(ctx context.Context, list []droppedKey) {
	if len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	for _, k := range list {
		c.signers.Delete(string(k.public))
		if k.queued == nil {
			continue
		}
		switch kept, err := c.keepsKeys(ctx); {
		case err != nil:
			c.log.Warn("a key that nothing names stays", "error", err)
			continue
		case kept:
			c.log.Info("a key that nothing names stays, as the store was put back: SweepKeys deletes it", "public", hex.EncodeToString(k.public))
			continue
		}
		if err := c.sweepKey(ctx, *k.queued); err != nil {
			c.log.Warn("a key that nothing names stays until the next start", "error", err)
		}
	}
}

// storedKey is the record of a signature key. What a provider keeps has no material.
type storedKey struct {
	ref      core.KeyRef
	material core.Secret
}

func (k storedKey) encode() []byte {
	return newEncoder().bytes([]byte(k.ref)).bytes(k.material.Bytes())
}

func decodeStoredKey(value []byte) (k storedKey, err error) {
	err = decodeRecord("a signature key", value, func(d *decoder) {
		k = storedKey{core.KeyRef(d.bytes()), core.NewSecret(d.bytes())}
	})
	return k, err
}

// signer opens one of our signature keys. That what names it was read, and it is gone,
// is core.ErrDamaged, unless another process went on meanwhile: see explain and choose.
func (t *Transaction) signer(ctx context.Context, public []byte) (core.Signer, error) {
	return t.client.signer(ctx, t.segment, public)
}

func (c *Client) signer(ctx context.Context, s *segment, public []byte) (core.Signer, error) {
	p := at(tableSignatureKey, string(public))
	removed := func(ctx context.Context) bool { // since it was read
		_, found, err := newSegment(c.store).get(ctx, p, theOnly)
		return err == nil && !found
	}
	if known, ok := c.signers.Load(string(public)); ok {
		return ownKey{known.(core.Signer), removed}, nil
	}
	gone := fmt.Errorf("private key of a signature key is gone: %w", core.ErrDamaged)
	r, found, err := s.get(ctx, p, theOnly)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, gone
	}
	stored, err := decodeStoredKey(r.Value)
	if err != nil {
		return nil, err
	}
	key, err := c.keys.OpenKey(ctx, stored.ref, stored.material)
	if errors.Is(err, core.ErrNotFound) && removed(ctx) {
		return nil, gone
	}
	if err != nil {
		return nil, troubleWith(err)
	}
	signer, ok := key.(core.Signer)
	switch {
	case !ok:
		return nil, keyTrouble{fmt.Errorf("key %s does not sign: %w", stored.ref, core.ErrUnsupported)}
	case !bytes.Equal(signer.Public(), public): // in a token that was put in the place of another
		return nil, keyTrouble{fmt.Errorf("%s: %w", stored.ref, ErrOtherKey)}
	}
	if _, software := key.(core.SoftwareKey); !software {
		signer = checkedKey{signer, c.suiteOf(key.Algorithm())}
	}
	c.signers.Store(string(public), signer)
	return ownKey{signer, removed}, nil
}

// suiteOf is a suite with signatures of an algorithm, nil if there is none.
func (c *Client) suiteOf(algorithm core.KeyAlgorithm) core.Suite {
	for _, id := range c.suites.Suites() {
		if suite, err := c.suites.Suite(id); err == nil && suite.Parameters().Signature == algorithm {
			return suite
		}
	}
	return nil
}

// A checkedKey verifies what a key signs that is in a token or in a plugin. The service
// takes a commit whose signature is wrong, and no member does: its author would be out of
// the group for good, and not know.
type checkedKey struct {
	core.Signer
	suite core.Suite
}

func (k checkedKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	signature, err := k.Signer.Sign(ctx, message)
	if err == nil && k.suite != nil && k.suite.Verify(k.Public(), message, signature) != nil {
		return nil, fmt.Errorf("key %s has signed wrongly: %w", k.Ref(), core.ErrUnavailable)
	}
	return signature, err
}

// An ownKey is a signature key of ours, whose errors no message is to blame for. That
// another process has removed it meanwhile is a conflict.
type ownKey struct {
	core.Signer
	removed func(context.Context) bool
}

func (k ownKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	signature, err := k.Signer.Sign(ctx, message)
	if errors.Is(err, core.ErrNotFound) && k.removed(ctx) {
		return nil, fmt.Errorf("a signature key was removed meanwhile: %w", core.ErrConflict)
	}
	if err != nil {
		return nil, troubleWith(err)
	}
	return signature, nil
}

// keyTrouble is what a provider says of one of our signature keys, or of one that was. It may be any error of
// core: see Blames.
type keyTrouble struct{ error }

func (e keyTrouble) Unwrap() error { return e.error }

func troubleWith(err error) error {
	if errors.Is(err, core.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrKeyGone, err)
	}
	return keyTrouble{err}
}

func isKeyTrouble(err error) bool { return errors.As(err, new(keyTrouble)) }
