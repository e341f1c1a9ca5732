// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// privateKeys are the HPKE keys that we hold in a group: own leaf, own path, and
// the leaf keys of own Update proposals that nobody has committed yet (COM-7).
// It is an immutable value.
type privateKeys struct {
	path    pathKeys
	updates []updateKey
}

type updateKey struct {
	public   []byte
	material core.Secret
}

func newPrivateKeys(own LeafIndex, leaf core.SoftwareKey) *privateKeys {
	return &privateKeys{path: pathKeys{}.with(own.node(), leaf)}
}

func (k *privateKeys) withUpdate(key core.SoftwareKey) *privateKeys {
	return &privateKeys{path: k.path, updates: append(slices.Clip(k.updates), updateKey{key.Public(), key.Material()})}
}

// update finds the key of an own Update proposal by its public key.
func (k *privateKeys) update(suite core.Suite, public []byte) (core.SoftwareKey, error) {
	for _, u := range k.updates {
		if bytes.Equal(u.public, public) {
			return suite.OpenKeyPair(u.material)
		}
	}
	return nil, fmt.Errorf("private key of our own update: %w", core.ErrDamaged)
}

func (k *privateKeys) append(b []byte) []byte {
	b = k.path.append(b)
	return appendList(b, k.updates, func(u updateKey, b []byte) []byte {
		return appendOpaque(appendOpaque(b, u.public), u.material.Bytes())
	})
}

func readPrivateKeys(r *reader) *privateKeys {
	k := &privateKeys{path: readPathKeys(r)}
	r.list(func(r *reader) {
		k.updates = append(k.updates, updateKey{public: r.opaque(), material: core.NewSecret(r.opaque()).Clone()})
	})
	return k
}

// retired lists the secrets that next does not hold any more: those of updates go
// with their epoch, but for the one that became our leaf's.
func (k *privateKeys) retired(next *privateKeys) []core.Secret {
	secrets := k.path.retired(next.path)
	for _, u := range k.updates {
		kept := func(v updateKey) bool { return u.material.Equal(v.material) }
		if !next.path.holds(u.material) && !slices.ContainsFunc(next.updates, kept) {
			secrets = append(secrets, u.material)
		}
	}
	return secrets
}

func (k *privateKeys) write(ws *record.WriteSet) {
	ws.Put(RecordPathKeys, nil, k.append([]byte{recordFormat}))
}

// loadKeys returns our private keys, from memory or from their record.
func (g *Group) loadKeys(ctx context.Context, env *Env) (*privateKeys, error) {
	if g.keys != nil {
		return g.keys, nil
	}
	data, err := env.Fetch.One(ctx, RecordPathKeys, nil)
	if err != nil {
		return nil, err
	}
	var keys *privateKeys
	err = unmarshalRecord("path keys", data, func(r *reader) { keys = readPrivateKeys(r) })
	return keys, err
}
