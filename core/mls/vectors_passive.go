// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A passiveVector is a member that joins and then listens.
type passiveVector struct {
	Suite        core.SuiteID `json:"cipher_suite"`
	ExternalPSKs []struct {
		ID  hexBytes `json:"psk_id"`
		PSK hexBytes `json:"psk"`
	} `json:"external_psks"`
	KeyPackage           hexBytes `json:"key_package"`
	SignaturePriv        hexBytes `json:"signature_priv"`
	EncryptionPriv       hexBytes `json:"encryption_priv"`
	InitPriv             hexBytes `json:"init_priv"`
	Welcome              hexBytes `json:"welcome"`
	RatchetTree          hexBytes `json:"ratchet_tree"` // nil: in the Welcome
	InitialAuthenticator hexBytes `json:"initial_epoch_authenticator"`
	Epochs               []struct {
		Proposals     []hexBytes `json:"proposals"`
		Commit        hexBytes   `json:"commit"`
		Authenticator hexBytes   `json:"epoch_authenticator"`
	} `json:"epochs"`
}

// A passiveCase follows a group with two values of it: one that stays in memory,
// and one that is loaded from its records before each step.
type passiveCase struct {
	env    *Env
	live   *Group
	loaded *Group
	stored passiveStore
}

func runPassive(ctx context.Context, env *vectorEnv, v *passiveVector) error {
	c, err := v.join(ctx, env)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if err := c.same(v.InitialAuthenticator); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	for i, e := range v.Epochs {
		for k, p := range e.Proposals {
			if err := c.process(ctx, p); err != nil {
				return fmt.Errorf("epoch %d: proposal %d: %w", i, k, err)
			}
		}
		if err := c.process(ctx, e.Commit); err != nil {
			return fmt.Errorf("epoch %d: commit: %w", i, err)
		}
		if err := c.same(e.Authenticator); err != nil {
			return fmt.Errorf("epoch %d: %w", i, err)
		}
	}
	return nil
}

func (v *passiveVector) join(ctx context.Context, env *vectorEnv) (*passiveCase, error) {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return nil, err
	}
	bundle, signer, err := v.open(ctx, env, suite)
	if err != nil {
		return nil, err
	}
	message, err := messageOf(v.Welcome, WireWelcome)
	if err != nil {
		return nil, err
	}
	c := &passiveCase{stored: passiveStore{}}
	c.env = &Env{
		Suites: env.suites,
		Auth:   passiveAuthenticator{},
		Fetch:  c.stored.fetch,
		Signer: func(context.Context, []byte) (core.Signer, error) { return signer, nil },
		PSK:    v.psk,
	}
	config := DefaultConfig
	config.AcceptAnyWire = true
	group, _, ws, err := Join(ctx, c.env, JoinParams{Welcome: message.Welcome, KeyPackage: bundle.find(suite), Tree: v.RatchetTree, Config: config})
	if err != nil {
		return nil, err
	}
	c.live = group
	return c, c.store(ws)
}

// open checks that the private keys are those of the key package.
func (v *passiveVector) open(ctx context.Context, env *vectorEnv, suite core.Suite) (*KeyPackageBundle, core.Signer, error) {
	message, err := messageOf(v.KeyPackage, WireKeyPackage)
	if err != nil {
		return nil, nil, err
	}
	b := &KeyPackageBundle{KeyPackage: message.KeyPackage}
	if err := b.KeyPackage.Validate(suite, time.Time{}); err != nil {
		return nil, nil, fmt.Errorf("key package: %w", err)
	}
	if b.InitKey, err = env.keyPair(suite, v.InitPriv); err != nil {
		return nil, nil, fmt.Errorf("init key: %w", err)
	}
	if b.LeafKey, err = env.keyPair(suite, v.EncryptionPriv); err != nil {
		return nil, nil, fmt.Errorf("encryption key: %w", err)
	}
	signer, err := env.signer(ctx, suite, v.SignaturePriv)
	if err != nil {
		return nil, nil, err
	}
	return b, signer, errors.Join(
		sameBytes("init key", b.InitKey.Public(), b.KeyPackage.InitKey),
		sameBytes("encryption key", b.LeafKey.Public(), b.KeyPackage.LeafNode.EncryptionKey),
		sameBytes("signature key", signer.Public(), b.KeyPackage.LeafNode.SignatureKey),
	)
}

func (v *passiveVector) psk(_ context.Context, id PreSharedKeyID) (core.Secret, error) {
	for _, p := range v.ExternalPSKs {
		if id.Type == PSKExternal && bytes.Equal(id.ID, p.ID) {
			return p.PSK.secret(), nil
		}
	}
	return core.Secret{}, ErrMissingPSK
}

// process gives a message to both values of the group.
func (c *passiveCase) process(ctx context.Context, data []byte) error {
	m, err := UnmarshalMLSMessage(data)
	if err != nil {
		return err
	}
	live, _, liveSet, err := c.live.Process(ctx, c.env, m)
	if err != nil {
		return err
	}
	_, _, ws, err := c.loaded.Process(ctx, c.env, m)
	if err != nil {
		return fmt.Errorf("loaded from its records: %w", err)
	}
	c.live = live
	for _, s := range liveSet.Retired {
		s.Wipe()
	}
	return c.store(ws)
}

// store applies a write set and loads the group anew.
func (c *passiveCase) store(ws *record.WriteSet) error {
	c.stored.apply(ws)
	header := c.stored[RecordHeader]
	if len(header) != 1 {
		return fmt.Errorf("%d headers are stored", len(header))
	}
	loaded, err := Load(c.env.Suites, header[0].Value)
	c.loaded = loaded
	return err
}

// same compares both values with the file.
func (c *passiveCase) same(authenticator []byte) error {
	return errors.Join(
		sameBytes("epoch authenticator", c.live.EpochAuthenticator(), authenticator),
		sameBytes("epoch authenticator, loaded", c.loaded.EpochAuthenticator(), authenticator),
	)
}

// A passiveStore holds the records of one group, by key.
type passiveStore map[record.Kind][]record.Record

func (s passiveStore) fetch(_ context.Context, queries []record.Query) ([][]record.Record, error) {
	answers := make([][]record.Record, len(queries))
	for i, q := range queries {
		for _, r := range s[q.Kind] {
			if !bytes.HasPrefix(r.Key, q.Prefix) || len(q.After) > 0 && bytes.Compare(r.Key, q.After) <= 0 {
				continue
			}
			answers[i] = append(answers[i], record.Record{Kind: r.Kind, Key: r.Key, Value: bytes.Clone(r.Value)})
			if len(answers[i]) == q.Limit {
				break
			}
		}
	}
	return answers, nil
}

func (s passiveStore) apply(ws *record.WriteSet) {
	for _, d := range ws.Dels {
		s[d.Kind] = slices.DeleteFunc(s[d.Kind], func(r record.Record) bool { return bytes.HasPrefix(r.Key, d.Prefix) })
	}
	for _, p := range ws.Puts {
		i, found := slices.BinarySearchFunc(s[p.Kind], p, func(a, b record.Record) int { return bytes.Compare(a.Key, b.Key) })
		if found {
			s[p.Kind] = slices.Delete(s[p.Kind], i, i+1)
		}
		s[p.Kind] = slices.Insert(s[p.Kind], i, record.Record{Kind: p.Kind, Key: p.Key, Value: bytes.Clone(p.Value)})
	}
	for _, secret := range ws.Retired {
		secret.Wipe()
	}
}

// passiveAuthenticator believes every credential: the files say nothing of trust.
type passiveAuthenticator struct{}

func (passiveAuthenticator) Validate(c core.Credential, _ []byte, _ time.Time, _ core.Purpose) (core.Identity, error) {
	return core.Identity{ClientID: core.ClientID(MarshalCredential(c))}, nil
}

func (passiveAuthenticator) Successor(core.Identity, core.Identity) error { return nil }
