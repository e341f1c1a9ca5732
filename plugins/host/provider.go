// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// CryptoProvider is that of an instance; "" is the unnamed one. It is a core.KeyDeleter,
// KeyImporter or KeyAttester if the plugin's is. References of its keys begin with
// "plugin:NAME/INSTANCE/". ErrNotFound: the plugin does not offer it.
func (p *Plugin) CryptoProvider(instance string) (core.CryptoProvider, error) {
	o, err := p.offer(wire.Part_PART_CRYPTO_PROVIDER, instance)
	if err != nil {
		return nil, err
	}
	has := func(f wire.Feature) bool { return slices.Contains(o.GetFeatures(), f) }
	base := &provider{p: p, instance: instance, prefix: "plugin:" + p.cfg.Name + "/" + instance + "/"}
	del, imp, att := deleter{base}, importer{base}, attester{base}
	switch [3]bool{has(wire.Feature_FEATURE_DELETE_KEY), has(wire.Feature_FEATURE_IMPORT_KEY), has(wire.Feature_FEATURE_ATTEST_KEY)} {
	case [3]bool{true, false, false}:
		return struct {
			*provider
			core.KeyDeleter
		}{base, del}, nil
	case [3]bool{false, true, false}:
		return struct {
			*provider
			core.KeyImporter
		}{base, imp}, nil
	case [3]bool{false, false, true}:
		return struct {
			*provider
			core.KeyAttester
		}{base, att}, nil
	case [3]bool{true, true, false}:
		return struct {
			*provider
			core.KeyDeleter
			core.KeyImporter
		}{base, del, imp}, nil
	case [3]bool{true, false, true}:
		return struct {
			*provider
			core.KeyDeleter
			core.KeyAttester
		}{base, del, att}, nil
	case [3]bool{false, true, true}:
		return struct {
			*provider
			core.KeyImporter
			core.KeyAttester
		}{base, imp, att}, nil
	case [3]bool{true, true, true}:
		return struct {
			*provider
			core.KeyDeleter
			core.KeyImporter
			core.KeyAttester
		}{base, del, imp, att}, nil
	}
	return base, nil
}

type provider struct {
	p                *Plugin
	instance, prefix string
}

// theirs is a reference as the plugin knows it.
func (c *provider) theirs(op string, ref core.KeyRef) (string, error) {
	inner, ok := strings.CutPrefix(string(ref), c.prefix)
	if !ok || inner == "" {
		return "", c.p.err(op, fmt.Errorf("reference %q is not one of this plugin: %w", ref, core.ErrDenied))
	}
	return inner, nil
}

func (c *provider) Algorithms(ctx context.Context) ([]core.KeyAlgorithm, error) {
	const op = "algorithms"
	ask := &wire.AlgorithmsRequest{Instance: c.instance}
	a, err := call(ctx, c.p, op, wire.NewCryptoProviderClient, wire.CryptoProviderClient.Algorithms, ask)
	if err != nil {
		return nil, err
	}
	algs := wire.FromAlgorithms(a.GetAlgorithms())
	if !areNames(algs) {
		return nil, c.p.lied(op, errors.New("algorithms that have no names, or too many of them"))
	}
	return algs, nil
}

func (c *provider) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	const op = "generate key"
	ask := &wire.GenerateKeyRequest{Instance: c.instance, Spec: wire.ToKeySpec(&spec)}
	a, err := call(ctx, c.p, op, wire.NewCryptoProviderClient, wire.CryptoProviderClient.GenerateKey, ask)
	if err != nil {
		return nil, err
	}
	return c.key(op, a.GetKey(), spec)
}

func (c *provider) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	const op = "open key"
	inner, err := c.theirs(op, ref)
	if err != nil {
		return nil, err
	}
	ask := &wire.OpenKeyRequest{Instance: c.instance, Ref: inner, Material: material.Bytes()}
	a, err := call(ctx, c.p, op, wire.NewCryptoProviderClient, wire.CryptoProviderClient.OpenKey, ask)
	if err != nil {
		return nil, err
	}
	if got := a.GetKey().GetRef(); got != inner {
		return nil, c.p.lied(op, errors.New("another key than the one that was asked for"))
	}
	// Else a key that the provider keeps could become one that we seal, or the reverse.
	if got := core.NewSecret(a.GetKey().GetMaterial()); !got.Equal(material) {
		return nil, c.p.lied(op, errors.New("other material than that of the key"))
	}
	return c.key(op, a.GetKey(), core.KeySpec{})
}

type deleter struct{ c *provider }

func (d deleter) DeleteKey(ctx context.Context, ref core.KeyRef) error {
	const op = "delete key"
	inner, err := d.c.theirs(op, ref)
	if err != nil {
		return err
	}
	ask := &wire.DeleteKeyRequest{Instance: d.c.instance, Ref: inner}
	_, err = call(ctx, d.c.p, op, wire.NewCryptoProviderClient, wire.CryptoProviderClient.DeleteKey, ask)
	return err
}

type importer struct{ c *provider }

func (i importer) ImportKey(ctx context.Context, spec core.KeySpec, material core.Secret) (core.PrivateKey, error) {
	const op = "import key"
	ask := &wire.ImportKeyRequest{Instance: i.c.instance, Spec: wire.ToKeySpec(&spec), Material: material.Bytes()}
	a, err := call(ctx, i.c.p, op, wire.NewCryptoProviderClient, wire.CryptoProviderClient.ImportKey, ask)
	if err != nil {
		return nil, err
	}
	return i.c.key(op, a.GetKey(), spec)
}

type attester struct{ c *provider }

func (t attester) AttestKey(ctx context.Context, ref core.KeyRef, nonce []byte) ([]byte, error) {
	const op = "attest key"
	inner, err := t.c.theirs(op, ref)
	if err != nil {
		return nil, err
	}
	ask := &wire.AttestKeyRequest{Instance: t.c.instance, Ref: inner, Nonce: nonce}
	return callBytes(ctx, t.c.p, op, wire.NewCryptoProviderClient, wire.CryptoProviderClient.AttestKey, ask)
}

// publicSizes are those of RFC 9420 sections 5.1.1 and 5.1.2, in bytes.
var publicSizes = map[core.KeyAlgorithm]int{
	core.Ed25519: 32, core.Ed448: 57, core.ECDSAP256: 65, core.ECDSAP384: 97, core.ECDSAP521: 133,
	core.X25519: 32, core.X448: 56, core.ECDHP256: 65, core.ECDHP384: 97, core.ECDHP521: 133,
}

// fits says whether a key of this ability is one for this use.
func fits(a wire.Ability, use core.KeyUse) bool {
	if use == core.UseSign {
		return a == wire.Ability_ABILITY_SIGN
	}
	return a == wire.Ability_ABILITY_AGREE || a == wire.Ability_ABILITY_DECAPSULATE
}

// key makes the handle of a key that is as was asked for: of a key that is opened the zero
// spec. It keeps the material of a software key, and so needs nothing of the plugin that a
// restart would lose.
func (c *provider) key(op string, m *wire.Key, want core.KeySpec) (core.PrivateKey, error) {
	alg := core.KeyAlgorithm(m.GetAlgorithm())
	size, known := publicSizes[alg]
	switch {
	case !isText(m.GetRef(), wire.MaxID):
		return nil, c.p.lied(op, fmt.Errorf("a key whose reference is not 1 to %d bytes of printable text", wire.MaxID))
	case !areNames([]core.KeyAlgorithm{alg}) || want.Algorithm != "" && alg != want.Algorithm:
		return nil, c.p.lied(op, fmt.Errorf("a key of the algorithm %.40q", alg))
	case want.Use != 0 && !fits(m.GetAbility(), want.Use):
		return nil, c.p.lied(op, errors.New("a key for another use"))
	case !sized(m.GetPublic()) || known && len(m.GetPublic()) != size:
		return nil, c.p.lied(op, fmt.Errorf("a public key of %d bytes", len(m.GetPublic())))
	case len(m.GetMaterial()) > wire.MaxPublic:
		return nil, c.p.lied(op, fmt.Errorf("a private key of %d bytes", len(m.GetMaterial())))
	}
	k := &key{c: c, inner: m.GetRef(), algorithm: alg, public: m.GetPublic(), material: core.NewSecret(m.GetMaterial())}
	software := !k.material.IsZero()
	switch m.GetAbility() {
	case wire.Ability_ABILITY_UNSPECIFIED:
		if software {
			return softKey{k}, nil
		}
		return k, nil
	case wire.Ability_ABILITY_SIGN:
		if software {
			return softSignKey{signKey{k}}, nil
		}
		return signKey{k}, nil
	case wire.Ability_ABILITY_AGREE:
		if software {
			return softAgreeKey{agreeKey{k}}, nil
		}
		return agreeKey{k}, nil
	case wire.Ability_ABILITY_DECAPSULATE:
		if software {
			return softDecapsulateKey{decapsulateKey{k}}, nil
		}
		return decapsulateKey{k}, nil
	}
	return nil, c.p.lied(op, errors.New("a key with an unknown ability"))
}

type key struct {
	c         *provider
	inner     string
	algorithm core.KeyAlgorithm
	public    []byte
	material  core.Secret
}

func (k *key) Ref() core.KeyRef             { return core.KeyRef(k.c.prefix + k.inner) }
func (k *key) Algorithm() core.KeyAlgorithm { return k.algorithm }
func (k *key) Public() []byte               { return bytes.Clone(k.public) }

func (k *key) ask(input []byte) *wire.UseKeyRequest {
	return &wire.UseKeyRequest{Instance: k.c.instance, Ref: k.inner, Material: k.material.Bytes(), Input: input}
}

type signKey struct{ *key }

func (k signKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return callBytes(ctx, k.c.p, "sign", wire.NewCryptoProviderClient, wire.CryptoProviderClient.Sign, k.ask(message))
}

type agreeKey struct{ *key }

func (k agreeKey) Agree(ctx context.Context, peer []byte) (core.Secret, error) {
	b, err := callBytes(ctx, k.c.p, "agree", wire.NewCryptoProviderClient, wire.CryptoProviderClient.Agree, k.ask(peer))
	return core.NewSecret(b), err
}

type decapsulateKey struct{ *key }

func (k decapsulateKey) Decapsulate(ctx context.Context, enc []byte) (core.Secret, error) {
	b, err := callBytes(ctx, k.c.p, "decapsulate", wire.NewCryptoProviderClient, wire.CryptoProviderClient.Decapsulate, k.ask(enc))
	return core.NewSecret(b), err
}

// The same for keys that the plugin does not keep.
type (
	softKey            struct{ *key }
	softSignKey        struct{ signKey }
	softAgreeKey       struct{ agreeKey }
	softDecapsulateKey struct{ decapsulateKey }
)

func (k softKey) Material() core.Secret            { return k.material.Clone() }
func (k softSignKey) Material() core.Secret        { return k.material.Clone() }
func (k softAgreeKey) Material() core.Secret       { return k.material.Clone() }
func (k softDecapsulateKey) Material() core.Secret { return k.material.Clone() }
