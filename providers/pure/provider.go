// SPDX-License-Identifier: Apache-2.0

package pure

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/conclave-mls/conclave/core"
)

// scheme is the KeyRef scheme of this provider, and its name in errors.
const scheme = "pure"

// A Provider is a core.SuiteSource and a core.CryptoProvider. It has no state.
type Provider struct{}

var (
	_ core.SuiteSource    = (*Provider)(nil)
	_ core.CryptoProvider = (*Provider)(nil)
	_ core.KeyImporter    = (*Provider)(nil)
)

// New returns the provider.
func New() *Provider { return &Provider{} }

// Suites lists the seven suites of RFC 9420, suite 1 first.
func (p *Provider) Suites() []core.SuiteID {
	ids := make([]core.SuiteID, len(rfc9420))
	for i, s := range rfc9420 {
		ids[i] = s.id
	}
	return ids
}

// Suite returns one of them, or core.ErrUnsupported.
func (p *Provider) Suite(id core.SuiteID) (core.Suite, error) {
	for _, s := range rfc9420 {
		if s.id == id {
			return s, nil
		}
	}
	return nil, fail("suite", fmt.Errorf("cipher suite %s: %w", id, core.ErrUnsupported))
}

// The algorithms of keys that the provider can make.
var (
	signatures = []*signature{ed25519Signature, ed448Signature, ecdsaP256Signature, ecdsaP384Signature, ecdsaP521Signature}
	kems       = []*dhkem{kemX25519, kemX448, kemP256, kemP384, kemP521}
)

// Algorithms lists the ten algorithms of the suites.
func (p *Provider) Algorithms(ctx context.Context) ([]core.KeyAlgorithm, error) {
	if err := ctx.Err(); err != nil {
		return nil, fail("algorithms", err)
	}
	var all []core.KeyAlgorithm
	for _, s := range signatures {
		all = append(all, s.alg)
	}
	for _, k := range kems {
		all = append(all, k.alg)
	}
	return all, nil
}

// GenerateKey makes a new core.SoftwareKey each time: a core.Signer or, for
// core.UseDecrypt, a core.Agreer.
func (p *Provider) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	const op = "generate key"
	if err := ctx.Err(); err != nil {
		return nil, fail(op, err)
	}
	var key namedKey
	var err error
	sig, kem := algorithm(spec.Algorithm)
	switch {
	case sig != nil && spec.Use == core.UseSign:
		var k signKey
		if k, err = sig.generate(); err == nil {
			key = &signatureKey{alg: sig.alg, k: k}
		}
	case kem != nil && spec.Use == core.UseDecrypt:
		var k groupKey
		if k, err = kem.group.generate(); err == nil {
			key = &agreementKey{alg: kem.alg, k: k}
		}
	default:
		err = fmt.Errorf("%q for use %d: %w", spec.Algorithm, spec.Use, core.ErrUnsupported)
	}
	if err != nil {
		return nil, fail(op, err)
	}
	key.name(refOf(spec.Algorithm, hex.EncodeToString(spec.ID[:]), key.Public()))
	return key, nil
}

// OpenKey opens the material of a key that GenerateKey made. The reference says
// the algorithm and has a fingerprint of the public key, so that material of
// another key is core.ErrInvalid.
func (p *Provider) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	const op = "open key"
	if err := ctx.Err(); err != nil {
		return nil, fail(op, err)
	}
	name, ok := strings.CutPrefix(string(ref), scheme+":")
	parts := strings.Split(name, "/")
	if !ok || len(parts) != 3 {
		return nil, fail(op, fmt.Errorf("reference %q: %w", ref, core.ErrDenied))
	}
	alg := core.KeyAlgorithm(parts[0])
	if sig, kem := algorithm(alg); sig == nil && kem == nil {
		return nil, fail(op, fmt.Errorf("reference %q: %w", ref, core.ErrDenied))
	}
	key, err := openMaterial(alg, material)
	if err != nil {
		return nil, fail(op, err)
	}
	if refOf(key.Algorithm(), parts[1], key.Public()) != ref {
		return nil, fail(op, fmt.Errorf("material is not that of %s: %w", ref, core.ErrInvalid))
	}
	key.name(ref)
	return key, nil
}

// ImportKey names a key that was made elsewhere.
func (p *Provider) ImportKey(ctx context.Context, spec core.KeySpec, material core.Secret) (core.PrivateKey, error) {
	const op = "import key"
	if err := ctx.Err(); err != nil {
		return nil, fail(op, err)
	}
	if sig, kem := algorithm(spec.Algorithm); sig != nil && spec.Use != core.UseSign || kem != nil && spec.Use != core.UseDecrypt {
		return nil, fail(op, fmt.Errorf("%q for use %d: %w", spec.Algorithm, spec.Use, core.ErrUnsupported))
	}
	key, err := openMaterial(spec.Algorithm, material)
	if err != nil {
		return nil, fail(op, err)
	}
	key.name(refOf(spec.Algorithm, hex.EncodeToString(spec.ID[:]), key.Public()))
	return key, nil
}

// openMaterial makes a key without a name of its material.
func openMaterial(alg core.KeyAlgorithm, material core.Secret) (namedKey, error) {
	switch sig, kem := algorithm(alg); {
	case sig != nil:
		k, err := sig.open(material.Bytes())
		if err != nil {
			return nil, err
		}
		return &signatureKey{alg: sig.alg, k: k}, nil
	case kem != nil:
		k, err := kem.group.open(material.Bytes())
		if err != nil {
			return nil, err
		}
		return &agreementKey{alg: kem.alg, k: k}, nil
	}
	return nil, fmt.Errorf("%q: %w", alg, core.ErrUnsupported)
}

func algorithm(alg core.KeyAlgorithm) (*signature, *dhkem) {
	for _, s := range signatures {
		if s.alg == alg {
			return s, nil
		}
	}
	for _, k := range kems {
		if k.alg == alg {
			return nil, k
		}
	}
	return nil, nil
}

// refOf names a key: "pure:<algorithm>/<id>/<fingerprint>". The algorithm,
// because material has no type; the first 8 bytes of the public key's SHA-256,
// because the id alone does not tell whether the material belongs to it.
func refOf(alg core.KeyAlgorithm, id string, public []byte) core.KeyRef {
	sum := sha256.Sum256(public)
	return core.KeyRef(scheme + ":" + string(alg) + "/" + id + "/" + hex.EncodeToString(sum[:8]))
}

func fail(op string, err error) error {
	return &core.ProviderError{Provider: scheme, Op: op, Err: err}
}
