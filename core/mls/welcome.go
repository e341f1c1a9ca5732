// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"crypto/cipher"

	"github.com/conclave-mls/conclave/core"
)

// EncryptedGroupSecrets is one joiner's part of a Welcome.
type EncryptedGroupSecrets struct {
	NewMember []byte // KeyPackageRef
	Secrets   core.HPKECiphertext
}

func (e EncryptedGroupSecrets) append(b []byte) []byte {
	return appendHPKECiphertext(appendOpaque(b, e.NewMember), e.Secrets)
}

// A Welcome brings new members into a group (RFC 9420 section 12.4.3.1).
type Welcome struct {
	Suite              core.SuiteID
	Secrets            []EncryptedGroupSecrets
	EncryptedGroupInfo []byte
}

func (w *Welcome) append(b []byte) []byte {
	b = appendList(appendU16(b, uint16(w.Suite)), w.Secrets, EncryptedGroupSecrets.append)
	return appendOpaque(b, w.EncryptedGroupInfo)
}

func readWelcome(r *reader) *Welcome {
	w := &Welcome{Suite: core.SuiteID(r.u16())}
	r.list(func(r *reader) {
		w.Secrets = append(w.Secrets, EncryptedGroupSecrets{NewMember: r.opaque(), Secrets: readHPKECiphertext(r)})
	})
	w.EncryptedGroupInfo = r.opaque()
	return w
}

// Marshal encodes it, not wrapped in an MLSMessage.
func (w *Welcome) Marshal() []byte { return marshal(w) }

// GroupSecrets is what a joiner learns from a Welcome.
type GroupSecrets struct {
	JoinerSecret core.Secret
	PathSecret   core.Secret // empty: none
	PSKs         []PreSharedKeyID
}

func (g *GroupSecrets) append(b []byte) []byte {
	b = appendPresent(appendOpaque(b, g.JoinerSecret.Bytes()), !g.PathSecret.IsZero())
	if !g.PathSecret.IsZero() {
		b = appendOpaque(b, g.PathSecret.Bytes())
	}
	return appendList(b, g.PSKs, PreSharedKeyID.append)
}

// Marshal encodes it; the result is secret.
func (g *GroupSecrets) Marshal() []byte { return marshal(g) }

// UnmarshalGroupSecrets decodes it.
func UnmarshalGroupSecrets(data []byte) (*GroupSecrets, error) {
	g := &GroupSecrets{}
	err := unmarshal("GroupSecrets", data, func(r *reader) {
		g.JoinerSecret = core.NewSecret(r.opaque())
		if r.present() {
			g.PathSecret = core.NewSecret(r.opaque())
			if g.PathSecret.IsZero() { // could not be told apart from none
				r.fail()
			}
		}
		r.list(func(r *reader) { g.PSKs = append(g.PSKs, readPreSharedKeyID(r)) })
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// welcomeAEAD is what the GroupInfo of a Welcome is encrypted with: once, so that
// the nonce is a fixed one (RFC 9420 section 12.4.3.1).
func welcomeAEAD(suite core.Suite, joiner, psk core.Secret) (cipher.AEAD, core.Secret, error) {
	welcome, err := welcomeSecret(suite, joiner, psk)
	if err != nil {
		return nil, core.Secret{}, err
	}
	defer welcome.Wipe()
	key, nonce, err := welcomeKeyNonce(suite, welcome)
	if err != nil {
		return nil, core.Secret{}, err
	}
	defer key.Wipe()
	aead, err := suite.AEAD(key)
	return aead, nonce, err
}
