// SPDX-License-Identifier: Apache-2.0

package interop_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core/mls"
)

// A play is one run of a scenario: the actors, each in one of the processes, and
// what they have said so far. It tells each what to do, hands messages on, and
// compares what they answer.
type play struct {
	ctx       context.Context
	processes []pb.MLSClientClient
	suite     uint32
	private   bool
	casting   uint // bit k%4: the process of the k-th actor

	actors      []string // in order of appearance
	groupID     []byte
	states      map[string]uint32
	transaction map[string]uint32
	keyPackages map[string][]byte
	members     []string
	removed     map[string]bool // by proposals that wait
	proposals   [][]byte        // that wait for a commit
	psks        map[string]*pb.PreSharedKey
	texts       map[string]text
	signers     map[string]externalSigner
	epoch       uint64
	auth        []byte // epoch authenticator
}

type text struct{ data, authenticated, message []byte }

type externalSigner struct {
	id     uint32
	sender []byte
}

// A step of a scenario.
type step struct {
	what string
	do   func(*play) error
}

// A casting says who plays where.
type casting struct {
	processes []pb.MLSClientClient
	suite     uint32
	private   bool
	number    uint
}

func newPlay(ctx context.Context, c casting) *play {
	return &play{
		ctx: ctx, processes: c.processes, suite: c.suite, private: c.private, casting: c.number,
		groupID: randomID(), states: map[string]uint32{}, transaction: map[string]uint32{}, keyPackages: map[string][]byte{},
		removed: map[string]bool{}, psks: map[string]*pb.PreSharedKey{}, texts: map[string]text{}, signers: map[string]externalSigner{},
	}
}

func randomID() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return b
}

// run plays the steps, has everybody hear everybody at the end, and frees all.
func (p *play) run(steps []step) error {
	for i, s := range steps {
		if err := s.do(p); err != nil {
			return fmt.Errorf("step %d, %s: %w", i, s.what, err)
		}
	}
	if err := p.talk(); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	for name, id := range p.states {
		if _, err := p.client(name).Free(p.ctx, &pb.FreeRequest{StateId: id}); err != nil {
			return fmt.Errorf("free %s: %w", name, err)
		}
		if _, err := p.client(name).StateAuth(p.ctx, &pb.StateAuthRequest{StateId: id}); err == nil {
			return fmt.Errorf("%s is still there after free", name)
		}
	}
	return nil
}

// client is the process that an actor is in.
func (p *play) client(actor string) pb.MLSClientClient {
	k := slices.Index(p.actors, actor)
	if k < 0 {
		k = len(p.actors)
		p.actors = append(p.actors, actor)
	}
	return p.processes[int(p.casting>>(k%4)&1)%len(p.processes)]
}

// others are the members apart from one.
func (p *play) others(actor string) []string {
	return slices.DeleteFunc(slices.Clone(p.members), func(m string) bool { return m == actor })
}

// begin is a new epoch: what waited is gone.
func (p *play) begin(auth []byte) error {
	if len(auth) == 0 {
		return errors.New("no epoch authenticator")
	}
	if bytes.Equal(auth, p.auth) {
		return errors.New("the epoch authenticator is that of the epoch before")
	}
	p.epoch++
	p.auth, p.proposals = auth, nil
	clear(p.removed)
	return nil
}

func (p *play) agree(actor string, auth []byte) error {
	if !bytes.Equal(auth, p.auth) {
		return fmt.Errorf("%s has epoch authenticator %x, others have %x", actor, auth, p.auth)
	}
	return nil
}

// propose keeps a proposal for the next commit.
func (p *play) propose(message []byte, outside bool) error {
	want := mls.WirePublicMessage
	if p.private && !outside {
		want = mls.WirePrivateMessage
	}
	p.proposals = append(p.proposals, message)
	return wireFormat(message, want)
}

func wireFormat(message []byte, want mls.WireFormat) error {
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return err
	}
	if m.WireFormat() != want {
		return fmt.Errorf("wire format %d, want %d", m.WireFormat(), want)
	}
	return nil
}

// hear has members follow a commit that one of them, or a joiner, has entered.
func (p *play) hear(members []string, proposals [][]byte, commit []byte) error {
	for _, name := range members {
		resp, err := p.client(name).HandleCommit(p.ctx, &pb.HandleCommitRequest{StateId: p.states[name], Proposal: proposals, Commit: commit})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.states[name] = resp.GetStateId()
		if err := p.agree(name, resp.GetEpochAuthenticator()); err != nil {
			return err
		}
	}
	return nil
}

// join has somebody enter by a Welcome. A tree that comes beside the Welcome must
// not be in it as well.
func (p *play) join(name string, welcome, tree []byte) error {
	req := &pb.JoinGroupRequest{
		TransactionId: p.transaction[name], Welcome: welcome, EncryptHandshake: p.private, Identity: []byte(name),
	}
	if len(tree) > 0 {
		if _, err := p.client(name).JoinGroup(p.ctx, req); err == nil {
			return fmt.Errorf("%s joins without the external tree", name)
		}
		req.RatchetTree = tree
	}
	resp, err := p.client(name).JoinGroup(p.ctx, req)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	delete(p.transaction, name)
	p.enter(name, resp.GetStateId())
	return p.agree(name, resp.GetEpochAuthenticator())
}

func (p *play) enter(name string, state uint32) {
	p.members = append(p.members, name)
	p.states[name] = state
}

// talk has all members agree, and everybody hear somebody and be heard.
func (p *play) talk() error {
	var exported []byte
	for i, name := range p.members {
		auth, err := p.client(name).StateAuth(p.ctx, &pb.StateAuthRequest{StateId: p.states[name]})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := p.agree(name, auth.GetStateAuthSecret()); err != nil {
			return err
		}
		export, err := p.client(name).Export(p.ctx, &pb.ExportRequest{
			StateId: p.states[name], Label: "interop", Context: []byte("end"), KeyLength: 42,
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if i == 0 {
			exported = export.GetExportedSecret()
		}
		if got := export.GetExportedSecret(); len(got) != 42 || !bytes.Equal(got, exported) {
			return fmt.Errorf("%s exports %x, others %x", name, got, exported)
		}
		if len(p.members) == 1 {
			break
		}
		label := "last " + name
		next := p.members[(i+1)%len(p.members)]
		if err := protect(name, label).do(p); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := unprotect(next, label).do(p); err != nil {
			return fmt.Errorf("%s hears %s: %w", next, name, err)
		}
	}
	return nil
}

// groupInfo asks a member; a tree that comes beside the GroupInfo must not be in it.
func (p *play) groupInfo(actor string, externalTree bool) (*pb.GroupInfoResponse, error) {
	resp, err := p.client(actor).GroupInfo(p.ctx, &pb.GroupInfoRequest{StateId: p.states[actor], ExternalTree: externalTree})
	if err != nil {
		return nil, err
	}
	m, err := mls.UnmarshalMLSMessage(resp.GetGroupInfo())
	if err != nil {
		return nil, err
	}
	if m.GroupInfo == nil {
		return nil, errors.New("no GroupInfo")
	}
	if _, inside := m.GroupInfo.Extensions.Find(mls.ExtensionRatchetTree); inside == externalTree {
		return nil, fmt.Errorf("the tree is in the GroupInfo: %v", inside)
	}
	return resp, externally(externalTree, resp.GetRatchetTree())
}

func externally(want bool, tree []byte) error {
	if (len(tree) > 0) != want {
		return fmt.Errorf("a tree of %d bytes beside the message", len(tree))
	}
	return nil
}
