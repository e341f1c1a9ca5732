// SPDX-License-Identifier: Apache-2.0

package coretest_test

import (
	"bytes"
	"context"
	"crypto/cipher"
	"errors"
	"math"
	"runtime"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
)

// A spoiled source gives suite 1 (or another one) after change.
type spoiled struct {
	core.SuiteSource
	id     core.SuiteID
	change func(core.Suite) core.Suite
}

func (s spoiled) Suites() []core.SuiteID { return []core.SuiteID{s.id} }

func (s spoiled) Suite(id core.SuiteID) (core.Suite, error) {
	suite, err := s.SuiteSource.Suite(id)
	if err != nil {
		return nil, err
	}
	return s.change(suite), nil
}

// The wrong suites: each embeds a right one.
type (
	wrongParameters struct{ core.Suite }
	lastPartHash    struct{ core.Suite }
	longExpand      struct{ core.Suite }
	anyKeyAEAD      struct{ core.Suite }
	keyKeepingAEAD  struct{ core.Suite }
	randomDerive    struct{ core.Suite }
	aliasingKeys    struct{ core.Suite }
	laxValidate     struct{ core.Suite }
	lengthValidate  struct{ core.Suite }
	noInfo          struct{ core.Suite }
	noAAD           struct{ core.Suite }
	plainErrors     struct{ core.Suite }
	shortExport     struct{ core.Suite }
	ownKeysOnly     struct{ core.Suite }
	trustingAgreer  struct{ core.Suite }
	freshContext    struct{ core.Suite }
	prefixVerify    struct{ core.Suite }
	yesVerify       struct{ core.Suite }
	wipingExtract   struct{ core.Suite }
	sharedScratch   struct {
		core.Suite
		mu      *sync.Mutex
		scratch *[]byte
	}
)

func (s wrongParameters) Parameters() core.SuiteParameters {
	p := s.Suite.Parameters()
	p.AEAD = 2
	return p
}

func (s lastPartHash) Hash(parts ...[]byte) []byte {
	return s.Suite.Hash(parts[max(0, len(parts)-1):]...)
}

func (s longExpand) Expand(prk core.Secret, info []byte, length int) (core.Secret, error) {
	return s.Suite.Expand(prk, info, min(max(length, 0), 255*32))
}

func (s anyKeyAEAD) AEAD(key core.Secret) (cipher.AEAD, error) {
	return s.Suite.AEAD(core.NewSecret(append(key.Clone().Bytes(), make([]byte, 16)...)[:16]))
}

// lateAEAD sets itself up again for each call, from the key it was given.
type lateAEAD struct {
	cipher.AEAD
	s   core.Suite
	key core.Secret
}

func (a lateAEAD) Open(dst, nonce, ciphertext, aad []byte) ([]byte, error) {
	again, err := a.s.AEAD(a.key)
	if err != nil {
		return nil, err
	}
	return again.Open(dst, nonce, ciphertext, aad)
}

func (s keyKeepingAEAD) AEAD(key core.Secret) (cipher.AEAD, error) {
	a, err := s.Suite.AEAD(key)
	return lateAEAD{a, s.Suite, key}, err
}

func (s randomDerive) DeriveKeyPair(core.Secret) (core.SoftwareKey, error) {
	return s.GenerateKeyPair()
}

func (s aliasingKeys) OpenKeyPair(material core.Secret) (core.SoftwareKey, error) {
	key, err := s.Suite.OpenKeyPair(material)
	if err != nil {
		return nil, err
	}
	return badAgreer{&badKey{SoftwareKey: key, agree: func(ctx context.Context, peer []byte) (core.Secret, error) {
		key, err := s.Suite.OpenKeyPair(material)
		if err != nil {
			return core.Secret{}, err
		}
		return key.(core.Agreer).Agree(ctx, peer)
	}}}, nil
}

func (s laxValidate) ValidatePublic([]byte) error          { return nil }
func (s laxValidate) ValidateSignaturePublic([]byte) error { return nil }

func (s lengthValidate) ValidateSignaturePublic(public []byte) error {
	if len(public) != 32 {
		return core.ErrInvalid
	}
	return nil
}

func (s noInfo) Sealer([]byte) core.Sealer { return s.Suite.Sealer(nil) }

func (s noInfo) Recipient(key core.PrivateKey) (core.Recipient, error) {
	r, err := s.Suite.Recipient(key)
	return recipientOf{Recipient: r, dropInfo: true}, err
}

func (s noAAD) Sealer(info []byte) core.Sealer { return noAADSealer{s.Suite.Sealer(info)} }

type noAADSealer struct{ core.Sealer }

func (s noAADSealer) Seal(public, _, plaintext []byte) (core.HPKECiphertext, error) {
	return s.Sealer.Seal(public, nil, plaintext)
}

func (s noAAD) Recipient(key core.PrivateKey) (core.Recipient, error) {
	r, err := s.Suite.Recipient(key)
	return recipientOf{Recipient: r, dropAAD: true}, err
}

func (s plainErrors) Recipient(key core.PrivateKey) (core.Recipient, error) {
	r, err := s.Suite.Recipient(key)
	return recipientOf{Recipient: r, plain: true}, err
}

func (s shortExport) Recipient(key core.PrivateKey) (core.Recipient, error) {
	r, err := s.Suite.Recipient(key)
	return recipientOf{Recipient: r, cutExport: true}, err
}

func (s freshContext) Recipient(key core.PrivateKey) (core.Recipient, error) {
	r, err := s.Suite.Recipient(key)
	return recipientOf{Recipient: r, ctx: context.Background()}, err
}

type recipientOf struct {
	core.Recipient
	dropInfo, dropAAD, plain, cutExport bool
	ctx                                 context.Context
}

func (r recipientOf) Open(ctx context.Context, info, aad []byte, ct core.HPKECiphertext) ([]byte, error) {
	if r.dropInfo {
		info = nil
	}
	if r.dropAAD {
		aad = nil
	}
	if r.ctx != nil {
		ctx = r.ctx
	}
	plaintext, err := r.Recipient.Open(ctx, info, aad, ct)
	if err != nil && r.plain {
		err = errors.New("open failed")
	}
	return plaintext, err
}

func (r recipientOf) Setup(ctx context.Context, enc, info []byte) (core.Exporter, error) {
	e, err := r.Recipient.Setup(ctx, enc, info)
	if err == nil && r.cutExport {
		e = wrappingExporter{e}
	}
	return e, err
}

// A wrappingExporter's length has 16 bits, as on the wire.
type wrappingExporter struct{ core.Exporter }

func (e wrappingExporter) Export(exporterContext []byte, length int) (core.Secret, error) {
	return e.Exporter.Export(exporterContext, length&math.MaxUint16)
}

func (s ownKeysOnly) Recipient(key core.PrivateKey) (core.Recipient, error) {
	if _, ok := key.(core.SoftwareKey); !ok {
		return nil, core.ErrUnsupported
	}
	return s.Suite.Recipient(key)
}

// trustingAgreer opens with whatever the Agreer says: it shows the suite a key
// that agrees on one fixed point where the real one's result is all zero.
func (s trustingAgreer) Recipient(key core.PrivateKey) (core.Recipient, error) {
	agreer, ok := key.(core.Agreer)
	if !ok {
		return s.Suite.Recipient(key)
	}
	return s.Suite.Recipient(badAgreer{&badKey{
		SoftwareKey: unsaved{key},
		agree: func(ctx context.Context, peer []byte) (core.Secret, error) {
			secret, err := agreer.Agree(ctx, peer)
			if err == nil && bytes.Equal(secret.Bytes(), make([]byte, secret.Len())) {
				secret = core.NewSecret(bytes.Repeat([]byte{9}, 32))
			}
			return secret, err
		},
	}})
}

type unsaved struct{ core.PrivateKey }

func (unsaved) Material() core.Secret { return core.Secret{} }

func (s prefixVerify) Verify(public, message, signature []byte) error {
	return s.Suite.Verify(public, message, signature[:min(len(signature), 64)])
}

func (s yesVerify) Verify(_, _, _ []byte) error { return nil }

func (s wipingExtract) Extract(salt, ikm core.Secret) core.Secret {
	defer ikm.Wipe()
	return s.Suite.Extract(salt, ikm)
}

func (s sharedScratch) MAC(key core.Secret, message []byte) []byte {
	s.mu.Lock()
	*s.scratch = bytes.Clone(message)
	s.mu.Unlock()
	runtime.Gosched()
	s.mu.Lock()
	message = *s.scratch
	s.mu.Unlock()
	return s.Suite.MAC(key, message)
}

// A source that has every suite.
type everySuite struct{ *pure.Provider }

func (s everySuite) Suite(core.SuiteID) (core.Suite, error) { return s.Provider.Suite(1) }

func TestWrongSuitesAreCaught(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(core.Suite) core.Suite
		want   string
	}{
		"another AEAD's number":               {func(s core.Suite) core.Suite { return wrongParameters{s} }, "has the parameters of RFC 9420"},
		"hashes the last part":                {func(s core.Suite) core.Suite { return lastPartHash{s} }, "hashes, macs and derives"},
		"expands to less than asked":          {func(s core.Suite) core.Suite { return longExpand{s} }, "limits Expand"},
		"pads AEAD keys":                      {func(s core.Suite) core.Suite { return anyKeyAEAD{s} }, "encrypts"},
		"keeps the AEAD key":                  {func(s core.Suite) core.Suite { return keyKeepingAEAD{s} }, "neither keeps nor changes slices"},
		"derives at random":                   {func(s core.Suite) core.Suite { return randomDerive{s} }, "makes key pairs"},
		"keeps material":                      {func(s core.Suite) core.Suite { return aliasingKeys{s} }, "makes key pairs"},
		"validates nothing":                   {func(s core.Suite) core.Suite { return laxValidate{s} }, "validates public keys"},
		"validates a signature key's length":  {func(s core.Suite) core.Suite { return lengthValidate{s} }, "validates public keys"},
		"ignores the info":                    {func(s core.Suite) core.Suite { return noInfo{s} }, "opens nothing else"},
		"ignores the associated data":         {func(s core.Suite) core.Suite { return noAAD{s} }, "opens nothing else"},
		"loses the identity of errors":        {func(s core.Suite) core.Suite { return plainErrors{s} }, "opens nothing else"},
		"cuts export lengths to 16 bits":      {func(s core.Suite) core.Suite { return shortExport{s} }, "limits Export"},
		"takes software keys only":            {func(s core.Suite) core.Suite { return ownKeysOnly{s} }, "takes any Agreer"},
		"accepts all-zero secrets":            {func(s core.Suite) core.Suite { return trustingAgreer{s} }, "takes any Agreer"},
		"calls the key with its own context":  {func(s core.Suite) core.Suite { return freshContext{s} }, "takes any Agreer"},
		"ignores bytes after a signature":     {func(s core.Suite) core.Suite { return prefixVerify{s} }, "verifies signatures"},
		"verifies everything":                 {func(s core.Suite) core.Suite { return yesVerify{s} }, "verifies signatures"},
		"wipes what it was given":             {func(s core.Suite) core.Suite { return wipingExtract{s} }, "neither keeps nor changes slices"},
		"has one scratch space for all calls": {func(s core.Suite) core.Suite { return sharedScratch{s, new(sync.Mutex), new([]byte)} }, "works concurrently"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			coretest.CatchSuiteSource(t, func(testing.TB) core.SuiteSource {
				return spoiled{pure.New(), core.SuiteX25519AES128Ed25519, tt.change}
			}, tt.want)
		})
	}
	t.Run("has every suite", func(t *testing.T) {
		coretest.CatchSuiteSource(t, func(testing.TB) core.SuiteSource { return everySuite{pure.New()} }, "lists its suites")
	})
}
