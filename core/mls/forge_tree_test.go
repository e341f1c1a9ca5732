// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// ForgeLeafAt signs a leaf for any place in any group.
func ForgeLeafAt(ctx context.Context, signer core.Signer, groupID []byte, index LeafIndex, leaf *LeafNode) error {
	return leaf.sign(ctx, signer, groupID, index)
}

// ForgePackageAround signs a key package around a leaf that stays as it is.
func ForgePackageAround(ctx context.Context, signer core.Signer, k *KeyPackage) (err error) {
	k.Signature, err = signWithLabel(ctx, signer, "KeyPackageTBS", k.tbs())
	return err
}

// ForgeTree changes the ratchet tree that a GroupInfo carries, and the tree hash with
// it. Parent hashes stay what they were.
func ForgeTree(suite core.Suite, info *GroupInfo, change func([]Node)) error {
	for i, e := range info.Extensions {
		if e.Type != ExtensionRatchetTree {
			continue
		}
		nodes, err := UnmarshalRatchetTree(e.Data)
		if err != nil {
			return err
		}
		change(nodes)
		t, err := importTree(suite, nodes)
		if err != nil {
			return err
		}
		info.Extensions[i].Data = MarshalRatchetTree(nodes)
		info.GroupContext.TreeHash = t.hash()
	}
	return nil
}

// ForgeUncheckedCommit is a commit by g with a path, right in every key, hash and tag,
// of proposals by value that nobody has checked, alone or together. change, if any,
// may alter our new leaf before it is signed by signer.
func ForgeUncheckedCommit(ctx context.Context, env *Env, g *Group, proposals []Proposal, change func(*LeafNode), signer core.Signer) ([]byte, error) {
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, err
	}
	keys, err := g.loadKeys(ctx, env)
	if err != nil {
		return nil, err
	}
	b := &commitBuilder{g: g, env: env, keys: keys, work: g.tree.edit()}
	if b.signer, err = env.signer(ctx, g.tree.leaf(g.own).SignatureKey); err != nil {
		return nil, err
	}
	commit := &Commit{}
	for _, p := range proposals {
		b.list = append(b.list, sentProposal{proposal: p, sender: g.me()})
		commit.Proposals = append(commit.Proposals, ProposalOrRef{Proposal: p})
	}
	next := g.context
	next.Epoch++
	next.Extensions, b.added = b.list.apply(b.work, g.context.Extensions)
	leaf := LeafParams{}.template(env, g.tree.leaf(g.own))
	if change != nil {
		change(leaf)
	}
	if signer == nil {
		signer = b.signer
	}
	path, created, err := createPath(ctx, pathParams{
		suite: g.suite, tree: b.work, own: g.own, leaf: leaf, signer: signer,
		groupID: g.context.GroupID, excluded: b.added, keys: b.keys.path,
		groupContext: func(treeHash []byte) []byte {
			provisional := next
			provisional.TreeHash = treeHash
			return marshal(&provisional)
		},
	})
	if err != nil {
		return nil, err
	}
	commit.Path = path
	next.TreeHash = b.work.hash()
	psks, err := g.gatherPSKs(ctx, env, b.list.pskIDs())
	if err != nil {
		return nil, err
	}
	psk, err := pskSecret(g.suite, psks)
	if err != nil {
		return nil, err
	}
	c := g.content(nil)
	c.ContentType, c.Commit = ContentCommit, commit
	a, err := signFramedContent(ctx, b.signer, g.handshakeFormat(), c, g.contextBytes)
	if err != nil {
		return nil, err
	}
	_, secrets, err := advance(g.suite, &next, g.interim, a, g.secrets.init, created.commitSecret, psk)
	if err != nil {
		return nil, err
	}
	a.Auth.ConfirmationTag = secrets.confirmationTag(next.ConfirmedTranscriptHash)
	_, message, err := g.protect(ctx, env, a, &record.WriteSet{})
	return message, err
}

// ExternalPub and ForgeExternalPub read and write external_pub.
func ExternalPub(l Extensions) ([]byte, error) {
	key, _, err := l.externalPub()
	return key, err
}

// ForgeExternalPub is the extension with any key.
func ForgeExternalPub(key []byte) Extension {
	return Extension{Type: ExtensionExternalPub, Data: appendOpaque(nil, key)}
}

// ForgeWelcomeBytes changes the encoded GroupInfo and group secrets of a Welcome for
// the last who joins, and encrypts them again.
func ForgeWelcomeBytes(ctx context.Context, env *Env, g *Group, p *PendingCommit, signer core.Signer, changeInfo, changeSecrets func([]byte) []byte) ([]byte, error) {
	message, err := ForgeWelcome(ctx, env, g, p, signer, func(*GroupInfo) {}, changeSecrets)
	if err != nil {
		return nil, err
	}
	m, err := UnmarshalMLSMessage(message)
	if err != nil {
		return nil, err
	}
	aead, nonce, err := welcomeAEAD(g.suite, p.joiner, p.psk)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nonce.Bytes(), m.Welcome.EncryptedGroupInfo, nil)
	if err != nil {
		return nil, err
	}
	m.Welcome.EncryptedGroupInfo = aead.Seal(nil, nonce.Bytes(), changeInfo(plaintext), nil)
	adds := p.list.of(ProposalAdd)
	kp := adds[len(adds)-1].proposal.(*Add).KeyPackage
	secrets := GroupSecrets{JoinerSecret: p.joiner, PSKs: p.list.pskIDs()}
	m.Welcome.Secrets[0].Secrets, err = encryptWithLabel(g.suite, "Welcome", m.Welcome.EncryptedGroupInfo)(kp.InitKey, changeSecrets(secrets.Marshal()))
	return m.Marshal(), err
}
