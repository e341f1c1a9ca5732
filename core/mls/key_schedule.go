// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// epochSecrets is what the key schedule gives for one epoch (RFC 9420 section 8).
// A group keeps all but encryption, which becomes its secret tree. A secret that
// was deleted is zero.
type epochSecrets struct {
	suite          core.Suite
	senderData     core.Secret
	encryption     core.Secret // not stored
	exporter       core.Secret
	external       core.Secret
	confirmation   core.Secret
	membership     core.Secret
	resumption     core.Secret
	authentication core.Secret
	init           core.Secret
}

// joinerSecret mixes the last epoch's init secret with the commit's. The context
// is the new epoch's.
func joinerSecret(suite core.Suite, initSecret, commitSecret core.Secret, groupContext []byte) (core.Secret, error) {
	extracted := suite.Extract(initSecret, commitSecret)
	defer extracted.Wipe()
	return expandWithLabel(suite, extracted, "joiner", groupContext, suite.Parameters().Nh)
}

// advance takes a signed commit into the transcript of the next epoch's context and
// derives that epoch's secrets, in the order of RFC 9420 section 12.4.1 (KS-8).
func advance(suite core.Suite, next *GroupContext, interim []byte, a *AuthenticatedContent, initSecret, commitSecret, psk core.Secret) (joiner core.Secret, secrets *epochSecrets, err error) {
	next.ConfirmedTranscriptHash = confirmedTranscriptHash(suite, interim, a)
	contextBytes := marshal(next)
	if joiner, err = joinerSecret(suite, initSecret, commitSecret, contextBytes); err != nil {
		return core.Secret{}, nil, err
	}
	secrets, err = epochFromJoiner(suite, joiner, psk, contextBytes)
	return joiner, secrets, err
}

// welcomeSecret protects the GroupInfo of a Welcome.
func welcomeSecret(suite core.Suite, joiner, psk core.Secret) (core.Secret, error) {
	member := suite.Extract(joiner, psk)
	defer member.Wipe()
	return deriveSecret(suite, member, "welcome")
}

// welcomeKeyNonce gives the AEAD key and nonce of a Welcome's GroupInfo.
func welcomeKeyNonce(suite core.Suite, welcome core.Secret) (key, nonce core.Secret, err error) {
	return keyNonce(suite, welcome, nil)
}

// keyNonce expands a secret with "key" and "nonce".
func keyNonce(suite core.Suite, secret core.Secret, context []byte) (key, nonce core.Secret, err error) {
	p := suite.Parameters()
	if key, err = expandWithLabel(suite, secret, "key", context, p.Nk); err != nil {
		return key, nonce, err
	}
	if nonce, err = expandWithLabel(suite, secret, "nonce", context, p.Nn); err != nil {
		key.Wipe()
	}
	return key, nonce, err
}

// epochFromJoiner derives an epoch's secrets; the context is that epoch's.
func epochFromJoiner(suite core.Suite, joiner, psk core.Secret, groupContext []byte) (*epochSecrets, error) {
	member := suite.Extract(joiner, psk)
	defer member.Wipe()
	epoch, err := expandWithLabel(suite, member, "epoch", groupContext, suite.Parameters().Nh)
	if err != nil {
		return nil, err
	}
	defer epoch.Wipe()
	return epochFromSecret(suite, epoch)
}

// epochFromSecret derives them from the epoch secret, which is random when a
// group is created (KS-2). The caller wipes it.
func epochFromSecret(suite core.Suite, epochSecret core.Secret) (*epochSecrets, error) {
	e := &epochSecrets{suite: suite}
	for _, d := range []struct {
		label string
		to    *core.Secret
	}{
		{"sender data", &e.senderData},
		{"encryption", &e.encryption},
		{"exporter", &e.exporter},
		{"external", &e.external},
		{"confirm", &e.confirmation},
		{"membership", &e.membership},
		{"resumption", &e.resumption},
		{"authentication", &e.authentication},
		{"init", &e.init},
	} {
		var err error
		if *d.to, err = deriveSecret(suite, epochSecret, d.label); err != nil {
			e.wipe()
			return nil, err
		}
	}
	return e, nil
}

// stored lists the secrets that a header keeps, in the order in which it does.
func (e *epochSecrets) stored() []*core.Secret {
	return []*core.Secret{
		&e.senderData, &e.exporter, &e.external, &e.confirmation,
		&e.membership, &e.resumption, &e.authentication, &e.init,
	}
}

// append writes the stored secrets, 8 vectors: 264 bytes with SHA-256.
func (e *epochSecrets) append(b []byte) []byte {
	for _, s := range e.stored() {
		b = appendOpaque(b, s.Bytes())
	}
	return b
}

func readEpochSecrets(r *reader, suite core.Suite) *epochSecrets {
	e := &epochSecrets{suite: suite}
	for _, s := range e.stored() {
		v := r.opaque()
		if len(v) != 0 && len(v) != suite.Parameters().Nh {
			r.fail()
		}
		*s = core.NewSecret(v)
	}
	return e
}

// secrets lists all of them, for Retire.
func (e *epochSecrets) secrets() []core.Secret {
	list := []core.Secret{e.encryption}
	for _, s := range e.stored() {
		list = append(list, *s)
	}
	return list
}

func (e *epochSecrets) wipe() {
	for _, s := range e.secrets() {
		s.Wipe()
	}
}

// confirmationTag is the MAC over the epoch's confirmed transcript hash.
func (e *epochSecrets) confirmationTag(confirmedHash []byte) []byte {
	return e.suite.MAC(e.confirmation, confirmedHash)
}

// verifyConfirmationTag is [ErrAuthentication] unless the tag is that of the hash (KS-4).
func (e *epochSecrets) verifyConfirmationTag(confirmedHash, tag []byte) error {
	if !sameTag(e.confirmationTag(confirmedHash), tag) {
		return ErrAuthentication
	}
	return nil
}

// export is MLS-Exporter (RFC 9420 section 8.5). More than 65535 bytes or 255
// times Nh are [core.ErrTooLarge] (CS-4); without an exporter secret it is
// [core.ErrNotFound] (KS-6).
func (e *epochSecrets) export(label string, context []byte, length int) (core.Secret, error) {
	if e.exporter.IsZero() {
		return core.Secret{}, fmt.Errorf("exporter secret: %w", core.ErrNotFound)
	}
	if length < 0 {
		return core.Secret{}, fmt.Errorf("export of %d bytes: %w", length, core.ErrInvalid)
	}
	if length > min(0xFFFF, 255*e.suite.Parameters().Nh) {
		return core.Secret{}, fmt.Errorf("export of %d bytes: %w", length, core.ErrTooLarge)
	}
	derived, err := deriveSecret(e.suite, e.exporter, label)
	if err != nil {
		return core.Secret{}, err
	}
	defer derived.Wipe()
	return expandWithLabel(e.suite, derived, "exported", e.suite.Hash(context), length)
}

// externalKeyPair is the key pair whose public half is the external_pub
// extension of the epoch's GroupInfo (KS-5).
func (e *epochSecrets) externalKeyPair() (core.SoftwareKey, error) {
	return e.suite.DeriveKeyPair(e.external)
}

const externalInitLabel = "MLS 1.0 external init secret"

// externalInitSender makes the init secret of an external commit (RFC 9420
// section 8.3) and what its ExternalInit proposal carries.
func externalInitSender(suite core.Suite, externalPub []byte) (kemOutput []byte, initSecret core.Secret, err error) {
	kemOutput, exporter, err := suite.SetupSender(externalPub, nil)
	if err != nil {
		return nil, core.Secret{}, err
	}
	initSecret, err = exporter.Export([]byte(externalInitLabel), suite.Parameters().Nh)
	return kemOutput, initSecret, err
}

// externalInitReceiver is the members' side, with the external key of the epoch
// that the commit leaves (KS-9). A kem_output that does not open is
// [core.ErrInvalid] (EXT-5).
func (e *epochSecrets) externalInitReceiver(ctx context.Context, kemOutput []byte) (core.Secret, error) {
	key, err := e.externalKeyPair()
	if err != nil {
		return core.Secret{}, err
	}
	recipient, err := e.suite.Recipient(key)
	if err != nil {
		return core.Secret{}, err
	}
	exporter, err := recipient.Setup(ctx, kemOutput, nil)
	if err != nil {
		return core.Secret{}, err
	}
	return exporter.Export([]byte(externalInitLabel), e.suite.Parameters().Nh)
}
