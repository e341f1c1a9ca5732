// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

type keyScheduleVector struct {
	Suite         core.SuiteID          `json:"cipher_suite"`
	GroupID       hexBytes              `json:"group_id"`
	InitialSecret hexBytes              `json:"initial_init_secret"`
	Epochs        []scheduleEpochVector `json:"epochs"`
}

type scheduleEpochVector struct {
	TreeHash                hexBytes `json:"tree_hash"`
	CommitSecret            hexBytes `json:"commit_secret"`
	PSKSecret               hexBytes `json:"psk_secret"`
	ConfirmedTranscriptHash hexBytes `json:"confirmed_transcript_hash"`

	GroupContext       hexBytes `json:"group_context"`
	JoinerSecret       hexBytes `json:"joiner_secret"`
	WelcomeSecret      hexBytes `json:"welcome_secret"`
	InitSecret         hexBytes `json:"init_secret"`
	SenderDataSecret   hexBytes `json:"sender_data_secret"`
	EncryptionSecret   hexBytes `json:"encryption_secret"`
	ExporterSecret     hexBytes `json:"exporter_secret"`
	EpochAuthenticator hexBytes `json:"epoch_authenticator"`
	ExternalSecret     hexBytes `json:"external_secret"`
	ConfirmationKey    hexBytes `json:"confirmation_key"`
	MembershipKey      hexBytes `json:"membership_key"`
	ResumptionPSK      hexBytes `json:"resumption_psk"`
	ExternalPub        hexBytes `json:"external_pub"`
	Exporter           struct {
		Label   string   `json:"label"` // text, though it looks like hexadecimal
		Context hexBytes `json:"context"`
		Length  int      `json:"length"`
		Secret  hexBytes `json:"secret"`
	} `json:"exporter"`
}

func runKeySchedule(_ context.Context, env *vectorEnv, v *keyScheduleVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	if len(v.Epochs) == 0 {
		return fmt.Errorf("no epochs: %w", core.ErrInvalid)
	}
	init := v.InitialSecret.secret()
	for i := range v.Epochs {
		gc := &GroupContext{Version: MLS10, Suite: v.Suite, GroupID: v.GroupID, Epoch: uint64(i)}
		if init, err = v.Epochs[i].run(suite, gc, init); err != nil {
			return fmt.Errorf("epoch %d: %w", i, err)
		}
	}
	return nil
}

// run returns the init secret for the next epoch.
func (v *scheduleEpochVector) run(suite core.Suite, gc *GroupContext, init core.Secret) (core.Secret, error) {
	gc.TreeHash, gc.ConfirmedTranscriptHash = v.TreeHash, v.ConfirmedTranscriptHash
	groupContext := gc.Marshal()
	if err := sameBytes("GroupContext", groupContext, v.GroupContext); err != nil {
		return core.Secret{}, err
	}
	joiner, err := joinerSecret(suite, init, v.CommitSecret.secret(), groupContext)
	if err := sameSecret("joiner_secret", joiner, err, v.JoinerSecret); err != nil {
		return core.Secret{}, err
	}
	welcome, err := welcomeSecret(suite, joiner, v.PSKSecret.secret())
	if err := sameSecret("welcome_secret", welcome, err, v.WelcomeSecret); err != nil {
		return core.Secret{}, err
	}
	e, err := epochFromJoiner(suite, joiner, v.PSKSecret.secret(), groupContext)
	if err != nil {
		return core.Secret{}, err
	}
	for _, s := range []struct {
		what string
		got  core.Secret
		want hexBytes
	}{
		{"init_secret", e.init, v.InitSecret},
		{"sender_data_secret", e.senderData, v.SenderDataSecret},
		{"encryption_secret", e.encryption, v.EncryptionSecret},
		{"exporter_secret", e.exporter, v.ExporterSecret},
		{"epoch_authenticator", e.authentication, v.EpochAuthenticator},
		{"external_secret", e.external, v.ExternalSecret},
		{"confirmation_key", e.confirmation, v.ConfirmationKey},
		{"membership_key", e.membership, v.MembershipKey},
		{"resumption_psk", e.resumption, v.ResumptionPSK},
	} {
		if err := sameBytes(s.what, s.got.Bytes(), s.want); err != nil {
			return core.Secret{}, err
		}
	}
	external, err := e.externalKeyPair()
	if err != nil {
		return core.Secret{}, fmt.Errorf("external_pub: %w", err)
	}
	if err := sameBytes("external_pub", external.Public(), v.ExternalPub); err != nil {
		return core.Secret{}, err
	}
	exported, err := e.export(v.Exporter.Label, v.Exporter.Context, v.Exporter.Length)
	return e.init, sameSecret("exported secret", exported, err, v.Exporter.Secret)
}

type pskSecretVector struct {
	Suite core.SuiteID `json:"cipher_suite"`
	PSKs  []struct {
		ID    hexBytes `json:"psk_id"`
		PSK   hexBytes `json:"psk"`
		Nonce hexBytes `json:"psk_nonce"`
		// How others name the same fields.
		OtherID    hexBytes `json:"id"`
		OtherNonce hexBytes `json:"nonce"`
	} `json:"psks"`
	PSKSecret hexBytes `json:"psk_secret"`
}

func runPSKSecret(_ context.Context, env *vectorEnv, v *pskSecretVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	var psks []PSK
	for _, p := range v.PSKs {
		id := PreSharedKeyID{Type: PSKExternal, ID: append(p.ID, p.OtherID...), Nonce: append(p.Nonce, p.OtherNonce...)}
		psks = append(psks, PSK{ID: id, Secret: p.PSK.secret()})
	}
	secret, err := pskSecret(suite, psks)
	return sameSecret("psk_secret", secret, err, v.PSKSecret)
}

type transcriptVector struct {
	Suite                core.SuiteID `json:"cipher_suite"`
	ConfirmationKey      hexBytes     `json:"confirmation_key"`
	AuthenticatedContent hexBytes     `json:"authenticated_content"`
	InterimHashBefore    hexBytes     `json:"interim_transcript_hash_before"`
	ConfirmedHashAfter   hexBytes     `json:"confirmed_transcript_hash_after"`
	InterimHashAfter     hexBytes     `json:"interim_transcript_hash_after"`
}

func runTranscript(_ context.Context, env *vectorEnv, v *transcriptVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	a, err := UnmarshalAuthenticatedContent(v.AuthenticatedContent)
	if err != nil {
		return err
	}
	if a.Content.ContentType != ContentCommit {
		return fmt.Errorf("content type %d is not a commit", a.Content.ContentType)
	}
	if err := sameBytes("AuthenticatedContent", a.Marshal(), v.AuthenticatedContent); err != nil {
		return err
	}
	confirmed := confirmedTranscriptHash(suite, v.InterimHashBefore, a)
	if err := sameBytes("confirmed transcript hash", confirmed, v.ConfirmedHashAfter); err != nil {
		return err
	}
	e := &epochSecrets{suite: suite, confirmation: v.ConfirmationKey.secret()}
	if err := e.verifyConfirmationTag(confirmed, a.Auth.ConfirmationTag); err != nil {
		return fmt.Errorf("confirmation tag: %w", err)
	}
	return sameBytes("interim transcript hash", interimTranscriptHash(suite, confirmed, a.Auth.ConfirmationTag), v.InterimHashAfter)
}

// A welcomeVector is a Welcome without pre-shared keys; the tree is not at hand.
type welcomeVector struct {
	Suite      core.SuiteID `json:"cipher_suite"`
	InitPriv   hexBytes     `json:"init_priv"`
	SignerPub  hexBytes     `json:"signer_pub"`
	KeyPackage hexBytes     `json:"key_package"`
	Welcome    hexBytes     `json:"welcome"`
}

func runWelcome(ctx context.Context, env *vectorEnv, v *welcomeVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	keyPackage, err := messageOf(v.KeyPackage, WireKeyPackage)
	if err != nil {
		return fmt.Errorf("key package: %w", err)
	}
	message, err := messageOf(v.Welcome, WireWelcome)
	if err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	initKey, err := env.keyPair(suite, v.InitPriv)
	if err != nil {
		return fmt.Errorf("init key: %w", err)
	}
	bundle := &KeyPackageBundle{KeyPackage: keyPackage.KeyPackage, InitKey: initKey}
	if err := sameBytes("init key", initKey.Public(), bundle.KeyPackage.InitKey); err != nil {
		return err
	}
	params := JoinParams{Welcome: message.Welcome, KeyPackage: bundle.find(suite)}
	_, sealed, err := params.find(ctx)
	if err != nil {
		return err
	}
	secrets, err := openGroupSecrets(ctx, suite, bundle, message.Welcome, sealed)
	if err != nil {
		return fmt.Errorf("group secrets: %w", err)
	}
	psk, err := pskSecret(suite, nil)
	if err != nil {
		return err
	}
	info, err := openGroupInfo(suite, secrets.JoinerSecret, psk, message.Welcome.EncryptedGroupInfo)
	if err != nil {
		return fmt.Errorf("GroupInfo: %w", err)
	}
	if err := verifyWithLabel(suite, v.SignerPub, "GroupInfoTBS", info.tbs(), info.Signature); err != nil {
		return fmt.Errorf("signature of the GroupInfo: %w", err)
	}
	e, err := epochFromJoiner(suite, secrets.JoinerSecret, psk, info.GroupContext.Marshal())
	if err != nil {
		return err
	}
	if err := e.verifyConfirmationTag(info.GroupContext.ConfirmedTranscriptHash, info.ConfirmationTag); err != nil {
		return fmt.Errorf("confirmation tag: %w", err)
	}
	return nil
}

// find is for [JoinParams], with this key package alone.
func (b *KeyPackageBundle) find(suite core.Suite) func(context.Context, []byte) (*KeyPackageBundle, error) {
	return func(_ context.Context, ref []byte) (*KeyPackageBundle, error) {
		if !bytes.Equal(ref, b.KeyPackage.Ref(suite)) {
			return nil, core.ErrNotFound
		}
		return b, nil
	}
}
