// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/conclave-mls/conclave/app/interop/mlsclient"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

// A Server plays any number of members for a test driver.
type Server struct {
	grpc *grpc.Server
}

// The service answers one call at a time: drivers take turns, and nothing here has
// to think of what happens in between.
type service struct {
	mlsclient.UnsafeMLSClientServer

	mu       sync.Mutex
	software *pure.Provider
	handles  handles
}

// maxStreams bounds the calls of one connection that wait for their turn.
const maxStreams = 64

// New returns a server that plays nobody yet.
func New() *Server {
	s := &service{software: pure.New(), handles: handles{held: map[uint32]*handle{}}}
	server := &Server{grpc.NewServer(grpc.UnaryInterceptor(s.inTurn), grpc.MaxConcurrentStreams(maxStreams))}
	mlsclient.RegisterMLSClientServer(server.grpc, s)
	return server
}

// Serve answers on the listener, which it closes, until the context ends; then it
// ends the calls under way and returns nil. It can be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	err := s.grpc.Serve(l)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// inTurn is around each call.
func (s *service) inTurn(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil { // nobody waits any more
		return nil, statusOf(err)
	}
	resp, err := handler(ctx, req)
	if err != nil {
		return nil, statusOf(err)
	}
	return resp, nil
}

func (s *service) Name(context.Context, *mlsclient.NameRequest) (*mlsclient.NameResponse, error) {
	return &mlsclient.NameResponse{Name: "conclave"}, nil
}

func (s *service) SupportedCiphersuites(context.Context, *mlsclient.SupportedCiphersuitesRequest) (*mlsclient.SupportedCiphersuitesResponse, error) {
	resp := &mlsclient.SupportedCiphersuitesResponse{}
	for _, id := range s.software.Suites() {
		resp.Ciphersuites = append(resp.Ciphersuites, uint32(id))
	}
	return resp, nil
}

// suite finds a cipher suite by what the driver calls it.
func (s *service) suite(code uint32) (core.Suite, error) {
	id, err := codePoint(code)
	if err != nil {
		return nil, err
	}
	return s.software.Suite(core.SuiteID(id))
}

// newSigner makes a signature key; each group and key package has its own.
func (s *service) newSigner(ctx context.Context, suite core.Suite) (core.Signer, error) {
	spec := core.KeySpec{Algorithm: suite.Parameters().Signature, Use: core.UseSign}
	_, _ = rand.Read(spec.ID[:]) // never fails, see crypto/rand
	key, err := s.software.GenerateKey(ctx, spec)
	if err != nil {
		return nil, err
	}
	return key.(core.Signer), nil
}

// capabilities of our leaves: every suite, because a group may be re-initialised
// with any.
func (s *service) capabilities() mls.Capabilities {
	return mls.DefaultCapabilities(s.software.Suites())
}

// lifetime of our leaves. There are stacks that refuse a lifetime of more than
// three months, and clocks that are a little behind.
func lifetime() mls.Lifetime {
	now := time.Now()
	return mls.Lifetime{
		NotBefore: uint64(max(now.Add(-time.Hour).Unix(), 0)),
		NotAfter:  uint64(max(now.Add(80*24*time.Hour).Unix(), 0)),
	}
}
