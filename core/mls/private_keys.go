// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"slices"

	"github.com/conclave-mls/conclave/core"
)

// privateKeys are the HPKE keys that we hold in a group: own leaf, own path, and
// the leaf keys of own Update proposals that nobody has committed yet (COM-7).
// It is an immutable value.
type privateKeys struct {
	path    pathKeys
	updates []core.SoftwareKey
}

func newPrivateKeys(own LeafIndex, leaf core.PrivateKey) *privateKeys {
	return &privateKeys{path: pathKeys{}.with(NodeIndex(2*own), leaf)}
}

func (k *privateKeys) withUpdate(key core.SoftwareKey) *privateKeys {
	return &privateKeys{path: k.path, updates: append(slices.Clip(k.updates), key)}
}

// update finds the key of an own Update proposal by its public key.
func (k *privateKeys) update(public []byte) (core.SoftwareKey, bool) {
	for _, u := range k.updates {
		if bytes.Equal(u.Public(), public) {
			return u, true
		}
	}
	return nil, false
}

func (k *privateKeys) append(b []byte) []byte {
	b = k.path.append(b)
	return appendList(b, k.updates, func(u core.SoftwareKey, b []byte) []byte { return appendOpaque(b, u.Material().Bytes()) })
}

// readPrivateKeys decodes the keys; opening them is left to the function that it
// returns, for when decoding has succeeded.
func readPrivateKeys(r *reader, suite core.Suite) func() (*privateKeys, error) {
	path := readPathKeys(r)
	var updates []core.Secret
	r.list(func(r *reader) { updates = append(updates, core.NewSecret(r.opaque())) })
	return func() (*privateKeys, error) {
		k := &privateKeys{path: path}
		for _, material := range updates {
			key, err := suite.OpenKeyPair(material)
			if err != nil {
				return nil, err
			}
			k.updates = append(k.updates, key)
		}
		return k, nil
	}
}

func (k *privateKeys) write(ws *WriteSet) {
	ws.put(RecordPathKeys, nil, k.append([]byte{recordFormat}))
}

// loadKeys returns our private keys, from memory or from their record.
func (g *Group) loadKeys(ctx context.Context, env *Env) (*privateKeys, error) {
	if g.keys != nil {
		return g.keys, nil
	}
	data, err := env.Fetch.one(ctx, RecordPathKeys, nil)
	if err != nil {
		return nil, err
	}
	var open func() (*privateKeys, error)
	if err := unmarshalRecord("path keys", data, func(r *reader) { open = readPrivateKeys(r, g.suite) }); err != nil {
		return nil, err
	}
	return open()
}
