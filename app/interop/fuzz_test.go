// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/providers/pure"
)

// populated is a service with alice's group as number 1, bob's key package as 2 and
// an external signer as 3.
func populated(t testing.TB) (s *service, keyPackage, sender []byte) {
	t.Helper()
	s = &service{software: pure.New(), handles: handles{held: map[uint32]*handle{}}}
	if _, err := s.CreateGroup(t.Context(), &pb.CreateGroupRequest{CipherSuite: 1, GroupId: []byte("g"), Identity: []byte("alice")}); err != nil {
		t.Fatal(err)
	}
	kp, err := s.CreateKeyPackage(t.Context(), &pb.CreateKeyPackageRequest{CipherSuite: 1, Identity: []byte("bob")})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := s.CreateExternalSigner(t.Context(), &pb.CreateExternalSignerRequest{CipherSuite: 1, Identity: []byte("ds")})
	if err != nil {
		t.Fatal(err)
	}
	return s, kp.GetKeyPackage(), signer.GetExternalSender()
}

var errUnreadable = errors.New("not a request")

// Whatever a call carries, it is answered, with a code that says something, and the
// group goes on.
func FuzzCalls(f *testing.F) {
	s, keyPackage, sender := populated(f)
	info, err := s.GroupInfo(f.Context(), &pb.GroupInfoRequest{StateId: 1, ExternalTree: true})
	if err != nil {
		f.Fatal(err)
	}
	adds := []*pb.ProposalDescription{{ProposalType: []byte("add"), KeyPackage: keyPackage}}
	c, err := s.Commit(f.Context(), &pb.CommitRequest{StateId: 1, ByValue: adds})
	if err != nil {
		f.Fatal(err)
	}
	methods := pb.MLSClient_ServiceDesc.Methods
	for i := range methods {
		for _, req := range []proto.Message{ // of some calls; to others they are something else
			&pb.CreateGroupRequest{CipherSuite: 1, GroupId: []byte("g"), Identity: []byte("alice")},
			&pb.CommitRequest{StateId: 1, ByReference: [][]byte{c.GetCommit()}, ByValue: adds, ExternalTree: true},
			&pb.AddProposalRequest{StateId: 1, KeyPackage: keyPackage},
			&pb.JoinGroupRequest{TransactionId: 2, Welcome: c.GetWelcome()},
			&pb.ExternalJoinRequest{GroupInfo: info.GetGroupInfo(), RatchetTree: info.GetRatchetTree(), Identity: []byte("bob")},
			&pb.AddExternalSignerRequest{StateId: 1, ExternalSender: sender},
			&pb.CreateBranchRequest{StateId: 1, GroupId: []byte("b"), KeyPackages: [][]byte{keyPackage}},
			&pb.HandleBranchRequest{StateId: 1, TransactionId: 2, Welcome: c.GetWelcome()},
			&pb.ExternalSignerProposalRequest{SignerId: 3, GroupInfo: info.GetGroupInfo(), RatchetTree: info.GetRatchetTree(), Description: adds[0]},
		} {
			body, err := proto.Marshal(req)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i), body)
		}
	}
	f.Fuzz(func(t *testing.T, method byte, body []byte) {
		s, _, _ := populated(t)
		m := methods[int(method)%len(methods)]
		_, err := m.Handler(s, t.Context(), func(req any) error {
			if proto.Unmarshal(body, req.(proto.Message)) != nil {
				return errUnreadable
			}
			return nil
		}, s.inTurn)
		if code := status.Code(err); err != errUnreadable && (code == codes.Internal || code == codes.Unknown) {
			t.Errorf("%s: %v", m.MethodName, err)
		}
		if _, err := s.Protect(t.Context(), &pb.ProtectRequest{StateId: 1, Plaintext: []byte("on")}); err != nil && m.MethodName != "Free" {
			t.Errorf("the group after %s: %v", m.MethodName, err)
		}
	})
}
