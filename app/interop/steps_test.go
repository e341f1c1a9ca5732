// SPDX-License-Identifier: Apache-2.0

package interop_test

import (
	"bytes"
	"fmt"
	"slices"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core/mls"
)

// create has somebody create the group and, if there are others, add them.
func create(creator string, others ...string) step {
	return step{"create", func(p *play) error {
		resp, err := p.client(creator).CreateGroup(p.ctx, &pb.CreateGroupRequest{
			GroupId: p.groupID, CipherSuite: p.suite, EncryptHandshake: p.private, Identity: []byte(creator),
		})
		if err != nil {
			return err
		}
		p.enter(creator, resp.GetStateId())
		auth, err := p.client(creator).StateAuth(p.ctx, &pb.StateAuthRequest{StateId: resp.GetStateId()})
		if err != nil {
			return err
		}
		p.auth = auth.GetStateAuthSecret()
		if len(others) == 0 {
			return nil
		}
		c := commit{by: creator, joiners: others}
		for _, name := range others {
			if err := keyPackage(name).do(p); err != nil {
				return err
			}
			c.value = append(c.value, addValue(name))
		}
		return c.do(p)
	}}
}

func keyPackage(names ...string) step {
	return step{"key package", func(p *play) error {
		for _, name := range names {
			resp, err := p.client(name).CreateKeyPackage(p.ctx, &pb.CreateKeyPackageRequest{CipherSuite: p.suite, Identity: []byte(name)})
			if err != nil {
				return err
			}
			if len(resp.GetInitPriv()) == 0 || len(resp.GetEncryptionPriv()) == 0 || len(resp.GetSignaturePriv()) == 0 {
				return fmt.Errorf("a private key of %s is missing", name)
			}
			p.transaction[name], p.keyPackages[name] = resp.GetTransactionId(), resp.GetKeyPackage()
		}
		return nil
	}}
}

// psk installs an external pre-shared key: in the state, else with the key package.
func psk(label string, names ...string) step {
	return step{"install PSK " + label, func(p *play) error {
		k := &pb.PreSharedKey{PskId: randomID(), PskSecret: randomID()}
		p.psks[label] = k
		for _, name := range names {
			id, ok := p.states[name]
			if !ok {
				id = p.transaction[name]
			}
			if _, err := p.client(name).StorePSK(p.ctx, &pb.StorePSKRequest{StateOrTransactionId: id, PskId: k.PskId, PskSecret: k.PskSecret}); err != nil {
				return err
			}
		}
		return nil
	}}
}

// Proposals on their own; the next commit covers them.

func proposed(what, by string, call func(*play, pb.MLSClientClient, uint32) (*pb.ProposalResponse, error)) step {
	return step{what + " by " + by, func(p *play) error {
		resp, err := call(p, p.client(by), p.states[by])
		if err != nil {
			return err
		}
		return p.propose(resp.GetProposal(), false)
	}}
}

func add(by, name string) step {
	return proposed("add "+name, by, func(p *play, c pb.MLSClientClient, id uint32) (*pb.ProposalResponse, error) {
		return c.AddProposal(p.ctx, &pb.AddProposalRequest{StateId: id, KeyPackage: p.keyPackages[name]})
	})
}

func update(by string) step {
	return proposed("update", by, func(p *play, c pb.MLSClientClient, id uint32) (*pb.ProposalResponse, error) {
		return c.UpdateProposal(p.ctx, &pb.UpdateProposalRequest{StateId: id})
	})
}

func remove(by, name string) step {
	return proposed("remove "+name, by, func(p *play, c pb.MLSClientClient, id uint32) (*pb.ProposalResponse, error) {
		p.removed[name] = true
		return c.RemoveProposal(p.ctx, &pb.RemoveProposalRequest{StateId: id, RemovedId: []byte(name)})
	})
}

func externalPSK(by, label string) step {
	return proposed("PSK "+label, by, func(p *play, c pb.MLSClientClient, id uint32) (*pb.ProposalResponse, error) {
		return c.ExternalPSKProposal(p.ctx, &pb.ExternalPSKProposalRequest{StateId: id, PskId: p.psks[label].PskId})
	})
}

func resumption(by string, epoch uint64) step {
	return proposed(fmt.Sprintf("resumption PSK of epoch %d", epoch), by, func(p *play, c pb.MLSClientClient, id uint32) (*pb.ProposalResponse, error) {
		return c.ResumptionPSKProposal(p.ctx, &pb.ResumptionPSKProposalRequest{StateId: id, EpochId: epoch})
	})
}

func extensions(by string, list ...*pb.Extension) step {
	return proposed("extensions", by, func(p *play, c pb.MLSClientClient, id uint32) (*pb.ProposalResponse, error) {
		return c.GroupContextExtensionsProposal(p.ctx, &pb.GroupContextExtensionsProposalRequest{StateId: id, Extensions: list})
	})
}

// Extensions that ask for nothing.
var (
	requiresNothing = &pb.Extension{ExtensionType: 3, ExtensionData: []byte{0, 0, 0}}
	nobodyOutside   = &pb.Extension{ExtensionType: 5, ExtensionData: []byte{0}}
)

// A value is a proposal that a commit, or an external signer, describes.
type value func(*play) *pb.ProposalDescription

func addValue(name string) value {
	return func(p *play) *pb.ProposalDescription {
		return &pb.ProposalDescription{ProposalType: []byte("add"), KeyPackage: p.keyPackages[name]}
	}
}

func removeValue(name string) value {
	return func(p *play) *pb.ProposalDescription {
		p.removed[name] = true
		return &pb.ProposalDescription{ProposalType: []byte("remove"), RemovedId: []byte(name)}
	}
}

func pskValue(label string) value {
	return func(p *play) *pb.ProposalDescription {
		return &pb.ProposalDescription{ProposalType: []byte("externalPSK"), PskId: p.psks[label].PskId}
	}
}

func resumptionValue(epoch uint64) value {
	return func(*play) *pb.ProposalDescription {
		return &pb.ProposalDescription{ProposalType: []byte("resumptionPSK"), EpochId: epoch}
	}
}

func extensionsValue(list ...*pb.Extension) value {
	return func(*play) *pb.ProposalDescription {
		return &pb.ProposalDescription{ProposalType: []byte("groupContextExtensions"), Extensions: list}
	}
}

// A commit covers the proposals that wait, and those by value; everybody follows.
type commit struct {
	by           string
	value        []value
	joiners      []string
	forcePath    bool
	externalTree bool
}

func (c commit) step() step { return step{"commit by " + c.by, c.do} }

func (c commit) do(p *play) error {
	req := &pb.CommitRequest{StateId: p.states[c.by], ByReference: p.proposals, ForcePath: c.forcePath, ExternalTree: c.externalTree}
	for _, v := range c.value {
		req.ByValue = append(req.ByValue, v(p))
	}
	resp, err := p.client(c.by).Commit(p.ctx, req)
	if err != nil {
		return err
	}
	if err := c.check(p, resp); err != nil {
		return err
	}
	merged, err := p.client(c.by).HandlePendingCommit(p.ctx, &pb.HandlePendingCommitRequest{StateId: p.states[c.by]})
	if err != nil {
		return err
	}
	p.states[c.by] = merged.GetStateId()
	p.members = slices.DeleteFunc(p.members, func(name string) bool { return p.removed[name] })
	proposals := p.proposals
	if err := p.begin(merged.GetEpochAuthenticator()); err != nil {
		return err
	}
	if err := p.hear(p.others(c.by), proposals, resp.GetCommit()); err != nil {
		return err
	}
	for _, name := range c.joiners {
		if err := p.join(name, resp.GetWelcome(), resp.GetRatchetTree()); err != nil {
			return err
		}
	}
	return nil
}

// check looks at what the flags of the request have done.
func (c commit) check(p *play, resp *pb.CommitResponse) error {
	want := mls.WirePublicMessage
	if p.private {
		want = mls.WirePrivateMessage
	}
	if err := wireFormat(resp.GetCommit(), want); err != nil {
		return err
	}
	m, err := mls.UnmarshalMLSMessage(resp.GetCommit())
	if err != nil {
		return err
	}
	if m.PublicMessage != nil {
		body := m.PublicMessage.Content.Commit
		if got, want := len(body.Proposals), len(p.proposals)+len(c.value); got != want {
			return fmt.Errorf("%d proposals, want %d", got, want)
		}
		if c.forcePath && body.Path == nil {
			return fmt.Errorf("no path, although it was asked for")
		}
	}
	return externally(c.externalTree, resp.GetRatchetTree())
}

// Application messages.

func protect(by, label string) step {
	return step{"protect by " + by, func(p *play) error {
		t := text{data: []byte("text " + label), authenticated: []byte("beside " + label)}
		resp, err := p.client(by).Protect(p.ctx, &pb.ProtectRequest{StateId: p.states[by], AuthenticatedData: t.authenticated, Plaintext: t.data})
		if err != nil {
			return err
		}
		t.message = resp.GetCiphertext()
		p.texts[label] = t
		return nil
	}}
}

func unprotect(by, label string) step {
	return step{"unprotect by " + by, func(p *play) error {
		t := p.texts[label]
		resp, err := p.client(by).Unprotect(p.ctx, &pb.UnprotectRequest{StateId: p.states[by], Ciphertext: t.message})
		if err != nil {
			return err
		}
		if !bytes.Equal(resp.GetPlaintext(), t.data) || !bytes.Equal(resp.GetAuthenticatedData(), t.authenticated) {
			return fmt.Errorf("%q with %q, want %q with %q", resp.GetPlaintext(), resp.GetAuthenticatedData(), t.data, t.authenticated)
		}
		return nil
	}}
}
