// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/conclave-mls/conclave/core"
)

// Keys writes a line for each use of the provider's keys. The result is a
// [core.KeyDeleter] if the provider is. It is a [core.KeyImporter] and a
// [core.KeyAttester] always: core.ErrUnsupported if the provider is not. Of a
// [core.KeyChooser] the result is one, of providers that do all that.
func Keys(p core.CryptoProvider, log *slog.Logger) core.CryptoProvider {
	k := &keys{p, journal{log}}
	switch p := p.(type) {
	case core.KeyChooser:
		return &choosing{k, p}
	case core.KeyDeleter:
		return &keeping{k, p}
	}
	return k
}

type keys struct {
	provider core.CryptoProvider
	journal  journal
}

// keeping is a provider that keeps its keys.
type keeping struct {
	*keys
	deleter core.KeyDeleter
}

// choosing is a provider that stands for others.
type choosing struct {
	*keys
	chooser core.KeyChooser
}

// Provider implements [core.KeyChooser].
func (c *choosing) Provider(ref core.KeyRef) core.CryptoProvider {
	return Keys(c.chooser.Provider(ref), c.journal.log)
}

var (
	_ core.KeyImporter = (*keys)(nil)
	_ core.KeyAttester = (*keys)(nil)
	_ core.KeyDeleter  = (*keeping)(nil)
)

// Algorithms uses no key.
func (k *keys) Algorithms(ctx context.Context) ([]core.KeyAlgorithm, error) {
	return k.provider.Algorithms(ctx)
}

func (k *keys) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	key, err := k.provider.GenerateKey(ctx, spec)
	return k.made(ctx, "generate", spec, key, err)
}

func (k *keys) ImportKey(ctx context.Context, spec core.KeySpec, material core.Secret) (core.PrivateKey, error) {
	importer, ok := k.provider.(core.KeyImporter)
	if !ok {
		return k.made(ctx, "import", spec, nil, fmt.Errorf("import a key: %w", core.ErrUnsupported))
	}
	key, err := importer.ImportKey(ctx, spec, material)
	return k.made(ctx, "import", spec, key, err)
}

func (k *keys) made(ctx context.Context, operation string, spec core.KeySpec, key core.PrivateKey, err error) (core.PrivateKey, error) {
	if err != nil {
		k.journal.write(ctx, operation, err, slog.String("algorithm", string(spec.Algorithm)))
		return nil, err
	}
	k.journal.use(ctx, operation, key, nil)
	return k.wrap(key), nil
}

func (k *keys) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	key, err := k.provider.OpenKey(ctx, ref, material)
	if err != nil {
		k.journal.write(ctx, "open", err, slog.String("key", string(ref)))
		return nil, err
	}
	k.journal.use(ctx, "open", key, nil)
	return k.wrap(key), nil
}

func (k *keys) AttestKey(ctx context.Context, ref core.KeyRef, nonce []byte) (proof []byte, err error) {
	if attester, ok := k.provider.(core.KeyAttester); ok {
		proof, err = attester.AttestKey(ctx, ref, nonce)
	} else {
		err = fmt.Errorf("attest a key: %w", core.ErrUnsupported)
	}
	k.journal.write(ctx, "attest", err, slog.String("key", string(ref)))
	return proof, err
}

func (k *keeping) DeleteKey(ctx context.Context, ref core.KeyRef) error {
	err := k.deleter.DeleteKey(ctx, ref)
	k.journal.write(ctx, "delete", err, slog.String("key", string(ref)))
	return err
}

// wrap gives a key the abilities of the one in it.
func (k *keys) wrap(key core.PrivateKey) core.PrivateKey {
	h := handle{key, k.journal}
	soft, isSoft := key.(core.SoftwareKey)
	switch inner := key.(type) {
	case core.Signer:
		if isSoft {
			return softSigner{signer{h, inner}, soft}
		}
		return signer{h, inner}
	case core.Agreer:
		if isSoft {
			return softAgreer{agreer{h, inner}, soft}
		}
		return agreer{h, inner}
	case core.Decapsulator:
		if isSoft {
			return softDecapsulator{decapsulator{h, inner}, soft}
		}
		return decapsulator{h, inner}
	}
	return key // it cannot be used
}

// A handle is a key that is watched.
type handle struct {
	key     core.PrivateKey
	journal journal
}

func (h handle) Ref() core.KeyRef             { return h.key.Ref() }
func (h handle) Algorithm() core.KeyAlgorithm { return h.key.Algorithm() }
func (h handle) Public() []byte               { return h.key.Public() }

// Format is what every verb prints: the name only.
func (h handle) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "audit.Key("+string(h.Ref())+")")
}

// Wipe zeroes the key, if it is one that can be.
func (h handle) Wipe() {
	if w, ok := h.key.(interface{ Wipe() }); ok {
		w.Wipe()
	}
}

type (
	signer struct {
		handle
		inner core.Signer
	}
	agreer struct {
		handle
		inner core.Agreer
	}
	decapsulator struct {
		handle
		inner core.Decapsulator
	}
	softSigner struct {
		signer
		soft core.SoftwareKey
	}
	softAgreer struct {
		agreer
		soft core.SoftwareKey
	}
	softDecapsulator struct {
		decapsulator
		soft core.SoftwareKey
	}
)

// Material belongs to the making of the key, which has its line: it is sealed then.
func (k softSigner) Material() core.Secret       { return k.soft.Material() }
func (k softAgreer) Material() core.Secret       { return k.soft.Material() }
func (k softDecapsulator) Material() core.Secret { return k.soft.Material() }

func (k signer) Sign(ctx context.Context, message []byte) ([]byte, error) {
	signature, err := k.inner.Sign(ctx, message)
	k.journal.use(ctx, "sign", k.key, err, signs(message)...)
	return signature, err
}

func (k agreer) Agree(ctx context.Context, peer []byte) (core.Secret, error) {
	secret, err := k.inner.Agree(ctx, peer)
	k.journal.use(ctx, "agree", k.key, err)
	return secret, err
}

func (k decapsulator) Decapsulate(ctx context.Context, enc []byte) (core.Secret, error) {
	secret, err := k.inner.Decapsulate(ctx, enc)
	k.journal.use(ctx, "decapsulate", k.key, err)
	return secret, err
}
