// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"errors"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

// JoinParams is what joining by Welcome needs beside the Env.
type JoinParams struct {
	Welcome *Welcome
	// KeyPackage finds one of our key packages by its reference; core.ErrNotFound
	// if it is not ours.
	KeyPackage func(ctx context.Context, ref []byte) (*KeyPackageBundle, error)
	// Tree is the ratchet tree, if the GroupInfo does not carry it.
	Tree   []byte
	Config Config
	// Predecessor finds the group of ours that a Welcome re-initialises or branches
	// from, and the Env to read it by; core.ErrNotFound if it is not there. Without
	// it such a Welcome is core.ErrUnsupported: to believe it is not safe.
	Predecessor func(ctx context.Context, groupID []byte) (*Group, *Env, error)
}

// Joined tells how a group was entered.
type Joined struct {
	KeyPackage *KeyPackage // that was used; it is to be deleted unless it is a last resort
	Inviter    Member
	Members    []Member
	// Follows says by which usage the group follows the one that Predecessor found,
	// with which it was compared, and from which of its epochs on. Usage 0: it follows
	// none. That a branch is of the current epoch, and so not the work of somebody who
	// was removed since, is for the application to ask.
	Follows PreSharedKeyID
}

// Join enters a group by a Welcome (RFC 9420 section 12.4.3.1). The Env needs no
// Fetch: there is nothing stored yet.
func Join(ctx context.Context, env *Env, p JoinParams) (_ *Group, _ *Joined, _ *record.WriteSet, err error) {
	defer tooLarge(&err)
	fail := func(err error) (*Group, *Joined, *record.WriteSet, error) { return nil, nil, nil, err }
	env = env.operation()
	suite, err := env.Suites.Suite(p.Welcome.Suite) // CS-6
	if err != nil {
		return fail(err)
	}
	bundle, sealed, err := p.find(ctx)
	if err != nil {
		return fail(err)
	}
	if bundle.KeyPackage.Suite != p.Welcome.Suite {
		return fail(breach("WEL-1", "Welcome of suite %v for a key package of suite %v", p.Welcome.Suite, bundle.KeyPackage.Suite))
	}
	secrets, err := openGroupSecrets(ctx, suite, bundle, p.Welcome, sealed)
	if err != nil {
		return fail(err)
	}
	psk, before, err := p.welcomePSK(ctx, env, suite, secrets.PSKs)
	if err != nil {
		return fail(err)
	}
	info, err := openGroupInfo(suite, secrets.JoinerSecret, psk, p.Welcome.EncryptedGroupInfo)
	if err != nil {
		return fail(err)
	}
	t, err := openTree(env, suite, info, p.Tree)
	if err != nil {
		return fail(err)
	}
	own, err := ownLeafIn(t, bundle.KeyPackage.LeafNode)
	if err != nil {
		return fail(err)
	}
	if err := checkContext(t, &info.GroupContext, own); err != nil {
		return fail(err)
	}
	if before != nil {
		if err := before.check(ctx, env, &info.GroupContext, t); err != nil {
			return fail(err)
		}
	}
	epoch, err := epochFromJoiner(suite, secrets.JoinerSecret, psk, marshal(&info.GroupContext))
	if err != nil {
		return fail(err)
	}
	if err := epoch.verifyConfirmationTag(info.GroupContext.ConfirmedTranscriptHash, info.ConfirmationTag); err != nil { // WEL-7
		return fail(err)
	}
	keys := newPrivateKeys(own, bundle.LeafKey)
	if !secrets.PathSecret.IsZero() { // WEL-6
		if info.Signer == own {
			return fail(breach("WEL-6", "path secret from ourselves"))
		}
		path, err := pathFromSecret(t, own, info.Signer, secrets.PathSecret)
		if err != nil {
			return fail(err)
		}
		keys.path = path.with(own.node(), bundle.LeafKey)
	}
	ws := &record.WriteSet{}
	g := (&Group{suite: suite, config: p.Config}).enter(transition{
		tree: t, context: info.GroupContext, secrets: epoch, tag: info.ConfirmationTag, own: own, keys: keys,
	}, ws)
	ws.Retire(secrets.JoinerSecret, secrets.PathSecret, psk)
	joined := &Joined{KeyPackage: bundle.KeyPackage, Inviter: memberAt(info.Signer, t.leaf(info.Signer)), Members: t.members()}
	if before != nil {
		joined.Follows = before.id
	}
	return g, joined, ws, nil
}

// find looks for the entry of a Welcome that is for one of our key packages.
func (p *JoinParams) find(ctx context.Context) (*KeyPackageBundle, core.HPKECiphertext, error) {
	for _, s := range p.Welcome.Secrets {
		bundle, err := p.KeyPackage(ctx, s.NewMember)
		if err == nil {
			return bundle, s.Secrets, nil
		}
		if !errors.Is(err, core.ErrNotFound) {
			return nil, core.HPKECiphertext{}, err
		}
	}
	return nil, core.HPKECiphertext{}, ErrNoKeyPackage
}

func openGroupSecrets(ctx context.Context, suite core.Suite, bundle *KeyPackageBundle, w *Welcome, sealed core.HPKECiphertext) (*GroupSecrets, error) {
	recipient, err := suite.Recipient(bundle.InitKey)
	if err != nil {
		return nil, err
	}
	plaintext, err := decryptWithLabel(ctx, recipient, "Welcome", w.EncryptedGroupInfo, sealed)
	if errors.Is(err, core.ErrInvalid) {
		return nil, ErrAuthentication
	}
	if err != nil { // the key could not be used
		return nil, err
	}
	defer clear(plaintext)
	return UnmarshalGroupSecrets(plaintext)
}

// welcomePSK gathers the PSKs of a Welcome before the GroupInfo can be opened
// (WEL-12), and finds the group before, if one of them is of its epoch.
func (p *JoinParams) welcomePSK(ctx context.Context, env *Env, suite core.Suite, ids []PreSharedKeyID) (psk core.Secret, before *predecessor, err error) {
	var psks []PSK
	seen := map[string]bool{}
	for _, id := range ids {
		if len(id.Nonce) != suite.Parameters().Nh {
			return psk, nil, breach("PSK-1", "nonce of %d bytes", len(id.Nonce))
		}
		key := string(id.append(nil))
		if seen[key] {
			return psk, nil, breach("PSK-2", "a PSK occurs twice")
		}
		seen[key] = true
		var secret core.Secret
		if id.Type == PSKResumption && id.Usage != ResumptionApplication {
			if before != nil {
				return psk, nil, breach("PSK-3", "a Welcome to the successor of two groups")
			}
			if before, secret, err = p.findPredecessor(ctx, id); err != nil {
				return psk, nil, err
			}
		} else if secret, err = env.psk(ctx, id); err != nil {
			return psk, nil, missingPSK(err)
		}
		psks = append(psks, PSK{ID: id, Secret: secret})
	}
	psk, err = pskSecret(suite, psks)
	return psk, before, err
}

func openGroupInfo(suite core.Suite, joiner, psk core.Secret, sealed []byte) (*GroupInfo, error) {
	aead, nonce, err := welcomeAEAD(suite, joiner, psk)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nonce.Bytes(), sealed, nil)
	if err != nil {
		return nil, ErrAuthentication
	}
	return UnmarshalGroupInfo(plaintext)
}

// maxEpoch is the last epoch in which a group is entered. No group gets there by
// commits; from here on none comes to the end of the counter.
const maxEpoch = 1 << 63

// openTree takes the tree of a GroupInfo and checks it whole, with the signature of
// the GroupInfo (WEL-2, WEL-3, WEL-4, EXT-6).
func openTree(env *Env, suite core.Suite, info *GroupInfo, outOfBand []byte) (*tree, error) {
	if info.GroupContext.Suite != suite.ID() {
		return nil, breach("WEL-1", "GroupInfo of suite %v", info.GroupContext.Suite)
	}
	if info.GroupContext.Epoch > maxEpoch {
		return nil, breach("WEL-4", "epoch %d", info.GroupContext.Epoch)
	}
	for _, l := range []Extensions{info.Extensions, info.GroupContext.Extensions} {
		if err := l.checkUnique(); err != nil {
			return nil, err
		}
	}
	if _, _, err := info.Extensions.externalPub(); err != nil {
		return nil, err
	}
	data := outOfBand
	if inside, ok := info.Extensions.Find(ExtensionRatchetTree); ok {
		data = inside
	}
	if data == nil {
		return nil, ErrMissingTree
	}
	nodes, err := UnmarshalRatchetTree(data)
	if err != nil {
		return nil, err
	}
	t, err := importTree(suite, nodes)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(t.hash(), info.GroupContext.TreeHash) {
		return nil, breach("WEL-3", "the tree is not that of the GroupInfo")
	}
	signer := t.leaf(info.Signer)
	if signer == nil {
		return nil, breach("WEL-2", "signer's leaf %d is blank", info.Signer)
	}
	if err := verifyWithLabel(suite, signer.SignatureKey, "GroupInfoTBS", info.tbs(), info.Signature); err != nil {
		return nil, err
	}
	if err := t.validate(info.GroupContext.GroupID, true); err != nil {
		return nil, err
	}
	needs, err := info.GroupContext.needs()
	if err != nil {
		return nil, err
	}
	clients := newClientSet(env)
	for i, n := range t.leaves() {
		if err := n.checkContent(suite); err != nil {
			return nil, err
		}
		if err := n.meets(needs); err != nil {
			return nil, err
		}
		if err := env.checkListed(n); err != nil {
			return nil, err
		}
		if env.StrictLifetimes {
			if err := env.checkLifetime(n); err != nil {
				return nil, err
			}
		}
		if _, err := env.validate(n, core.PurposeMember); err != nil {
			return nil, err
		}
		if twice, err := clients.has(n); err != nil {
			return nil, err
		} else if twice {
			return nil, breach("PRP-3", "the client at leaf %d is in the group twice", i)
		}
		clients.add(n)
	}
	senders, err := info.GroupContext.Extensions.ExternalSenders()
	if err != nil {
		return nil, err
	}
	return t, authenticateSenders(env, suite, senders)
}

// checkContext is what the group as a whole must be for us to enter it.
func checkContext(t *tree, gc *GroupContext, own LeafIndex) error {
	if err := checkGroupExtensions(gc.Extensions); err != nil {
		return err
	}
	if err := checkOwn(t, gc, own); err != nil {
		return err
	}
	return checkCredentialTypes(t)
}

// ownLeafIn finds the leaf that is the key package's, to the byte (WEL-5).
func ownLeafIn(t *tree, leaf *LeafNode) (LeafIndex, error) {
	for i, n := range t.leaves() {
		if bytes.Equal(n.EncryptionKey, leaf.EncryptionKey) && n.equal(leaf) {
			return i, nil
		}
	}
	return 0, breach("WEL-5", "our leaf is not in the tree")
}
