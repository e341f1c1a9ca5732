// SPDX-License-Identifier: Apache-2.0

package proteus_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
)

// A key that is no point of the curve is the reason for which a message is refused, whatever
// else is wrong with it, as where messages are examined while they are decoded.
func TestBadKeyFirst(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	alice, err := proteus.GenerateIdentity(nil)
	if err != nil {
		t.Fatal(err)
	}
	bob, err := proteus.GenerateIdentity(nil)
	if err != nil {
		t.Fatal(err)
	}
	preKey, err := proteus.GeneratePreKey(nil, proteus.LastResortPreKeyID)
	if err != nil {
		t.Fatal(err)
	}
	env := &proteus.Env{Identity: bob, PreKey: func(context.Context, uint16) (*proteus.PreKey, error) { return preKey, nil }}
	session, err := proteus.SessionFromPreKey(&proteus.Env{Identity: alice}, preKey.Bundle(bob))
	if err != nil {
		t.Fatal(err)
	}
	_, message, err := session.Encrypt([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := proteus.SessionFromMessage(ctx, env, message)
	if err != nil {
		t.Fatal(err)
	}

	_, answer, err := d.Session.Encrypt([]byte("hello alice"))
	if err != nil {
		t.Fatal(err)
	}

	without := &proteus.Env{Identity: bob, PreKey: func(context.Context, uint16) (*proteus.PreKey, error) { return nil, core.ErrNotFound }}
	key := alice.Public()
	identity := bytes.Index(message, key[:])
	base := identity - 7 - len(key)
	ratchet := bytes.LastIndex(answer, []byte{3, 0xa1, 0, 0x58, 32}) + 5
	for _, c := range []struct {
		what    string
		message []byte
		at      int
		session *proteus.Session
		env     *proteus.Env
	}{
		{"a message that was read", message, base, d.Session, env},
		{"another identity", message, identity, d.Session, env},
		{"no prekey", message, identity, nil, without},
		{"no session", answer, ratchet, nil, env},
	} {
		m := slices.Clone(c.message)
		copy(m[c.at:], append([]byte{2}, make([]byte, 31)...)) // no x has this y
		var err error
		if c.session == nil {
			_, err = proteus.SessionFromMessage(ctx, c.env, m)
		} else {
			_, err = c.session.Decrypt(ctx, c.env, m)
		}
		if proteus.CodeOf(err) != proteus.CodeBadPoint {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}
