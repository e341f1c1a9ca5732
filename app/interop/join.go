// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A transaction is a member with a key package that waits for its Welcome.
type transaction struct {
	member
	suite  core.Suite
	bundle *mls.KeyPackageBundle
}

func (t *transaction) wipe() {
	t.member.wipe()
	t.bundle.InitKey.Material().Wipe()
	t.bundle.LeafKey.Material().Wipe()
}

// newTransaction makes a key package with a signature key of its own.
func (s *service) newTransaction(ctx context.Context, suite core.Suite, identity []byte) (*transaction, error) {
	m, err := s.newMember(ctx, suite, identity)
	if err != nil {
		return nil, err
	}
	bundle, err := mls.NewKeyPackage(ctx, mls.KeyPackageParams{
		Suite: suite, Signer: m.signer, Credential: m.credential(),
		Capabilities: s.capabilities(), Lifetime: lifetime(),
	})
	if err != nil {
		return nil, err
	}
	return &transaction{member: m, suite: suite, bundle: bundle}, nil
}

func (s *service) newMember(ctx context.Context, suite core.Suite, identity []byte) (member, error) {
	if len(identity) == 0 {
		return member{}, invalid("empty identity")
	}
	signer, err := s.newSigner(ctx, suite)
	if err != nil {
		return member{}, err
	}
	return newMember(s.software, identity, signer), nil
}

// message is the key package as it travels.
func (t *transaction) message() []byte {
	return (&mls.MLSMessage{KeyPackage: t.bundle.KeyPackage}).Marshal()
}

// material is the private key of one of our software keys, in a copy.
func material(key core.PrivateKey) []byte {
	return bytes.Clone(key.(core.SoftwareKey).Material().Bytes())
}

func (s *service) CreateGroup(ctx context.Context, req *pb.CreateGroupRequest) (*pb.CreateGroupResponse, error) {
	suite, err := s.suite(req.GetCipherSuite())
	if err != nil {
		return nil, err
	}
	m, err := s.newMember(ctx, suite, req.GetIdentity())
	if err != nil {
		return nil, err
	}
	st := newState(m)
	g, ws, err := mls.Create(ctx, st.env(), mls.CreateParams{
		Suite: suite, GroupID: req.GetGroupId(), Signer: m.signer, Credential: m.credential(),
		Capabilities: s.capabilities(), Lifetime: lifetime(), Config: config(req.GetEncryptHandshake()),
	})
	if err != nil {
		return nil, err
	}
	st.set(g, ws)
	return &pb.CreateGroupResponse{StateId: s.handles.add(st)}, nil
}

func (s *service) CreateKeyPackage(ctx context.Context, req *pb.CreateKeyPackageRequest) (*pb.CreateKeyPackageResponse, error) {
	suite, err := s.suite(req.GetCipherSuite())
	if err != nil {
		return nil, err
	}
	t, err := s.newTransaction(ctx, suite, req.GetIdentity())
	if err != nil {
		return nil, err
	}
	return &pb.CreateKeyPackageResponse{
		TransactionId: s.handles.add(t), KeyPackage: t.message(),
		InitPriv: material(t.bundle.InitKey), EncryptionPriv: material(t.bundle.LeafKey), SignaturePriv: material(t.signer),
	}, nil
}

func (s *service) JoinGroup(ctx context.Context, req *pb.JoinGroupRequest) (*pb.JoinGroupResponse, error) {
	t, err := find[*transaction](&s.handles, req.GetTransactionId())
	if err != nil {
		return nil, err
	}
	if id := req.GetIdentity(); len(id) > 0 && !bytes.Equal(id, t.identity) {
		return nil, invalid("the key package is another client's")
	}
	st, err := t.join(ctx, welcomeParams{
		welcome: req.GetWelcome(), tree: req.GetRatchetTree(), config: config(req.GetEncryptHandshake()),
	})
	if err != nil {
		return nil, err
	}
	s.handles.drop(req.GetTransactionId()) // its init key is used up
	return &pb.JoinGroupResponse{StateId: s.handles.add(st), EpochAuthenticator: st.group.EpochAuthenticator()}, nil
}

// welcomeParams is how a group is entered by invitation.
type welcomeParams struct {
	welcome, tree []byte
	config        mls.Config
	before        *state // that the group has to follow, if any, and how
	follows       mls.ResumptionUsage
}

// join enters a group with the key package, and leaves the transaction as it is.
func (t *transaction) join(ctx context.Context, p welcomeParams) (*state, error) {
	welcome, err := unwrap(p.welcome, welcomeOf)
	if err != nil {
		return nil, err
	}
	m := newMember(t.software, t.identity, t.signer)
	if p.before != nil {
		m.takePSKs(&p.before.member)
	}
	m.takePSKs(&t.member)
	st := newState(m)
	g, joined, ws, err := mls.Join(ctx, st.env(), mls.JoinParams{
		Welcome: welcome, Tree: absent(p.tree), Config: p.config,
		KeyPackage: func(_ context.Context, ref []byte) (*mls.KeyPackageBundle, error) {
			if bytes.Equal(ref, t.bundle.KeyPackage.Ref(t.suite)) {
				return t.bundle, nil
			}
			return nil, fmt.Errorf("key package: %w", core.ErrNotFound)
		},
		Predecessor: func(_ context.Context, groupID []byte) (*mls.Group, *mls.Env, error) {
			if p.before == nil || !bytes.Equal(groupID, p.before.group.GroupID()) {
				return nil, nil, fmt.Errorf("group %x: %w", groupID, core.ErrNotFound)
			}
			return p.before.group, p.before.env(), nil
		},
	})
	if err != nil {
		return nil, err
	}
	if usage := joined.Follows.Usage; usage != p.follows {
		return nil, invalid("a Welcome to a group that follows another by usage %d, not %d", usage, p.follows)
	}
	st.set(g, ws)
	return st, nil
}

// absent takes empty bytes for what was not supplied.
func absent(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// groupInfo reads what tells of a group that is not ours, and finds its suite.
func (s *service) groupInfo(message []byte) (*mls.GroupInfo, core.Suite, error) {
	info, err := unwrap(message, groupInfoOf)
	if err != nil {
		return nil, nil, err
	}
	suite, err := s.software.Suite(info.GroupContext.Suite)
	return info, suite, err
}

func (s *service) ExternalJoin(ctx context.Context, req *pb.ExternalJoinRequest) (*pb.ExternalJoinResponse, error) {
	info, suite, err := s.groupInfo(req.GetGroupInfo())
	if err != nil {
		return nil, err
	}
	m, err := s.newMember(ctx, suite, req.GetIdentity())
	if err != nil {
		return nil, err
	}
	st := newState(m)
	p := mls.ExternalParams{
		GroupInfo: info, Tree: absent(req.GetRatchetTree()), Signer: m.signer, Credential: m.credential(),
		Capabilities: s.capabilities(), Config: config(req.GetEncryptHandshake()),
	}
	for _, psk := range req.GetPsks() {
		if err := st.storePSK(psk.GetPskId(), psk.GetPskSecret()); err != nil {
			return nil, err
		}
		p.PSKs = append(p.PSKs, mls.PreSharedKeyID{Type: mls.PSKExternal, ID: psk.GetPskId(), Nonce: nonce(suite)})
	}
	replaced := false
	if req.GetRemovePrior() {
		p.Replace = func(prior mls.Member) bool {
			same := isClient(prior.Credential, m.identity)
			replaced = replaced || same
			return same
		}
	}
	g, commit, ws, err := mls.JoinExternal(ctx, st.env(), p)
	if err != nil {
		return nil, err
	}
	if req.GetRemovePrior() && !replaced {
		return nil, fmt.Errorf("a member %q to remove: %w", m.identity, core.ErrNotFound)
	}
	st.set(g, ws)
	return &pb.ExternalJoinResponse{StateId: s.handles.add(st), Commit: commit, EpochAuthenticator: g.EpochAuthenticator()}, nil
}

// nonce of one injection of a pre-shared key.
func nonce(suite core.Suite) []byte {
	b := make([]byte, suite.Parameters().Nh)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return b
}

// isClient compares a credential with the identity of a basic one, byte for byte.
func isClient(c core.Credential, identity []byte) bool {
	return c.Type == core.CredentialBasic && bytes.Equal(c.Identity, identity)
}

// leafOf finds the member with an identity; core.ErrNotFound if nobody has it.
func leafOf(members []mls.Member, identity []byte) (mls.LeafIndex, error) {
	for _, m := range members {
		if isClient(m.Credential, identity) {
			return m.Leaf, nil
		}
	}
	return 0, fmt.Errorf("member %q: %w", identity, core.ErrNotFound)
}
