// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// What the tests outside this package forge and see of what is inside.

// ForgePath changes the path of a pending commit of g. The leaf gets the parent hash
// that the changed keys call for and is signed again; so is the commit, which keeps
// its confirmation tag.
func ForgePath(ctx context.Context, env *Env, g *Group, p *PendingCommit, signer core.Signer, change func(*UpdatePath)) ([]byte, error) {
	commit, err := UnmarshalCommit(p.content.Content.Commit.Marshal())
	if err != nil {
		return nil, err
	}
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, err
	}
	path := commit.Path
	change(path)
	work := g.tree.edit()
	p.list.apply(work, nil)
	var publics [][]byte
	for _, n := range path.Nodes {
		publics = append(publics, n.EncryptionKey)
	}
	if steps := work.filteredDirectPath(g.own); len(steps) == len(publics) {
		_, path.LeafNode.ParentHash = work.pathNodes(steps, publics)
	}
	if err := path.LeafNode.sign(ctx, signer, g.context.GroupID, g.own); err != nil {
		return nil, err
	}
	return ForgeMessage(ctx, env, g, g.handshakeFormat(), g.me(), signer, nil, commit, p.content.Auth.ConfirmationTag)
}

// ForgeList is [Group.Commit] over exactly this list, in this order. References are
// to proposals that wait.
func ForgeList(ctx context.Context, env *Env, g *Group, list []ProposalOrRef) (*Group, *PendingCommit, *record.WriteSet, error) {
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, nil, nil, err
	}
	store, err := g.loadProposals(ctx, env)
	if err != nil {
		return nil, nil, nil, err
	}
	keys, err := g.loadKeys(ctx, env)
	if err != nil {
		return nil, nil, nil, err
	}
	b := &commitBuilder{g: g, env: env, keys: keys}
	for _, p := range list {
		if p.Proposal != nil {
			b.list = append(b.list, sentProposal{proposal: p.Proposal, sender: g.me()})
			continue
		}
		found, ok := store.find(p.Reference)
		if !ok {
			return nil, nil, nil, ErrMissingProposal
		}
		b.list = append(b.list, found)
	}
	return b.build(ctx)
}

// ForgeOrders frames the pending commit of g again, as KS-8 says and with each part
// taken from the wrong epoch.
func ForgeOrders(ctx context.Context, g *Group, p *PendingCommit, signer core.Signer) (good []byte, wrong map[string][]byte, err error) {
	next := marshal(&p.context)
	after, err := epochFromJoiner(g.suite, p.joiner, p.psk, next)
	if err != nil {
		return nil, nil, err
	}
	mixed, err := epochFromJoiner(g.suite, p.joiner, p.psk, g.contextBytes)
	if err != nil {
		return nil, nil, err
	}
	frame := func(context []byte, membership core.Secret, tag []byte) []byte {
		a, signErr := signFramedContent(ctx, signer, WirePublicMessage, p.content.Content, context)
		if signErr != nil {
			err = signErr
			return nil
		}
		a.Auth.ConfirmationTag = tag
		m, protectErr := protectPublic(g.suite, membership, context, a)
		if protectErr != nil {
			err = protectErr
			return nil
		}
		return (&MLSMessage{PublicMessage: m}).Marshal()
	}
	hash := p.context.ConfirmedTranscriptHash
	tag := after.confirmationTag(hash)
	good = frame(g.contextBytes, g.secrets.membership, tag)
	wrong = map[string][]byte{
		"tag over the old hash":              frame(g.contextBytes, g.secrets.membership, after.confirmationTag(g.context.ConfirmedTranscriptHash)),
		"tag with the old key":               frame(g.contextBytes, g.secrets.membership, g.secrets.confirmationTag(hash)),
		"epoch derived from the old context": frame(g.contextBytes, g.secrets.membership, mixed.confirmationTag(hash)),
		"signed in the new context":          frame(next, g.secrets.membership, tag),
		"membership tag of the new epoch":    frame(g.contextBytes, after.membership, tag),
	}
	return good, wrong, err
}

// EpochSecrets are the secrets of g's epoch that its header holds, by their labels.
func EpochSecrets(g *Group) map[string][]byte {
	s := g.secrets
	secrets := map[string][]byte{}
	for label, secret := range map[string]core.Secret{
		"sender data": s.senderData, "exporter": s.exporter, "external": s.external, "confirm": s.confirmation,
		"membership": s.membership, "resumption": s.resumption, "authentication": s.authentication, "init": s.init,
	} {
		secrets[label] = secret.Clone().Bytes()
	}
	return secrets
}

// ConfirmedHash is the confirmed transcript hash of g's epoch.
func ConfirmedHash(g *Group) []byte { return g.context.ConfirmedTranscriptHash }

// Generation opens the sender data of a PrivateMessage of g's epoch.
func Generation(g *Group, message []byte) (leaf LeafIndex, generation uint32, err error) {
	m, err := UnmarshalMLSMessage(message)
	if err != nil {
		return 0, 0, err
	}
	if m.PrivateMessage == nil {
		return 0, 0, fmt.Errorf("not a PrivateMessage: %w", core.ErrInvalid)
	}
	d, err := m.PrivateMessage.openSenderData(g.suite, g.secrets.senderData, g.tree.size())
	return d.leaf, d.generation, err
}

// ForgePrivate is garbage under true sender data: any leaf and generation of g's epoch.
func ForgePrivate(g *Group, leaf LeafIndex, generation uint32) ([]byte, error) {
	m := &PrivateMessage{GroupID: g.context.GroupID, Epoch: g.context.Epoch, ContentType: ContentApplication, Ciphertext: randomBytes(100)}
	if err := m.sealSenderData(g.suite, g.secrets.senderData, newSenderData(leaf, generation)); err != nil {
		return nil, err
	}
	return (&MLSMessage{PrivateMessage: m}).Marshal(), nil
}

// OpenWelcome decrypts the group secrets of the joiner that the bundle is of.
func OpenWelcome(ctx context.Context, suite core.Suite, bundle *KeyPackageBundle, w *Welcome) (*GroupSecrets, error) {
	for _, s := range w.Secrets {
		if string(s.NewMember) == string(bundle.KeyPackage.Ref(suite)) {
			return openGroupSecrets(ctx, suite, bundle, w, s.Secrets)
		}
	}
	return nil, ErrNoKeyPackage
}

// ForgeParentHash is [ForgePath] for the parent hash of the leaf alone.
func ForgeParentHash(ctx context.Context, env *Env, g *Group, p *PendingCommit, signer core.Signer, change func([]byte) []byte) ([]byte, error) {
	commit, err := UnmarshalCommit(p.content.Content.Commit.Marshal())
	if err != nil {
		return nil, err
	}
	leaf := commit.Path.LeafNode
	leaf.ParentHash = change(leaf.ParentHash)
	if err := leaf.sign(ctx, signer, g.context.GroupID, g.own); err != nil {
		return nil, err
	}
	return ForgeMessage(ctx, env, g, g.handshakeFormat(), g.me(), signer, nil, commit, p.content.Auth.ConfirmationTag)
}

// PathNodes are those of the path of a commit.
func (p *PendingCommit) PathNodes() []UpdatePathNode { return p.content.Content.Commit.Path.Nodes }

// Content is what the commit was signed as.
func (p *PendingCommit) Content() AuthenticatedContent { return *p.content }

// ReuseGuard is that of a PrivateMessage of g's epoch.
func ReuseGuard(g *Group, message []byte) [4]byte {
	m, err := UnmarshalMLSMessage(message)
	if err != nil {
		panic(err)
	}
	d, err := m.PrivateMessage.openSenderData(g.suite, g.secrets.senderData, g.tree.size())
	if err != nil {
		panic(err)
	}
	return d.reuseGuard
}

// TreeHashOf is the tree hash over a list of nodes.
func TreeHashOf(t testing.TB, suite core.Suite, nodes []Node) []byte {
	t.Helper()
	tr, err := importTree(suite, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return tr.hash()
}
