// SPDX-License-Identifier: Apache-2.0

package coretest_test

import (
	"context"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"math/big"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
)

// A keeper keeps its keys, as a token does: what it returns is no SoftwareKey.
type keeper struct {
	*pure.Provider
	mu   sync.Mutex
	keys map[[16]byte]core.PrivateKey
}

func newKeeper() *keeper {
	return &keeper{Provider: pure.New(), keys: map[[16]byte]core.PrivateKey{}}
}

func (k *keeper) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key, ok := k.keys[spec.ID]; ok && ctx.Err() == nil {
		if key.Algorithm() != spec.Algorithm {
			return nil, core.ErrConflict
		}
		return key, nil
	}
	key, err := k.Provider.GenerateKey(ctx, spec)
	if err != nil {
		return nil, err
	}
	k.keys[spec.ID] = opaque(key)
	return k.keys[spec.ID], nil
}

func (k *keeper) ImportKey(ctx context.Context, spec core.KeySpec, material core.Secret) (core.PrivateKey, error) {
	key, err := k.Provider.ImportKey(ctx, spec, material)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[spec.ID] = opaque(key)
	return k.keys[spec.ID], nil
}

func (k *keeper) OpenKey(ctx context.Context, ref core.KeyRef, _ core.Secret) (core.PrivateKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range k.keys {
		if key.Ref() == ref {
			return key, ctx.Err()
		}
	}
	if ref.Scheme() != "pure" {
		return nil, core.ErrDenied
	}
	return nil, core.ErrNotFound
}

func (k *keeper) DeleteKey(_ context.Context, ref core.KeyRef) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, key := range k.keys {
		if key.Ref() == ref {
			delete(k.keys, id)
		}
	}
	return nil
}

// opaque hides all of a key but its one ability.
func opaque(key core.PrivateKey) core.PrivateKey {
	if s, ok := key.(core.Signer); ok {
		return struct{ core.Signer }{s}
	}
	return struct{ core.Agreer }{key.(core.Agreer)}
}

func TestProviderThatKeepsItsKeys(t *testing.T) {
	coretest.TestCryptoProvider(t, func(*testing.T) core.CryptoProvider { return newKeeper() })
}

// A wrong provider is the pure one with its calls replaced.
type wrong struct {
	core.CryptoProvider
	algorithms func() []core.KeyAlgorithm
	generate   func(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error)
	open       func(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error)
	wrap       func(core.PrivateKey) core.PrivateKey
}

func (w *wrong) Algorithms(ctx context.Context) ([]core.KeyAlgorithm, error) {
	if w.algorithms != nil {
		return w.algorithms(), nil
	}
	return w.CryptoProvider.Algorithms(ctx)
}

func (w *wrong) wrapped(key core.PrivateKey, err error) (core.PrivateKey, error) {
	if err != nil || w.wrap == nil {
		return key, err
	}
	return w.wrap(key), nil
}

func (w *wrong) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	if w.generate != nil {
		return w.generate(ctx, spec)
	}
	return w.wrapped(w.CryptoProvider.GenerateKey(ctx, spec))
}

func (w *wrong) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	if w.open != nil {
		return w.open(ctx, ref, material)
	}
	return w.wrapped(w.CryptoProvider.OpenKey(ctx, ref, material))
}

// A badKey is a software key with its calls replaced.
type badKey struct {
	core.SoftwareKey
	sign     func(ctx context.Context, message []byte) ([]byte, error)
	agree    func(ctx context.Context, peer []byte) (core.Secret, error)
	material func() core.Secret
}

func (k *badKey) Material() core.Secret {
	if k.material != nil {
		return k.material()
	}
	return k.SoftwareKey.Material()
}

type (
	badSigner struct{ *badKey }
	badAgreer struct{ *badKey }
)

func (k badSigner) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if k.sign != nil {
		return k.sign(ctx, message)
	}
	return k.SoftwareKey.(core.Signer).Sign(ctx, message)
}

func (k badAgreer) Agree(ctx context.Context, peer []byte) (core.Secret, error) {
	if k.agree != nil {
		return k.agree(ctx, peer)
	}
	return k.SoftwareKey.(core.Agreer).Agree(ctx, peer)
}

// badly wraps keys: spoil sets what is wrong, given the good key.
func badly(spoil func(k *badKey, signer core.Signer, agreer core.Agreer)) func(core.PrivateKey) core.PrivateKey {
	return func(key core.PrivateKey) core.PrivateKey {
		k := &badKey{SoftwareKey: key.(core.SoftwareKey)}
		signer, signs := key.(core.Signer)
		agreer, _ := key.(core.Agreer)
		spoil(k, signer, agreer)
		if signs {
			return badSigner{k}
		}
		return badAgreer{k}
	}
}

func TestWrongProvidersAreCaught(t *testing.T) {
	good := pure.New()
	for _, tt := range []struct {
		name string
		p    func() core.CryptoProvider
		want []string
	}{
		{"a signer that truncates", bad(func(k *badKey, s core.Signer, _ core.Agreer) {
			k.sign = func(ctx context.Context, message []byte) ([]byte, error) {
				sig, err := s.Sign(ctx, message)
				return sig[:max(0, len(sig)-1)], err
			}
		}), []string{"signs", "makes the keys it lists"}},
		{"a signer that signs the first 64 KiB", bad(func(k *badKey, s core.Signer, _ core.Agreer) {
			k.sign = func(ctx context.Context, message []byte) ([]byte, error) {
				return s.Sign(ctx, message[:min(len(message), 1<<16)])
			}
		}), []string{"signs"}},
		{"ECDSA as two integers of fixed width", bad(func(k *badKey, s core.Signer, _ core.Agreer) {
			k.sign = func(ctx context.Context, message []byte) ([]byte, error) {
				sig, err := s.Sign(ctx, message)
				var rs struct{ R, S *big.Int }
				if _, derErr := asn1.Unmarshal(sig, &rs); derErr == nil {
					sig = append(rs.R.FillBytes(make([]byte, 66)), rs.S.FillBytes(make([]byte, 66))...)
				}
				return sig, err
			}
		}), []string{"signs"}},
		{"a signer that signs what came last", bad(func(k *badKey, s core.Signer, _ core.Agreer) {
			var mu sync.Mutex
			var last []byte
			k.sign = func(ctx context.Context, message []byte) ([]byte, error) {
				mu.Lock()
				last = slices.Clone(message)
				mu.Unlock()
				for range 10 {
					runtime.Gosched()
				}
				mu.Lock()
				message = last
				mu.Unlock()
				return s.Sign(ctx, message)
			}
		}), []string{"works concurrently"}},
		{"a signer that changes the message", bad(func(k *badKey, s core.Signer, _ core.Agreer) {
			k.sign = func(ctx context.Context, message []byte) ([]byte, error) {
				defer clear(message)
				return s.Sign(ctx, message)
			}
		}), []string{"neither keeps nor changes slices"}},
		{"a signer deaf to cancellation", bad(func(k *badKey, s core.Signer, _ core.Agreer) {
			k.sign = func(ctx context.Context, message []byte) ([]byte, error) {
				return s.Sign(context.WithoutCancel(ctx), message)
			}
		}), []string{"heeds cancellation"}},
		{"secrets without their leading zeros", bad(func(k *badKey, _ core.Signer, a core.Agreer) {
			k.agree = func(ctx context.Context, peer []byte) (core.Secret, error) {
				s, err := a.Agree(ctx, peer)
				if err != nil {
					return s, err
				}
				return core.NewSecret(new(big.Int).SetBytes(s.Bytes()).Bytes()), nil
			}
		}), []string{"agrees"}},
		{"an agreement with anything", bad(func(k *badKey, _ core.Signer, a core.Agreer) {
			k.agree = func(ctx context.Context, peer []byte) (core.Secret, error) {
				s, err := a.Agree(ctx, peer)
				if err != nil && ctx.Err() == nil {
					return core.NewSecret(make([]byte, 32)), nil
				}
				return s, err
			}
		}), []string{"refuses invalid peers"}},
		{"an agreement that reverses its input", bad(func(k *badKey, _ core.Signer, a core.Agreer) {
			k.agree = func(ctx context.Context, peer []byte) (core.Secret, error) {
				defer slices.Reverse(peer)
				return a.Agree(ctx, peer)
			}
		}), []string{"neither keeps nor changes slices"}},
		{"an agreement remembered by address", bad(func(k *badKey, _ core.Signer, a core.Agreer) {
			seen := map[*byte]core.Secret{}
			var mu sync.Mutex
			k.agree = func(ctx context.Context, peer []byte) (core.Secret, error) {
				mu.Lock()
				defer mu.Unlock()
				if len(peer) > 0 && ctx.Err() == nil {
					if s, ok := seen[&peer[0]]; ok {
						return s.Clone(), nil
					}
				}
				s, err := a.Agree(ctx, peer)
				if err == nil {
					seen[&peer[0]] = s.Clone()
				}
				return s, err
			}
		}), []string{"neither keeps nor changes slices"}},
		{"material that is the key itself", bad(func(k *badKey, s core.Signer, _ core.Agreer) {
			m := k.SoftwareKey.Material()
			k.material = func() core.Secret { return m }
			if s == nil {
				return
			}
			ref := s.Ref()
			k.sign = func(ctx context.Context, message []byte) ([]byte, error) {
				key, err := good.OpenKey(ctx, ref, m)
				if err != nil {
					return nil, err
				}
				return key.(core.Signer).Sign(ctx, message)
			}
		}), []string{"opens material of that key only"}},
		{"a key that prints itself", func() core.CryptoProvider {
			return &wrong{CryptoProvider: good, wrap: func(key core.PrivateKey) core.PrivateKey {
				if s, ok := key.(core.Signer); ok {
					return &loudSigner{s, key.(core.SoftwareKey).Material().Bytes()}
				}
				return key
			}}
		}, []string{"prints no private key"}},
		{"a keeper that makes another key for the same ID", func() core.CryptoProvider {
			return &wrong{CryptoProvider: good, wrap: opaque}
		}, []string{"one key for an ID if it keeps them", "works concurrently"}},
		{"a keeper that ignores the algorithm", func() core.CryptoProvider {
			k := newKeeper()
			return &wrong{CryptoProvider: k, generate: func(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
				k.mu.Lock()
				key, ok := k.keys[spec.ID]
				k.mu.Unlock()
				if ok && ctx.Err() == nil {
					return key, nil
				}
				return k.GenerateKey(ctx, spec)
			}}
		}, []string{"one key for an ID if it keeps them"}},
		{"a keeper that deletes nothing", func() core.CryptoProvider {
			return &immortal{newKeeper()}
		}, []string{"deletes keys"}},
		{"any reference, any material", func() core.CryptoProvider {
			return &wrong{CryptoProvider: good, open: func(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
				if key, err := good.OpenKey(ctx, ref, material); err == nil || ctx.Err() != nil {
					return key, err
				}
				return good.GenerateKey(ctx, core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
			}}
		}, []string{"denies foreign references", "opens material of that key only"}},
		{"a reference that opens another key", func() core.CryptoProvider {
			return &wrong{CryptoProvider: good, open: func(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
				key, err := good.OpenKey(ctx, ref, material)
				if err != nil {
					return nil, err
				}
				use := core.UseDecrypt
				if _, ok := key.(core.Signer); ok {
					use = core.UseSign
				}
				return good.GenerateKey(ctx, core.KeySpec{Algorithm: key.Algorithm(), Use: use})
			}}
		}, []string{"opens references again"}},
		{"errors without identity", func() core.CryptoProvider {
			return &wrong{CryptoProvider: good, generate: func(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
				key, err := good.GenerateKey(ctx, spec)
				if err != nil {
					return nil, fmt.Errorf("generate: %v", err)
				}
				return key, nil
			}}
		}, []string{"refuses other algorithms and uses", "heeds cancellation"}},
		{"an importer that does not keep what it opens by ID", func() core.CryptoProvider {
			k := newKeeper()
			return struct {
				core.CryptoProvider
				core.KeyImporter
			}{k, k.Provider}
		}, []string{"imports keys"}},
		{"an importer that hashes what it is given", func() core.CryptoProvider {
			return hashingImporter{good}
		}, []string{"imports keys"}},
		{"a key for two uses", func() core.CryptoProvider {
			return &wrong{CryptoProvider: good, generate: func(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
				if key, err := good.GenerateKey(ctx, spec); err == nil {
					return key, nil
				}
				spec.Use ^= core.UseSign ^ core.UseDecrypt
				return good.GenerateKey(ctx, spec)
			}}
		}, []string{"refuses other algorithms and uses"}},
		{"an algorithm that it cannot make", func() core.CryptoProvider {
			return &wrong{CryptoProvider: good, algorithms: func() []core.KeyAlgorithm {
				return []core.KeyAlgorithm{core.Ed25519, "brainpool", core.Ed25519}
			}}
		}, []string{"lists its algorithms", "makes the keys it lists"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			coretest.CatchProvider(t, func(testing.TB) core.CryptoProvider { return tt.p() }, tt.want...)
		})
	}
}

func bad(spoil func(k *badKey, signer core.Signer, agreer core.Agreer)) func() core.CryptoProvider {
	return func() core.CryptoProvider {
		return &wrong{CryptoProvider: pure.New(), wrap: badly(spoil)}
	}
}

// A loudSigner is a key without a Format method.
type loudSigner struct {
	core.Signer
	Seed []byte
}

func (k *loudSigner) Material() core.Secret { return core.NewSecret(slices.Clone(k.Seed)) }

// A hashingImporter takes material of any length.
type hashingImporter struct{ *pure.Provider }

func (p hashingImporter) ImportKey(ctx context.Context, spec core.KeySpec, material core.Secret) (core.PrivateKey, error) {
	sum := sha256.Sum256(material.Bytes())
	spec.Algorithm, spec.Use = core.Ed25519, core.UseSign
	return p.Provider.ImportKey(ctx, spec, core.NewSecret(sum[:]))
}

// An immortal provider says that it deletes.
type immortal struct{ *keeper }

func (immortal) DeleteKey(context.Context, core.KeyRef) error { return nil }

// A provider that keeps its keys keeps them also when it crashes.
func TestProviderChecksOutsideATest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		crash func(*keeper) *keeper
		want  []string
	}{
		"all is well": {func(k *keeper) *keeper { return k }, nil},
		"forgets":     {func(*keeper) *keeper { return newKeeper() }, []string{"keys outlive a crash"}},
		"forgets which id they were for": {func(k *keeper) *keeper {
			other := newKeeper()
			for id, key := range k.keys {
				id[0] ^= 1
				other.keys[id] = key
			}
			return other
		}, []string{"keys outlive a crash"}},
	} {
		kept := newKeeper()
		open := func(context.Context, string) (core.CryptoProvider, error) { return kept, nil }
		var failed []string
		for _, check := range coretest.ProviderChecks(open, func() { kept = c.crash(kept) }) {
			if r := check.Run(t.Context()); len(r.Failures) > 0 {
				failed = append(failed, r.Name)
			} else if r.Skipped != "" {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if !slices.Equal(failed, c.want) {
			t.Errorf("%s: failed %q", name, failed)
		}
	}
	for _, check := range coretest.ProviderChecks(func(context.Context, string) (core.CryptoProvider, error) {
		return struct{ core.CryptoProvider }{pure.New()}, nil
	}, func() {}) {
		r := check.Run(t.Context())
		if lacks := check.Name == "deletes keys" || check.Name == "imports keys"; len(r.Failures) > 0 || (r.Skipped != "") != lacks {
			t.Errorf("a provider that does the least: %+v", r)
		}
	}
}

// A key that cannot do what its algorithm is for is a failure, in each goroutine.
func TestKeyWithoutItsAbility(t *testing.T) {
	t.Parallel()
	open := func(context.Context, string) (core.CryptoProvider, error) {
		return &wrong{CryptoProvider: pure.New(), wrap: func(key core.PrivateKey) core.PrivateKey { return struct{ core.PrivateKey }{key} }}, nil
	}
	for _, check := range coretest.ProviderChecks(open, func() {}) {
		if r := check.Run(t.Context()); check.Name == "works concurrently" && len(r.Failures) == 0 {
			t.Errorf("%+v", r)
		}
	}
}
