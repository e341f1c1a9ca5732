// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"iter"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// A Group is one member's view of a group in one epoch: an immutable value. Every
// operation that changes something returns the next value and the [record.WriteSet] of
// what changed; the old value stays good for queries and for starting over. What
// a Group has not needed yet stays in the store and is fetched when it is.
type Group struct {
	suite        core.Suite
	config       Config
	context      GroupContext
	contextBytes []byte // encoding of context: what signatures and the key schedule cover
	interim      []byte // interim transcript hash
	tag          []byte // confirmation tag of this epoch
	own          LeafIndex
	active       bool
	reinit       *ReInit // the group ended with it
	secrets      *epochSecrets
	resumption   []resumptionPSK // earlier epochs, oldest first
	oldest       uint64          // the oldest epoch that is kept for late messages

	tree      *tree
	keys      *privateKeys // nil: not loaded
	proposals *proposalStore
	messages  *secretTree
	past      []*pastEpoch // loaded ones, at most MaxPastEpochs
	floored   bool         // the stored floors of this epoch are in messages
}

type resumptionPSK struct {
	epoch  uint64
	secret core.Secret
}

// CreateParams says what a new group shall be.
type CreateParams struct {
	Suite          core.Suite
	GroupID        []byte
	Signer         core.Signer
	Credential     core.Credential
	Capabilities   Capabilities
	LeafExtensions Extensions
	Extensions     Extensions // of the GroupContext
	Lifetime       Lifetime
	Config         Config
}

// Create starts a group with its creator as the only member, in epoch 0 (RFC
// 9420 section 11).
func Create(ctx context.Context, env *Env, p CreateParams) (_ *Group, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	leafKey, err := p.Suite.GenerateKeyPair()
	if err != nil {
		return nil, nil, err
	}
	leaf := &LeafNode{
		EncryptionKey: leafKey.Public(),
		SignatureKey:  p.Signer.Public(),
		Credential:    p.Credential,
		Capabilities:  p.Capabilities,
		Source:        LeafKeyPackage,
		Lifetime:      p.Lifetime,
		Extensions:    p.LeafExtensions,
	}
	if env.Grease {
		leaf.grease()
	}
	if err := leaf.sign(ctx, p.Signer, nil, 0); err != nil {
		return nil, nil, err
	}
	t := newTree(p.Suite).edit()
	own := t.addLeaf(leaf)
	gc := GroupContext{Version: MLS10, Suite: p.Suite.ID(), GroupID: p.GroupID, TreeHash: t.hash(), Extensions: p.Extensions}
	if err := leaf.checkMade(p.Suite, LeafKeyPackage); err != nil {
		return nil, nil, err
	}
	if err := env.checkLifetime(leaf); err != nil {
		return nil, nil, err
	}
	if err := checkOwn(t, &gc, own); err != nil {
		return nil, nil, err
	}
	if err := checkGroupExtensions(p.Extensions); err != nil {
		return nil, nil, err
	}
	senders, err := p.Extensions.ExternalSenders()
	if err != nil {
		return nil, nil, err
	}
	if err := authenticateSenders(env, p.Suite, senders); err != nil {
		return nil, nil, err
	}
	if _, err := env.Auth.Validate(p.Credential, leaf.SignatureKey, env.Now, core.PurposeMember); err != nil {
		return nil, nil, err
	}
	epochSecret := core.NewSecret(randomBytes(p.Suite.Parameters().Nh))
	defer epochSecret.Wipe()
	secrets, err := epochFromSecret(p.Suite, epochSecret)
	if err != nil {
		return nil, nil, err
	}
	ws := &record.WriteSet{}
	g := (&Group{suite: p.Suite, config: p.Config}).enter(transition{
		tree: t, context: gc, secrets: secrets, own: own,
		tag:  secrets.confirmationTag(nil), // KS-2
		keys: newPrivateKeys(own, leafKey),
	}, ws)
	return g, ws, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand (CS-7)
	return b
}

// GroupID is the id of the group.
func (g *Group) GroupID() []byte { return bytes.Clone(g.context.GroupID) }

// Epoch is the current epoch.
func (g *Group) Epoch() uint64 { return g.context.Epoch }

// Width is for how many leaves the tree has room. What a Group may take of memory is in
// proportion.
func (g *Group) Width() int {
	if g.tree == nil {
		return 0
	}
	return int(g.tree.size())
}

// Suite is the cipher suite of the group.
func (g *Group) Suite() core.SuiteID { return g.context.Suite }

// Config is what this member chose for the group.
func (g *Group) Config() Config { return g.config }

// OwnLeaf is the index of our own leaf.
func (g *Group) OwnLeaf() LeafIndex { return g.own }

// Active is false after we were removed or the group was re-initialised.
func (g *Group) Active() bool { return g.active }

// ReInit is set when the group has ended with a ReInit: see [Group.Reinitialize].
func (g *Group) ReInit() *ReInit { return g.reinit }

// Extensions are those of the GroupContext.
func (g *Group) Extensions() Extensions { return g.context.Extensions }

// TreeHash, ConfirmationTag and EpochAuthenticator are what two members compare
// to see whether they are in the same state.
func (g *Group) TreeHash() []byte { return bytes.Clone(g.context.TreeHash) }

// ConfirmationTag is the tag of the commit that began this epoch.
func (g *Group) ConfirmationTag() []byte { return bytes.Clone(g.tag) }

// EpochAuthenticator is RFC 9420 section 8.7's value, Nh bytes (KS-7).
func (g *Group) EpochAuthenticator() []byte { return bytes.Clone(g.secrets.authentication.Bytes()) }

// Export is MLS-Exporter (RFC 9420 section 8.5): up to 255*Nh bytes, else ErrTooLarge.
func (g *Group) Export(label string, context []byte, length int) (_ core.Secret, err error) {
	defer tooLarge(&err)
	if !g.active {
		return core.Secret{}, ErrInactive
	}
	return g.secrets.export(label, context, length)
}

// DeleteExporter returns the group without the exporter secret of this epoch: what
// was exported cannot be exported again, and Export is [core.ErrNotFound] until the
// next epoch (KS-6).
func (g *Group) DeleteExporter() (*Group, *record.WriteSet) {
	next, secrets, ws := *g, *g.secrets, &record.WriteSet{}
	if !secrets.exporter.IsZero() {
		ws.Retire(secrets.exporter)
		secrets.exporter = core.Secret{}
	}
	next.secrets = &secrets
	ws.Put(RecordHeader, nil, next.header())
	return &next, ws
}

// A Member is an occupied leaf.
type Member struct {
	Leaf       LeafIndex
	Credential core.Credential
	// SignatureKey has the MLS encoding.
	SignatureKey []byte
}

func memberAt(i LeafIndex, n *LeafNode) Member {
	return Member{Leaf: i, Credential: n.Credential, SignatureKey: n.SignatureKey}
}

// Members lists the members in leaf order; it loads the whole tree.
func (g *Group) Members(ctx context.Context, env *Env) ([]Member, error) {
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, err
	}
	return g.tree.members(), nil
}

func (t *tree) members() []Member {
	list := make([]Member, 0, t.size())
	for i, n := range t.leaves() {
		list = append(list, memberAt(i, n))
	}
	return list
}

// OwnLeafNode returns our own leaf.
func (g *Group) OwnLeafNode(ctx context.Context, env *Env) (*LeafNode, error) {
	if err := g.tree.needLeaf(ctx, env.Fetch, g.own); err != nil {
		return nil, err
	}
	if n := g.tree.leaf(g.own); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("own leaf %d is blank: %w", g.own, core.ErrDamaged)
}

// RatchetTree exports the tree as the content of the ratchet_tree extension.
func (g *Group) RatchetTree(ctx context.Context, env *Env) (_ []byte, err error) {
	defer tooLarge(&err)
	if err := g.tree.needAll(ctx, env.Fetch); err != nil {
		return nil, err
	}
	return g.tree.appendTo(nil), nil
}

// resumptionPSKOf finds the group's own resumption PSK of an epoch (PSK-6).
func (g *Group) resumptionPSKOf(epoch uint64) (core.Secret, bool) {
	if epoch == g.context.Epoch {
		return g.secrets.resumption, true
	}
	for _, r := range g.resumption {
		if r.epoch == epoch {
			return r.secret, true
		}
	}
	return core.Secret{}, false
}

// ResumptionPSK is for other groups: the client hands it to their Env.
func (g *Group) ResumptionPSK(epoch uint64) (core.Secret, bool) {
	s, ok := g.resumptionPSKOf(epoch)
	return s.Clone(), ok
}

// gatherPSKs finds the secrets of a list of PSKs, in its order.
func (g *Group) gatherPSKs(ctx context.Context, env *Env, ids []PreSharedKeyID) ([]PSK, error) {
	var psks []PSK
	for _, id := range ids {
		var secret core.Secret
		own := false
		if id.Type == PSKResumption && id.Usage == ResumptionApplication && bytes.Equal(id.GroupID, g.context.GroupID) {
			secret, own = g.resumptionPSKOf(id.Epoch)
		}
		if !own {
			var err error
			if secret, err = env.psk(ctx, id); err != nil {
				return nil, missingPSK(err)
			}
		}
		psks = append(psks, PSK{ID: id, Secret: secret})
	}
	return psks, nil
}

// PendingProposals lists the proposals that wait to be committed.
func (g *Group) PendingProposals(ctx context.Context, env *Env) iter.Seq2[ReceivedProposal, error] {
	return func(yield func(ReceivedProposal, error) bool) {
		store, err := g.loadProposals(ctx, env)
		if err != nil {
			yield(ReceivedProposal{}, err)
			return
		}
		for _, p := range store.list {
			if !yield(p.received(), nil) {
				return
			}
		}
	}
}
