// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/conclave-mls/conclave/core"
)

// The limits of version 1, in bytes. A batch or an answer of core.MaxBatch goes in pieces.
// Decoded, a message of tiny parts takes 70 times its size.
const (
	MaxToPlugin   = core.MaxBatch + 64<<10
	MaxFromPlugin = 1 << 20
	MaxOfRead     = 4 << 20 // of a message of an answer to Read
	MaxOfDescribe = 512 << 10
	// Piece is how much of a batch or an answer is put into one message: when it is
	// reached, the next record goes into the next message.
	Piece = 1 << 20
	// Window is how many bytes may be on their way before the other side has taken them.
	// gRPC's own 64 KiB make a batch or an answer of some records wait for acknowledgements.
	Window = 4 << 20
	// Overhead is what a record takes in a message besides its key and value, at most.
	Overhead = 64
)

// What a plugin may say of itself and its keys. All but MaxOffers are in bytes.
const (
	MaxOffers    = 256      // and of algorithms
	MaxName      = 32       // of a plugin or an instance
	MaxAlgorithm = 64       // of the name of an algorithm
	MaxID        = 1024     // of the ID of a wrapping key or the reference of a key
	MaxPublic    = 64 << 10 // of a key, a signature, or what else a call gives as bytes
)

// Handshake is what host and plugin tell each other before they speak the protocol. It
// keeps a person from starting a plugin by hand; it is not a control.
var Handshake = plugin.HandshakeConfig{
	MagicCookieKey:   "CONCLAVE_PLUGIN",
	MagicCookieValue: "a plugin of Conclave is started by Conclave",
}

// Name is that of the one set of services in the terms of go-plugin.
const Name = "conclave"

// Versions are the versions of the protocol, each with its services: register is called
// in the plugin, and nil in the host.
func Versions(register func(*grpc.Server)) map[int]plugin.PluginSet {
	return map[int]plugin.PluginSet{1: {Name: &services{register: register}}}
}

type services struct {
	plugin.NetRPCUnsupportedPlugin
	register func(*grpc.Server)
}

func (s *services) GRPCServer(_ *plugin.GRPCBroker, server *grpc.Server) error {
	s.register(server)
	return nil
}

// GRPCClient gives the connection: the host makes its clients of it.
func (s *services) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

// IsName says whether a plugin or an instance may be called so: 1 to 32 of a-z, 0-9 and
// the hyphen, which does not begin it.
func IsName(name string) bool {
	for i, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && (r != '-' || i == 0) {
			return false
		}
	}
	return name != "" && len(name) <= MaxName
}
