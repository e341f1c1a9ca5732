// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"fmt"
	"math"

	pb "github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

func (s *service) GroupInfo(ctx context.Context, req *pb.GroupInfoRequest) (*pb.GroupInfoResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	resp := &pb.GroupInfoResponse{}
	if resp.GroupInfo, err = st.group.GroupInfo(ctx, st.env(), mls.GroupInfoParams{OmitTree: req.GetExternalTree()}); err != nil {
		return nil, err
	}
	if req.GetExternalTree() {
		resp.RatchetTree, err = st.group.RatchetTree(ctx, st.env())
	}
	return resp, err
}

func (s *service) StateAuth(_ context.Context, req *pb.StateAuthRequest) (*pb.StateAuthResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	return &pb.StateAuthResponse{StateAuthSecret: st.group.EpochAuthenticator()}, nil
}

func (s *service) Export(_ context.Context, req *pb.ExportRequest) (*pb.ExportResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	if req.GetKeyLength() > math.MaxUint16 { // whatever the suite
		return nil, fmt.Errorf("exported key: %w", core.ErrTooLarge)
	}
	secret, err := st.group.Export(req.GetLabel(), req.GetContext(), int(req.GetKeyLength()))
	if err != nil {
		return nil, err
	}
	defer secret.Wipe()
	return &pb.ExportResponse{ExportedSecret: bytes.Clone(secret.Bytes())}, nil
}

func (s *service) Protect(ctx context.Context, req *pb.ProtectRequest) (*pb.ProtectResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	g, message, ws, err := st.group.Protect(ctx, st.env(), req.GetPlaintext(), req.GetAuthenticatedData())
	if err != nil {
		return nil, err
	}
	st.set(g, ws)
	return &pb.ProtectResponse{Ciphertext: message}, nil
}

func (s *service) Unprotect(ctx context.Context, req *pb.UnprotectRequest) (*pb.UnprotectResponse, error) {
	st, err := find[*state](&s.handles, req.GetStateId())
	if err != nil {
		return nil, err
	}
	m, err := mls.UnmarshalMLSMessage(req.GetCiphertext())
	if err != nil {
		return nil, err
	}
	g, result, ws, err := st.group.Process(ctx, st.env(), m)
	if err != nil {
		return nil, err
	}
	a, ok := result.(*mls.ApplicationMessage)
	if !ok { // a handshake, which is not taken
		return nil, invalid("not an application message")
	}
	st.set(g, ws)
	return &pb.UnprotectResponse{AuthenticatedData: a.AuthenticatedData, Plaintext: a.Data}, nil
}

func (s *service) StorePSK(_ context.Context, req *pb.StorePSKRequest) (*pb.StorePSKResponse, error) {
	id := req.GetStateOrTransactionId()
	var m *member
	if t, err := find[*transaction](&s.handles, id); err == nil {
		m = &t.member
	} else {
		st, err := find[*state](&s.handles, id)
		if err != nil {
			return nil, err
		}
		m = &st.member
	}
	return &pb.StorePSKResponse{}, m.storePSK(req.GetPskId(), req.GetPskSecret())
}

// Free lets go of whatever has the number. That it is gone already is no mistake: it
// may have made room.
func (s *service) Free(_ context.Context, req *pb.FreeRequest) (*pb.FreeResponse, error) {
	s.handles.drop(req.GetStateId())
	return &pb.FreeResponse{}, nil
}
