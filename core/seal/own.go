// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// ownTable holds, for each tenant, the records below and the receipts. The records
// have to be found without a key, so a store that guesses a tenant's name can see
// that it is right.
const ownTable core.Table = 0

const (
	rootRecord       = "root record" // see root.go
	generationRecord = "generation"  // empty; a new version with each change of the data keys, expected by every batch
	ancestryRecord   = "ancestry"    // see Store.Incarnation
)

// ownKey is where a record of a tenant is.
func ownKey(tenant, record string) []byte {
	sum := sha256.Sum256([]byte("conclave " + record + "\x00" + tenant))
	return sum[:blindLen]
}

// A reader is a Keystore or a Snapshot of one.
type reader interface {
	Read(ctx context.Context, queries []core.Query) ([][]core.Record, error)
}

// own is what a tenant has in its own table, from one state.
type own struct {
	root        core.Record // zero if there is none
	generation  core.Version
	store       core.Version // incarnation of the keystore
	incarnation core.Version // of the tenant
}

// Exists says whether a keystore has a tenant, which [Open] would make. One that has
// moved away is there; one that is being restored is not yet.
func Exists(ctx context.Context, ks core.Keystore, tenant string) (bool, error) {
	o, err := readOwn(ctx, ks, tenant)
	if err != nil {
		return false, fmt.Errorf("seal: exists: %w", err)
	}
	return o.root.Key != nil, nil
}

func readOwn(ctx context.Context, ks reader, tenant string) (own, error) {
	found, err := ks.Read(ctx, []core.Query{
		{Table: ownTable, Prefix: ownKey(tenant, rootRecord)},
		{Table: ownTable, Prefix: ownKey(tenant, generationRecord), KeysOnly: true},
		{Table: ownTable, Prefix: ownKey(tenant, ancestryRecord)},
		core.IncarnationQuery(),
	})
	if err != nil {
		return own{}, err
	}
	if len(found) != 4 {
		return own{}, damaged(ownTable, "the store gave %d answers to 4 queries", len(found))
	}
	var single [4]core.Record
	for i := range found {
		if len(found[i]) > 1 {
			return own{}, damaged(ownTable, "more than one record of a kind")
		}
		if len(found[i]) == 1 {
			single[i] = found[i][0]
		}
	}
	o := own{root: single[0], generation: single[1].Version, store: single[3].Version}
	o.incarnation, err = parseAncestry(single[2], o.store)
	return o, err
}

// expect is that nobody changes the root or the data keys meanwhile.
func (o own) expect(tenant string) []core.Expectation {
	return []core.Expectation{
		{Table: ownTable, Key: ownKey(tenant, rootRecord), Version: o.root.Version},
		{Table: ownTable, Key: ownKey(tenant, generationRecord), Version: o.generation},
	}
}

func putRoot(tenant string, value []byte) core.Put {
	return core.Put{Table: ownTable, Key: ownKey(tenant, rootRecord), Value: value, Version: core.NewVersion()}
}

func putGeneration(tenant string, v core.Version) core.Put {
	return core.Put{Table: ownTable, Key: ownKey(tenant, generationRecord), Version: v}
}

// The ancestry record says which incarnation the tenant has while its keystore has a
// certain one: that which it brought along from another keystore, or a new one that
// its neighbours do not share.
//
//	opaque of_store[16]
//	opaque of_tenant[16]
func putAncestry(tenant string, ofStore, ofTenant core.Version) core.Put {
	return core.Put{Table: ownTable, Key: ownKey(tenant, ancestryRecord), Value: join(ofStore[:], ofTenant[:]), Version: core.NewVersion()}
}

func parseAncestry(r core.Record, store core.Version) (core.Version, error) {
	if r.Key == nil {
		return store, nil
	}
	if len(r.Value) != 2*len(store) {
		return core.Version{}, damaged(ownTable, "ancestry of %d bytes", len(r.Value))
	}
	if core.Version(r.Value[:len(store)]) != store { // an accident since
		return store, nil
	}
	return core.Version(r.Value[len(store):]), nil
}

// Incarnation says through how many accidents the tenant's records went: it is another
// one when they were put back to an older state, by the restoring of a backup or
// otherwise. Who keeps state compares it with the one that it knew.
func (s *Store) Incarnation() core.Version { return s.incarnation }

func noRoot(tenant string) error {
	return fmt.Errorf("keys of tenant %q: %w", tenant, core.ErrNotFound)
}
