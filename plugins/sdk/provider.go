// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

type providerServer struct {
	wire.UnimplementedCryptoProviderServer
	*server
}

func (s providerServer) Algorithms(ctx context.Context, m *wire.AlgorithmsRequest) (*wire.AlgorithmsResponse, error) {
	p, err := instance(s.providers, m.GetInstance())
	if err != nil {
		return &wire.AlgorithmsResponse{Error: wire.ToError(err)}, nil
	}
	algs, err := p.Algorithms(ctx)
	if err != nil {
		return &wire.AlgorithmsResponse{Error: wire.ToError(err)}, nil
	}
	return &wire.AlgorithmsResponse{Algorithms: wire.ToAlgorithms(algs)}, nil
}

// keyResponse describes a key. Its material goes over if the provider does not keep it.
func keyResponse(key core.PrivateKey, err error) (*wire.KeyResponse, error) {
	if err != nil {
		return &wire.KeyResponse{Error: wire.ToError(err)}, nil
	}
	m := &wire.Key{Ref: string(key.Ref()), Algorithm: string(key.Algorithm()), Public: key.Public()}
	switch key.(type) {
	case core.Signer:
		m.Ability = wire.Ability_ABILITY_SIGN
	case core.Agreer:
		m.Ability = wire.Ability_ABILITY_AGREE
	case core.Decapsulator:
		m.Ability = wire.Ability_ABILITY_DECAPSULATE
	}
	if soft, ok := key.(core.SoftwareKey); ok {
		m.Material = soft.Material().Bytes()
	}
	return &wire.KeyResponse{Key: m}, nil
}

func (s providerServer) GenerateKey(ctx context.Context, m *wire.GenerateKeyRequest) (*wire.KeyResponse, error) {
	p, err := instance(s.providers, m.GetInstance())
	if err != nil {
		return keyResponse(nil, err)
	}
	spec, err := wire.FromKeySpec(m.GetSpec())
	if err != nil {
		return keyResponse(nil, err)
	}
	return keyResponse(p.GenerateKey(ctx, spec))
}

func (s providerServer) OpenKey(ctx context.Context, m *wire.OpenKeyRequest) (*wire.KeyResponse, error) {
	return keyResponse(s.open(ctx, m))
}

// openKeys are keys that their provider keeps, as they were opened last: to find one on a
// token takes longer than to sign with it.
type openKeys struct {
	mu  sync.Mutex
	all map[keyName]openKey
}

type openKey struct {
	core.PrivateKey
	opened time.Time
}

type keyName struct{ instance, ref string }

const (
	maxOpenKeys = 1024        // more than a client uses in turn
	openFor     = time.Minute // then who deleted it elsewhere is heard, though the provider has it in memory
)

func (o *openKeys) get(n keyName) core.PrivateKey {
	o.mu.Lock()
	defer o.mu.Unlock()
	if k, ok := o.all[n]; ok && time.Since(k.opened) < openFor {
		return k.PrivateKey
	}
	return nil
}

func (o *openKeys) set(n keyName, key core.PrivateKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil || len(o.all) >= maxOpenKeys {
		o.all = map[keyName]openKey{}
	}
	o.all[n] = openKey{key, time.Now()}
}

func (o *openKeys) forget(n keyName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, n)
}

// namesKey is a request that names a key.
type namesKey interface {
	GetInstance() string
	GetRef() string
	GetMaterial() []byte
}

func (s providerServer) open(ctx context.Context, m namesKey) (core.PrivateKey, error) {
	p, err := instance(s.providers, m.GetInstance())
	if err != nil {
		return nil, err
	}
	material := core.NewSecret(m.GetMaterial())
	defer material.Wipe()
	name := keyName{m.GetInstance(), m.GetRef()}
	key, err := p.OpenKey(ctx, core.KeyRef(name.ref), material)
	if _, software := key.(core.SoftwareKey); err != nil || software || !material.IsZero() {
		s.keys.forget(name)
	} else {
		s.keys.set(name, key)
	}
	return key, err
}

// opened is open for a key that may be open already.
func (s providerServer) opened(ctx context.Context, m namesKey) (core.PrivateKey, error) {
	if key := s.keys.get(keyName{m.GetInstance(), m.GetRef()}); key != nil && len(m.GetMaterial()) == 0 {
		return key, nil
	}
	return s.open(ctx, m)
}

// heed has a key opened anew that did not work: it may be another by now.
func (s providerServer) heed(m namesKey, err error) {
	if err != nil {
		s.keys.forget(keyName{m.GetInstance(), m.GetRef()})
	}
}

// bytesResponse is the answer of a call that gives bytes.
func bytesResponse(b []byte, err error) (*wire.BytesResponse, error) {
	if err != nil {
		return &wire.BytesResponse{Error: wire.ToError(err)}, nil
	}
	return &wire.BytesResponse{Bytes: b}, nil
}

func secretResponse(s core.Secret, err error) (*wire.BytesResponse, error) {
	return bytesResponse(s.Bytes(), err)
}

// cannot is the answer for a key or a provider without an ability.
func cannot(what string) (*wire.BytesResponse, error) {
	return bytesResponse(nil, fmt.Errorf("%s: %w", what, core.ErrUnsupported))
}

func (s providerServer) Sign(ctx context.Context, m *wire.UseKeyRequest) (*wire.BytesResponse, error) {
	key, err := s.opened(ctx, m)
	if err != nil {
		return bytesResponse(nil, err)
	}
	if signer, ok := key.(core.Signer); ok {
		signature, err := signer.Sign(ctx, m.GetInput())
		s.heed(m, err)
		return bytesResponse(signature, err)
	}
	return cannot("sign")
}

func (s providerServer) Agree(ctx context.Context, m *wire.UseKeyRequest) (*wire.BytesResponse, error) {
	key, err := s.opened(ctx, m)
	if err != nil {
		return bytesResponse(nil, err)
	}
	if agreer, ok := key.(core.Agreer); ok {
		secret, err := agreer.Agree(ctx, m.GetInput())
		s.heed(m, err)
		return secretResponse(secret, err)
	}
	return cannot("agree")
}

func (s providerServer) Decapsulate(ctx context.Context, m *wire.UseKeyRequest) (*wire.BytesResponse, error) {
	key, err := s.opened(ctx, m)
	if err != nil {
		return bytesResponse(nil, err)
	}
	if d, ok := key.(core.Decapsulator); ok {
		secret, err := d.Decapsulate(ctx, m.GetInput())
		s.heed(m, err)
		return secretResponse(secret, err)
	}
	return cannot("decapsulate")
}

func (s providerServer) DeleteKey(ctx context.Context, m *wire.DeleteKeyRequest) (*wire.EmptyResponse, error) {
	p, err := instance(s.providers, m.GetInstance())
	if err == nil {
		if d, ok := p.(core.KeyDeleter); ok {
			err = d.DeleteKey(ctx, core.KeyRef(m.GetRef()))
			s.keys.forget(keyName{m.GetInstance(), m.GetRef()})
		} else {
			err = fmt.Errorf("delete a key: %w", core.ErrUnsupported)
		}
	}
	return &wire.EmptyResponse{Error: wire.ToError(err)}, nil
}

func (s providerServer) ImportKey(ctx context.Context, m *wire.ImportKeyRequest) (*wire.KeyResponse, error) {
	p, err := instance(s.providers, m.GetInstance())
	if err != nil {
		return keyResponse(nil, err)
	}
	i, ok := p.(core.KeyImporter)
	if !ok {
		return keyResponse(nil, fmt.Errorf("import a key: %w", core.ErrUnsupported))
	}
	spec, err := wire.FromKeySpec(m.GetSpec())
	if err != nil {
		return keyResponse(nil, err)
	}
	material := core.NewSecret(m.GetMaterial())
	defer material.Wipe()
	return keyResponse(i.ImportKey(ctx, spec, material))
}

func (s providerServer) AttestKey(ctx context.Context, m *wire.AttestKeyRequest) (*wire.BytesResponse, error) {
	p, err := instance(s.providers, m.GetInstance())
	if err != nil {
		return bytesResponse(nil, err)
	}
	if a, ok := p.(core.KeyAttester); ok {
		return bytesResponse(a.AttestKey(ctx, core.KeyRef(m.GetRef()), m.GetNonce()))
	}
	return cannot("attest a key")
}
