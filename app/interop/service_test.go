// SPDX-License-Identifier: Apache-2.0

package interop_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conclave-mls/conclave/app/interop"
	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core/mls"
)

// local serves in this process.
func local(t testing.TB) pb.MLSClientClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- interop.New().Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return dial(t, l.Addr().String())
}

// together has alice, bob and carol in a group, on one server.
func together(t *testing.T, private bool) *play {
	t.Helper()
	p := newPlay(t.Context(), casting{processes: []pb.MLSClientClient{local(t)}, suite: 1, private: private})
	must(t, create("alice", "bob", "carol").do(p))
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// A commit covers what it is told to, and nothing else that waits; what it leaves
// out is still there when somebody else's commit comes first.
func TestCommitExactly(t *testing.T) {
	t.Parallel()
	for _, private := range []bool{false, true} {
		t.Run(fmt.Sprint("private ", private), func(t *testing.T) {
			t.Parallel()
			p := together(t, private)
			must(t, psk("one", "alice", "bob", "carol").do(p))
			for _, s := range []step{externalPSK("bob", "one"), externalPSK("alice", "one"), update("alice"), update("carol")} {
				must(t, s.do(p))
			}
			sent := p.proposals
			alice := p.client("alice")
			// Alice hears all of them, one by one, in commits that she then gives up.
			for _, proposals := range [][][]byte{sent[3:], sent[:1]} {
				resp, err := alice.Commit(t.Context(), &pb.CommitRequest{StateId: p.states["alice"], ByReference: proposals})
				must(t, err)
				if !private {
					m, err := mls.UnmarshalMLSMessage(resp.GetCommit())
					must(t, err)
					if n := len(m.PublicMessage.Content.Commit.Proposals); n != 1 {
						t.Errorf("the commit covers %d proposals, want 1", n)
					}
				}
			}
			// Bob's commit covers two of hers and one that she has heard and left out.
			p.proposals = sent[1:]
			must(t, commit{by: "bob"}.do(p))
			must(t, commit{by: "alice"}.do(p))
			must(t, p.talk())
		})
	}
}

// What a member cannot commit is not left out in silence.
func TestCommitAborted(t *testing.T) {
	t.Parallel()
	p := together(t, false)
	for _, s := range []step{update("alice"), remove("bob", "alice")} {
		must(t, s.do(p))
	}
	for i, proposal := range p.proposals {
		_, err := p.client("alice").Commit(t.Context(), &pb.CommitRequest{StateId: p.states["alice"], ByReference: [][]byte{proposal}})
		wantCode(t, fmt.Sprint("proposal ", i), err, codes.Aborted)
	}
	_, err := p.client("alice").HandlePendingCommit(t.Context(), &pb.HandlePendingCommitRequest{StateId: p.states["alice"]})
	wantCode(t, "nothing is pending", err, codes.NotFound)
	p.proposals = nil
	clear(p.removed)
	must(t, commit{by: "alice"}.do(p))
	must(t, p.talk())
}

// One's own commit may come back like everybody else's.
func TestOwnCommitHandled(t *testing.T) {
	t.Parallel()
	for _, private := range []bool{false, true} {
		p := together(t, private)
		must(t, update("bob").do(p))
		c, err := p.client("alice").Commit(t.Context(), &pb.CommitRequest{StateId: p.states["alice"], ByReference: p.proposals})
		must(t, err)
		req := &pb.HandleCommitRequest{StateId: p.states["alice"], Proposal: p.proposals, Commit: c.GetCommit()}
		resp, err := p.client("alice").HandleCommit(t.Context(), req)
		must(t, err)
		must(t, p.begin(resp.GetEpochAuthenticator()))
		must(t, p.hear(p.others("alice"), req.Proposal, c.GetCommit()))
		must(t, p.talk())
	}
}

// Handshakes are taken in either form, whatever the own ones have.
func TestMixedHandshakes(t *testing.T) {
	t.Parallel()
	p := newPlay(t.Context(), casting{processes: []pb.MLSClientClient{local(t)}, suite: 1})
	must(t, create("alice").do(p))
	must(t, keyPackage("bob").do(p))
	added, err := p.client("alice").Commit(p.ctx, &pb.CommitRequest{
		StateId: p.states["alice"], ByValue: []*pb.ProposalDescription{addValue("bob")(p)},
	})
	must(t, err)
	merged, err := p.client("alice").HandlePendingCommit(p.ctx, &pb.HandlePendingCommitRequest{StateId: p.states["alice"]})
	must(t, err)
	must(t, p.begin(merged.GetEpochAuthenticator()))
	p.private = true // bob's are encrypted
	must(t, p.join("bob", added.GetWelcome(), nil))
	for _, by := range []string{"bob", "alice", "bob"} {
		p.private = by == "bob"
		must(t, update(by).do(p))
		p.private = !p.private
		must(t, commit{by: p.others(by)[0]}.do(p))
	}
	must(t, p.talk())
}

// Who is removed, and told, stays behind: there is nothing to do but to free it.
func TestRemovedMember(t *testing.T) {
	t.Parallel()
	p := together(t, false)
	bob := p.states["bob"]
	c, err := p.client("alice").Commit(t.Context(), &pb.CommitRequest{
		StateId: p.states["alice"], ByValue: []*pb.ProposalDescription{removeValue("bob")(p)},
	})
	must(t, err)
	resp, err := p.client("bob").HandleCommit(t.Context(), &pb.HandleCommitRequest{StateId: bob, Commit: c.GetCommit()})
	must(t, err)
	if len(resp.GetEpochAuthenticator()) > 0 {
		t.Error("a removed member has the authenticator of an epoch")
	}
	_, err = p.client("bob").Protect(t.Context(), &pb.ProtectRequest{StateId: bob, Plaintext: []byte("still here?")})
	wantCode(t, "protect", err, codes.FailedPrecondition)
	for range 2 { // again does no harm
		_, err = p.client("bob").Free(t.Context(), &pb.FreeRequest{StateId: bob})
		must(t, err)
	}
}

// Each mistake has its code, and does no harm.
func TestStatuses(t *testing.T) {
	t.Parallel()
	p := together(t, false)
	must(t, keyPackage("dave").do(p))
	must(t, protect("alice", "text").do(p))
	c, ctx := p.client("alice"), t.Context()
	alice, bob, dave := p.states["alice"], p.states["bob"], p.transaction["dave"]
	kind := func(s string) []*pb.ProposalDescription {
		return []*pb.ProposalDescription{{ProposalType: []byte(s), KeyPackage: p.keyPackages["dave"], CipherSuite: 1}}
	}
	signer, err := c.CreateExternalSigner(ctx, &pb.CreateExternalSignerRequest{CipherSuite: 1, Identity: []byte("ds")})
	must(t, err)
	info, err := p.groupInfo("alice", false)
	must(t, err)
	bare, err := p.groupInfo("alice", true)
	must(t, err)
	invited, err := p.client("bob").Commit(ctx, &pb.CommitRequest{StateId: bob, ByValue: kind("add")})
	must(t, err)
	for _, test := range []struct {
		what string
		want codes.Code
		call func() (any, error)
	}{
		{"unknown suite", codes.Unimplemented, func() (any, error) {
			return c.CreateGroup(ctx, &pb.CreateGroupRequest{CipherSuite: 9, Identity: []byte("x")})
		}},
		{"suite beyond 16 bits", codes.InvalidArgument, func() (any, error) {
			return c.CreateKeyPackage(ctx, &pb.CreateKeyPackageRequest{CipherSuite: 1<<16 + 1, Identity: []byte("x")})
		}},
		{"no identity", codes.InvalidArgument, func() (any, error) {
			return c.CreateGroup(ctx, &pb.CreateGroupRequest{CipherSuite: 1})
		}},
		{"unknown state", codes.NotFound, func() (any, error) { return c.StateAuth(ctx, &pb.StateAuthRequest{StateId: 1 << 31}) }},
		{"state 0", codes.NotFound, func() (any, error) { return c.StorePSK(ctx, &pb.StorePSKRequest{PskSecret: []byte("x")}) }},
		{"a transaction is no state", codes.NotFound, func() (any, error) { return c.StateAuth(ctx, &pb.StateAuthRequest{StateId: dave}) }},
		{"a signer is no state", codes.NotFound, func() (any, error) {
			return c.UpdateProposal(ctx, &pb.UpdateProposalRequest{StateId: signer.GetSignerId()})
		}},
		{"a state is no transaction", codes.NotFound, func() (any, error) { return c.JoinGroup(ctx, &pb.JoinGroupRequest{TransactionId: alice}) }},
		{"a state is no ended group", codes.NotFound, func() (any, error) { return c.ReInitWelcome(ctx, &pb.ReInitWelcomeRequest{ReinitId: alice}) }},
		{"no Welcome", codes.InvalidArgument, func() (any, error) { return c.JoinGroup(ctx, &pb.JoinGroupRequest{TransactionId: dave}) }},
		{"a GroupInfo is no Welcome", codes.InvalidArgument, func() (any, error) {
			return c.JoinGroup(ctx, &pb.JoinGroupRequest{TransactionId: dave, Welcome: info.GetGroupInfo()})
		}},
		{"another's key package", codes.InvalidArgument, func() (any, error) {
			return c.JoinGroup(ctx, &pb.JoinGroupRequest{TransactionId: dave, Welcome: invited.GetWelcome(), Identity: []byte("erin")})
		}},
		{"an ordinary Welcome is no branch", codes.InvalidArgument, func() (any, error) {
			return c.HandleBranch(ctx, &pb.HandleBranchRequest{StateId: alice, TransactionId: dave, Welcome: invited.GetWelcome()})
		}},
		{"no tree", codes.NotFound, func() (any, error) {
			return c.ExternalJoin(ctx, &pb.ExternalJoinRequest{GroupInfo: bare.GetGroupInfo(), Identity: []byte("erin")})
		}},
		{"no prior", codes.NotFound, func() (any, error) {
			return c.ExternalJoin(ctx, &pb.ExternalJoinRequest{GroupInfo: info.GetGroupInfo(), Identity: []byte("erin"), RemovePrior: true})
		}},
		{"a member twice", codes.InvalidArgument, func() (any, error) {
			return c.ExternalJoin(ctx, &pb.ExternalJoinRequest{GroupInfo: info.GetGroupInfo(), Identity: []byte("bob")})
		}},
		{"an empty PSK", codes.InvalidArgument, func() (any, error) { return c.StorePSK(ctx, &pb.StorePSKRequest{StateOrTransactionId: alice}) }},
		{"a large PSK", codes.ResourceExhausted, func() (any, error) {
			return c.StorePSK(ctx, &pb.StorePSKRequest{StateOrTransactionId: dave, PskSecret: make([]byte, 1<<16)})
		}},
		{"a PSK that nobody has", codes.NotFound, func() (any, error) {
			return c.ExternalPSKProposal(ctx, &pb.ExternalPSKProposalRequest{StateId: alice, PskId: []byte("x")})
		}},
		{"an epoch to come", codes.NotFound, func() (any, error) {
			return c.ResumptionPSKProposal(ctx, &pb.ResumptionPSKProposalRequest{StateId: alice, EpochId: 7})
		}},
		{"remove a stranger", codes.NotFound, func() (any, error) {
			return c.RemoveProposal(ctx, &pb.RemoveProposalRequest{StateId: alice, RemovedId: []byte("erin")})
		}},
		{"extension beyond 16 bits", codes.InvalidArgument, func() (any, error) {
			return c.GroupContextExtensionsProposal(ctx, &pb.GroupContextExtensionsProposalRequest{
				StateId: alice, Extensions: []*pb.Extension{{ExtensionType: 1 << 16}},
			})
		}},
		{"extension that nobody supports", codes.InvalidArgument, func() (any, error) {
			return c.Commit(ctx, &pb.CommitRequest{StateId: alice, ByValue: []*pb.ProposalDescription{
				extensionsValue(&pb.Extension{ExtensionType: 0xFF00})(p)}})
		}},
		{"update by value", codes.InvalidArgument, func() (any, error) {
			return c.Commit(ctx, &pb.CommitRequest{StateId: alice, ByValue: kind("update")})
		}},
		{"ReInit by value", codes.InvalidArgument, func() (any, error) {
			return c.Commit(ctx, &pb.CommitRequest{StateId: alice, ByValue: kind("reinit")})
		}},
		{"a text is no proposal", codes.InvalidArgument, func() (any, error) {
			return c.Commit(ctx, &pb.CommitRequest{StateId: bob, ByReference: [][]byte{p.texts["text"].message}})
		}},
		{"a text is no commit", codes.InvalidArgument, func() (any, error) {
			return c.HandleCommit(ctx, &pb.HandleCommitRequest{StateId: bob, Commit: p.texts["text"].message})
		}},
		{"a ReInit to no suite of ours", codes.Unimplemented, func() (any, error) {
			return c.ReInitProposal(ctx, &pb.ReInitProposalRequest{StateId: alice, CipherSuite: 0xF000, GroupId: []byte("g")})
		}},
		{"a ReInit without one", codes.InvalidArgument, func() (any, error) { return c.ReInitCommit(ctx, &pb.CommitRequest{StateId: alice}) }},
		{"a ReInit that is none", codes.InvalidArgument, func() (any, error) {
			return c.HandleReInitCommit(ctx, &pb.HandleCommitRequest{StateId: alice, Commit: invited.GetCommit()})
		}},
		{"no pending commit", codes.NotFound, func() (any, error) {
			return c.HandlePendingCommit(ctx, &pb.HandlePendingCommitRequest{StateId: alice})
		}},
		{"own text", codes.InvalidArgument, func() (any, error) {
			return c.Unprotect(ctx, &pb.UnprotectRequest{StateId: alice, Ciphertext: p.texts["text"].message})
		}},
		{"a commit is no text", codes.InvalidArgument, func() (any, error) {
			return c.Unprotect(ctx, &pb.UnprotectRequest{StateId: alice, Ciphertext: invited.GetCommit()})
		}},
		{"a long export", codes.ResourceExhausted, func() (any, error) { return c.Export(ctx, &pb.ExportRequest{StateId: alice, KeyLength: 1 << 31}) }},
		{"a signer that the group does not know", codes.NotFound, func() (any, error) {
			return c.ExternalSignerProposal(ctx, &pb.ExternalSignerProposalRequest{
				SignerId: signer.GetSignerId(), GroupInfo: info.GetGroupInfo(), Description: kind("add")[0],
			})
		}},
		{"two external senders", codes.InvalidArgument, func() (any, error) {
			sender := signer.GetExternalSender()
			return c.AddExternalSigner(ctx, &pb.AddExternalSignerRequest{StateId: alice, ExternalSender: append(sender, sender...)})
		}},
		{"a branch with strangers", codes.InvalidArgument, func() (any, error) {
			return c.CreateBranch(ctx, &pb.CreateBranchRequest{StateId: alice, GroupId: []byte("b"), KeyPackages: [][]byte{p.keyPackages["dave"]}})
		}},
	} {
		_, err := test.call()
		wantCode(t, test.what, err, test.want)
	}
	must(t, commit{by: "alice"}.do(p))
	must(t, p.talk())
}

// Many drivers at once are answered one after the other.
func TestConcurrentDrivers(t *testing.T) {
	t.Parallel()
	server := local(t)
	var drivers sync.WaitGroup
	for n := range 8 {
		drivers.Go(func() {
			p := newPlay(t.Context(), casting{processes: []pb.MLSClientClient{server}, suite: 1, private: n%2 == 0})
			if err := p.run([]step{create("alice", "bob"), update("bob"), commit{by: "alice"}.step()}); err != nil {
				t.Errorf("driver %d: %v", n, err)
			}
		})
	}
	drivers.Wait()
}
