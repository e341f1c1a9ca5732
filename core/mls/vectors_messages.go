// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// vectorLimits let a ratchet be asked for any generation of a vector.
var vectorLimits = ratchetLimits{tolerance: 16, maxForward: 1 << 10}

// A secretTreeVector has keys of some generations of every leaf.
type secretTreeVector struct {
	Suite            core.SuiteID `json:"cipher_suite"`
	EncryptionSecret hexBytes     `json:"encryption_secret"`
	SenderData       struct {
		Secret     hexBytes `json:"sender_data_secret"`
		Ciphertext hexBytes `json:"ciphertext"`
		Key        hexBytes `json:"key"`
		Nonce      hexBytes `json:"nonce"`
	} `json:"sender_data"`
	Leaves [][]struct {
		Generation       uint32   `json:"generation"`
		HandshakeKey     hexBytes `json:"handshake_key"`
		HandshakeNonce   hexBytes `json:"handshake_nonce"`
		ApplicationKey   hexBytes `json:"application_key"`
		ApplicationNonce hexBytes `json:"application_nonce"`
	} `json:"leaves"`
}

func runSecretTree(ctx context.Context, env *vectorEnv, v *secretTreeVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	s := v.SenderData
	if err := sameKeyNonce(suite, s.Secret, s.Ciphertext, s.Key, s.Nonce); err != nil {
		return err
	}
	tree := newSecretTree(suite, 0, uint32(len(v.Leaves)), vectorLimits, v.EncryptionSecret.secret(), &record.WriteSet{})
	for i, generations := range v.Leaves {
		for _, g := range generations {
			for kind, want := range map[ratchetKind][2]hexBytes{
				handshakeRatchet:   {g.HandshakeKey, g.HandshakeNonce},
				applicationRatchet: {g.ApplicationKey, g.ApplicationNonce},
			} {
				tree, err = tree.open(ctx, nil, &record.WriteSet{}, LeafIndex(i), kind, g.Generation, func(key, nonce core.Secret) error {
					return errors.Join(sameBytes("key", key.Bytes(), want[0]), sameBytes("nonce", nonce.Bytes(), want[1]))
				})
				if err != nil {
					return fmt.Errorf("leaf %d, %s generation %d: %w", i, ratchetLabels[kind], g.Generation, err)
				}
			}
		}
	}
	return nil
}

func sameKeyNonce(suite core.Suite, secret, ciphertext, wantKey, wantNonce hexBytes) error {
	key, nonce, err := senderDataKeyNonce(suite, secret.secret(), ciphertext)
	return errors.Join(sameSecret("sender data key", key, err, wantKey), sameSecret("sender data nonce", nonce, err, wantNonce))
}

type senderDataVector struct {
	Suite           core.SuiteID `json:"cipher_suite"`
	Secret          hexBytes     `json:"secret"`
	CiphertextBytes hexBytes     `json:"ciphertext_bytes"`
	Key             hexBytes     `json:"expected_key"`
	Nonce           hexBytes     `json:"expected_nonce"`
	SenderData      struct {
		Sender     LeafIndex `json:"sender"`
		Generation uint32    `json:"generation"`
		ReuseGuard hexBytes  `json:"reuse_guard"`
	} `json:"sender_data"`
	AAD struct {
		GroupID hexBytes `json:"group_id"`
		Epoch   uint64   `json:"epoch"`
	} `json:"sender_data_aad"`
	Ciphertext hexBytes `json:"expected_ciphertext"`
}

func runSenderData(_ context.Context, env *vectorEnv, v *senderDataVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	if err := sameKeyNonce(suite, v.Secret, v.CiphertextBytes, v.Key, v.Nonce); err != nil {
		return err
	}
	d := senderData{leaf: v.SenderData.Sender, generation: v.SenderData.Generation}
	copy(d.reuseGuard[:], v.SenderData.ReuseGuard)
	m := &PrivateMessage{GroupID: v.AAD.GroupID, Epoch: v.AAD.Epoch, ContentType: ContentApplication, Ciphertext: v.CiphertextBytes}
	if err := m.sealSenderData(suite, v.Secret.secret(), d); err != nil {
		return err
	}
	if err := sameBytes("encrypted sender data", m.EncryptedSenderData, v.Ciphertext); err != nil {
		return err
	}
	opened, err := m.openSenderData(suite, v.Secret.secret(), uint32(d.leaf)+1)
	if err != nil {
		return err
	}
	return sameBytes("sender data", opened.append(nil), d.append(nil))
}

// A framingVector has contents of leaf 1 in a group of two, bare and framed.
type framingVector struct {
	Suite                   core.SuiteID `json:"cipher_suite"`
	GroupID                 hexBytes     `json:"group_id"`
	Epoch                   uint64       `json:"epoch"`
	TreeHash                hexBytes     `json:"tree_hash"`
	ConfirmedTranscriptHash hexBytes     `json:"confirmed_transcript_hash"`
	SignaturePriv           hexBytes     `json:"signature_priv"`
	SignaturePub            hexBytes     `json:"signature_pub"`
	EncryptionSecret        hexBytes     `json:"encryption_secret"`
	SenderDataSecret        hexBytes     `json:"sender_data_secret"`
	MembershipKey           hexBytes     `json:"membership_key"`
	ConfirmationTag         hexBytes     `json:"confirmation_tag"` // of the commit, in some files

	Proposal        hexBytes `json:"proposal"`
	ProposalPub     hexBytes `json:"proposal_pub"`
	ProposalPriv    hexBytes `json:"proposal_priv"`
	Commit          hexBytes `json:"commit"`
	CommitPub       hexBytes `json:"commit_pub"`
	CommitPriv      hexBytes `json:"commit_priv"`
	Application     hexBytes `json:"application"`
	ApplicationPriv hexBytes `json:"application_priv"`
}

func runProtection(ctx context.Context, env *vectorEnv, v *framingVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	signer, err := env.signer(ctx, suite, v.SignaturePriv)
	if err != nil {
		return err
	}
	if err := sameBytes("signature key", signer.Public(), v.SignaturePub); err != nil {
		return err
	}
	gc := &GroupContext{Version: MLS10, Suite: v.Suite, GroupID: v.GroupID, Epoch: v.Epoch, TreeHash: v.TreeHash, ConfirmedTranscriptHash: v.ConfirmedTranscriptHash}
	p := &framingCase{vector: v, suite: suite, signer: signer, groupContext: gc.Marshal()}
	for _, c := range []struct {
		what      string
		content   FramedContent
		pub, priv hexBytes
	}{
		{"proposal", FramedContent{ContentType: ContentProposal}, v.ProposalPub, v.ProposalPriv},
		{"commit", FramedContent{ContentType: ContentCommit}, v.CommitPub, v.CommitPriv},
		{"application", FramedContent{ContentType: ContentApplication}, nil, v.ApplicationPriv},
	} {
		if err := p.run(ctx, &c.content, c.pub, c.priv); err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
	}
	return nil
}

type framingCase struct {
	vector       *framingVector
	suite        core.Suite
	signer       core.Signer
	groupContext []byte
}

// body is what a content has to say, without its frame.
func (p *framingCase) body(t ContentType) hexBytes {
	switch t {
	case ContentProposal:
		return p.vector.Proposal
	case ContentCommit:
		return p.vector.Commit
	}
	return p.vector.Application
}

// run opens both forms of the file, then both of our own making.
func (p *framingCase) run(ctx context.Context, c *FramedContent, pub, priv []byte) (err error) {
	c.GroupID, c.Epoch, c.Sender = p.vector.GroupID, p.vector.Epoch, Sender{Type: SenderMember, Leaf: 1}
	switch body := p.body(c.ContentType); c.ContentType {
	case ContentProposal:
		c.Proposal, err = UnmarshalProposal(body)
	case ContentCommit:
		c.Commit, err = UnmarshalCommit(body)
	default:
		c.Application = body
	}
	if err != nil {
		return err
	}
	if err := p.open(ctx, priv, c, WirePrivateMessage); err != nil {
		return fmt.Errorf("given PrivateMessage: %w", err)
	}
	own, err := p.protect(ctx, c, WirePrivateMessage)
	if err != nil {
		return fmt.Errorf("own PrivateMessage: %w", err)
	}
	if err := p.open(ctx, own, c, WirePrivateMessage); err != nil {
		return fmt.Errorf("own PrivateMessage: %w", err)
	}
	own, err = p.protect(ctx, c, WirePublicMessage)
	if c.ContentType == ContentApplication {
		if err == nil {
			return fmt.Errorf("application data was made a PublicMessage")
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("own PublicMessage: %w", err)
	}
	if err := p.open(ctx, own, c, WirePublicMessage); err != nil {
		return fmt.Errorf("own PublicMessage: %w", err)
	}
	if err := p.open(ctx, pub, c, WirePublicMessage); err != nil {
		return fmt.Errorf("given PublicMessage: %w", err)
	}
	return nil
}

// tree is fresh for each message, as every file begins at generation 0.
func (p *framingCase) tree() *secretTree {
	return newSecretTree(p.suite, p.vector.Epoch, 2, vectorLimits, p.vector.EncryptionSecret.secret(), &record.WriteSet{})
}

func (p *framingCase) protect(ctx context.Context, c *FramedContent, format WireFormat) ([]byte, error) {
	a, err := signFramedContent(ctx, p.signer, format, c, p.groupContext)
	if err != nil {
		return nil, err
	}
	if c.ContentType == ContentCommit {
		a.Auth.ConfirmationTag = p.suite.MAC(p.vector.MembershipKey.secret(), nil) // any: it means nothing here
	}
	if format == WirePublicMessage {
		m, err := protectPublic(p.suite, p.vector.MembershipKey.secret(), p.groupContext, a)
		if err != nil {
			return nil, err
		}
		return (&MLSMessage{PublicMessage: m}).Marshal(), nil
	}
	_, m, err := protectPrivate(ctx, nil, &record.WriteSet{}, p.tree(), p.vector.SenderDataSecret.secret(), a, Padding(32))
	if err != nil {
		return nil, err
	}
	return (&MLSMessage{PrivateMessage: m}).Marshal(), nil
}

// open requires a message to say what want says.
func (p *framingCase) open(ctx context.Context, data []byte, want *FramedContent, format WireFormat) error {
	m, err := messageOf(data, format)
	if err != nil {
		return err
	}
	check := func(a *AuthenticatedContent) error {
		if err := verifyContent(p.suite, p.vector.SignaturePub, p.groupContext, a); err != nil {
			return fmt.Errorf("signature: %w", err)
		}
		if want.ContentType == ContentCommit && p.vector.ConfirmationTag != nil && len(a.Auth.ConfirmationTag) == 0 {
			return fmt.Errorf("a commit without confirmation tag")
		}
		got := *a.Content
		got.AuthenticatedData = want.AuthenticatedData
		return sameBytes("content", got.append(nil), want.append(nil))
	}
	if m.PublicMessage != nil {
		a, err := unprotectPublic(p.suite, p.vector.MembershipKey.secret(), p.groupContext, m.PublicMessage)
		if err != nil {
			return err
		}
		return check(a)
	}
	d, err := m.PrivateMessage.openSenderData(p.suite, p.vector.SenderDataSecret.secret(), 2)
	if err != nil {
		return fmt.Errorf("sender data: %w", err)
	}
	_, err = unprotectPrivate(ctx, nil, &record.WriteSet{}, p.tree(), m.PrivateMessage, d, check)
	return err
}
