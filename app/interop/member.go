// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

// maxPSKs and maxPSKBytes bound what the driver may store with one member.
const (
	maxPSKs     = 1024
	maxPSKBytes = 4096 // of an id or a key
)

// A member is what one that we play has, in a group or before it is in one.
type member struct {
	software *pure.Provider
	identity []byte
	signer   core.Signer
	psks     map[string]core.Secret // external ones, by id
}

func newMember(software *pure.Provider, identity []byte, signer core.Signer) member {
	return member{software: software, identity: identity, signer: signer, psks: map[string]core.Secret{}}
}

// again is the same member with a new signature key, for another group.
func (m *member) again(signer core.Signer) member {
	next := newMember(m.software, m.identity, signer)
	next.takePSKs(m)
	return next
}

// takePSKs copies the pre-shared keys of another, which goes on with them as well.
// As everywhere, a newer one replaces one of the same id.
func (m *member) takePSKs(from *member) {
	for id, key := range from.psks {
		if before, known := m.psks[id]; known || len(m.psks) < maxPSKs {
			before.Wipe()
			m.psks[id] = key.Clone()
		}
	}
}

func (m *member) credential() core.Credential {
	return core.BasicCredential(core.ClientID(m.identity))
}

func (m *member) wipe() {
	for key := range maps.Values(m.psks) {
		key.Wipe()
	}
	clear(m.psks)
}

// storePSK keeps a copy of an external pre-shared key, instead of one that had the
// same id.
func (m *member) storePSK(id, key []byte) error {
	before, known := m.psks[string(id)]
	switch {
	case len(key) == 0:
		return invalid("empty pre-shared key")
	case len(id) > maxPSKBytes || len(key) > maxPSKBytes, !known && len(m.psks) >= maxPSKs:
		return fmt.Errorf("pre-shared key: %w", core.ErrTooLarge)
	}
	before.Wipe()
	m.psks[string(id)] = core.NewSecret(bytes.Clone(key))
	return nil
}

// env is without records: those are a group's.
func (m *member) env() *mls.Env {
	return &mls.Env{
		Suites: m.software,
		Auth:   client.Basic{},
		Signer: func(_ context.Context, public []byte) (core.Signer, error) {
			if bytes.Equal(public, m.signer.Public()) {
				return m.signer, nil
			}
			return nil, fmt.Errorf("signature key: %w", core.ErrNotFound)
		},
		PSK: func(_ context.Context, id mls.PreSharedKeyID) (core.Secret, error) {
			if key, ok := m.psks[string(id.ID)]; ok && id.Type == mls.PSKExternal {
				return key.Clone(), nil
			}
			return core.Secret{}, mls.ErrMissingPSK
		},
		Now: time.Now(),
	}
}
