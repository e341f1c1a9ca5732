// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vectors"
)

type (
	derivedVector struct {
		Input, Salt []byte
		Info        string
		CipherKey   []byte `json:"cipher_key"`
		MACKey      []byte `json:"mac_key"`
	}
	chainVector struct {
		ChainKey []byte `json:"chain_key"`
		Steps    []struct {
			Index     uint64
			ChainKey  []byte `json:"chain_key"`
			CipherKey []byte `json:"cipher_key"`
			MACKey    []byte `json:"mac_key"`
		}
	}
	cipherVector struct {
		Key                   []byte
		Counter               uint32
		Plaintext, Ciphertext []byte
	}
	macVector  struct{ Key, Message, MAC []byte }
	rootVector struct {
		RootKey     []byte `json:"root_key"`
		OurSecret   []byte `json:"our_secret"`
		TheirPublic []byte `json:"their_public"`
		NewRootKey  []byte `json:"new_root_key"`
		ChainKey    []byte `json:"chain_key"`
	}
)

func runDerivationVectors(_ context.Context, file []byte, report *vectors.Report) error {
	var v struct {
		Derived []derivedVector `json:"derived_secrets"`
		Chains  []chainVector   `json:"chain_keys"`
		Ciphers []cipherVector
		MACs    []macVector
		Roots   []rootVector `json:"root_keys"`
	}
	if err := decodeVectors(file, &v); err != nil {
		return err
	}
	runCases(report, "derived secrets", v.Derived, derivedVector.run)
	runCases(report, "chain", v.Chains, chainVector.run)
	runCases(report, "cipher", v.Ciphers, cipherVector.run)
	runCases(report, "MAC", v.MACs, macVector.run)
	runCases(report, "root key", v.Roots, rootVector.run)
	return nil
}

func secretOf(b []byte) core.Secret { return core.NewSecret(bytes.Clone(b)) }

func (v derivedVector) run() error {
	cipher, mac := derive(v.Input, v.Salt, v.Info)
	return errors.Join(want("cipher key", cipher.Bytes(), v.CipherKey), want("MAC key", mac.Bytes(), v.MACKey))
}

func (v chainVector) run() error {
	chain := chainKey{key: secretOf(v.ChainKey)}
	for _, step := range v.Steps {
		for chain.index < step.Index {
			chain.step()
		}
		keys := chain.messageKeys()
		if err := errors.Join(want("chain key", chain.key.Bytes(), step.ChainKey),
			want("cipher key", keys.cipher.Bytes(), step.CipherKey), want("MAC key", keys.mac.Bytes(), step.MACKey)); err != nil {
			return fmt.Errorf("index %d: %w", step.Index, err)
		}
	}
	return nil
}

func (v cipherVector) run() error {
	if len(v.Key) != 32 {
		return fmt.Errorf("key of %d bytes", len(v.Key))
	}
	keys := messageKeys{cipher: secretOf(v.Key), counter: v.Counter}
	ciphertext := make([]byte, len(v.Plaintext))
	keys.crypt(ciphertext, v.Plaintext)
	return want("ciphertext", ciphertext, v.Ciphertext)
}

func (v macVector) run() error {
	return want("MAC", messageKeys{mac: secretOf(v.Key)}.authenticate(v.Message), v.MAC)
}

func (v rootVector) run() error {
	ours, err := pairOf(v.OurSecret)
	if err != nil {
		return err
	}
	theirs, err := publicKeyOf(v.TheirPublic)
	if err != nil {
		return err
	}
	root, chain, err := rootStep(secretOf(v.RootKey), ours, theirs)
	return errors.Join(err, want("root key", root.Bytes(), v.NewRootKey), want("chain key", chain.key.Bytes(), v.ChainKey))
}
