// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vectors"
)

// A verdict is what an implementation made of an unusual encoding.
type verdict struct {
	OK      bool
	Message string // base64, or what was wrong
}

// verdicts are what both made of it: nil if it was not shown to one. Where they differ, each of the
// two answers is right.
type verdicts struct {
	Name string
	TS   *verdict `json:"ts"`
	Rust *verdict
}

// judge compares what we make of it, and what came out. What all accept to whom it was
// shown must be accepted, and what both refuse refused.
func (v verdicts) judge(err error, out, wanted []byte) error {
	all, none := true, v.TS != nil && v.Rust != nil
	for _, their := range []*verdict{v.TS, v.Rust} {
		if their != nil {
			all, none = all && their.OK, none && !their.OK
		}
	}
	switch {
	case err == nil && none:
		return fmt.Errorf("%s: accepted", v.Name)
	case err != nil && all:
		return fmt.Errorf("%s: refused: %w", v.Name, err)
	case err == nil:
		return want(v.Name, out, wanted)
	}
	return nil
}

type decodingVectors struct {
	Receiver struct {
		Identity []byte
		PreKeys  map[string][]byte
	}
	SessionOwner struct{ Identity []byte } `json:"session_owner"`
	Messages     []struct {
		verdicts
		Message, Plaintext []byte
	}
	Bundles []struct {
		verdicts
		Bundle []byte
	}
	Sessions []struct {
		verdicts
		Session, Plaintext []byte
	}
	PreKeys []struct {
		verdicts
		PreKey, Message, Plaintext []byte
	}
	Identities []struct {
		verdicts
		Identity []byte
	}
}

func runDecodingVectors(ctx context.Context, file []byte, report *vectors.Report) error {
	var v decodingVectors
	if err := decodeVectors(file, &v); err != nil {
		return err
	}
	identity, err := UnmarshalIdentity(v.Receiver.Identity)
	if err != nil {
		return err
	}
	env := &Env{Identity: identity, PreKey: preKeysOf(v.Receiver.PreKeys).find}
	for _, c := range v.Messages {
		d, err := SessionFromMessage(ctx, env, c.Message)
		report.Add(c.judge(err, plaintextOf(d), c.Plaintext))
	}
	for _, c := range v.Bundles {
		bundle, err := UnmarshalPreKeyBundle(c.Bundle)
		if err == nil {
			_, err = SessionFromPreKey(env, bundle)
		}
		report.Add(c.judge(err, nil, nil))
	}
	owner, err := UnmarshalIdentity(v.SessionOwner.Identity)
	if err != nil {
		return err
	}
	for _, c := range v.Sessions {
		var message, wanted []byte
		s, err := UnmarshalSession(owner.Public(), c.Session)
		if err == nil {
			_, message, err = s.Encrypt(c.Plaintext)
		}
		for _, their := range []*verdict{c.TS, c.Rust} {
			if their != nil && their.OK {
				var err error
				if wanted, err = base64.StdEncoding.DecodeString(their.Message); err != nil {
					return fmt.Errorf("proteus test vectors: %w: %v", core.ErrInvalid, err)
				}
			}
		}
		report.Add(c.judge(err, message, wanted))
	}
	for _, c := range v.PreKeys {
		keys := preKeys{}
		for id := range v.Receiver.PreKeys {
			keys[id] = c.PreKey
		}
		d, err := SessionFromMessage(ctx, &Env{Identity: identity, PreKey: keys.find}, c.Message)
		report.Add(c.judge(err, plaintextOf(d), c.Plaintext))
	}
	for _, c := range v.Identities {
		_, err := UnmarshalIdentity(c.Identity)
		report.Add(c.judge(err, nil, nil))
	}
	return nil
}

func plaintextOf(d *Decrypted) []byte {
	if d == nil {
		return nil
	}
	return d.Plaintext
}

// preKeys are stored prekeys by their decimal id.
type preKeys map[string][]byte

func preKeysOf(m map[string][]byte) preKeys {
	k := preKeys{}
	for id, key := range m {
		k[id] = bytes.Clone(key)
	}
	return k
}

func (k preKeys) find(_ context.Context, id uint16) (*PreKey, error) {
	stored, ok := k[strconv.Itoa(int(id))]
	if !ok {
		return nil, core.ErrNotFound
	}
	return UnmarshalPreKey(stored)
}
