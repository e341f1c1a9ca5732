// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// A Plugin is what a program offers: one or several parts, and further instances of
// parts by name (1 to 32 of a-z, 0-9 and -), which have no instances of their own.
type Plugin struct {
	Keystore       core.Keystore // closed when the host stops the plugin
	CryptoProvider core.CryptoProvider
	Issuer         core.CredentialIssuer
	KeyWrapper     core.KeyWrapper

	Instances map[string]Plugin
}

// Serve is the main function of a plugin. It serves the host that started the program
// until that stops it or is gone; then the process ends, either by the return of Serve or,
// with all of its process group, at once. Started by anybody else it says so and exits with
// status 1, as it does for a Plugin that offers nothing or an instance with a bad name.
func Serve(p Plugin) {
	s, err := newServer(p)
	if err != nil {
		fmt.Fprintln(os.Stderr, "plugin:", err)
		os.Exit(1)
	}
	// go-plugin itself says what is wrong without the cookie.
	if os.Getenv(wire.Handshake.MagicCookieKey) == wire.Handshake.MagicCookieValue {
		if os.Getenv(hostCertificate) == "" {
			fmt.Fprintln(os.Stderr, "plugin: the host has no certificate")
			os.Exit(1) // else go-plugin would serve anybody
		}
		// The other end of standard input is open for as long as the host lives, however it
		// ends. (A signal at the death of the parent comes when the thread ends, not the process.)
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			removeSockets()
			endGroup()
			os.Exit(1)
		}()
	}
	stderr := os.Stderr
	// go-plugin puts a pipe there that ends before we do: last words would be lost.
	s.greeted = sync.OnceFunc(func() { os.Stderr = stderr })
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  wire.Handshake,
		VersionedPlugins: wire.Versions(s.register),
		Logger:           hclog.NewNullLogger(),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(wire.MaxToPlugin),
				grpc.InitialWindowSize(wire.Window), grpc.InitialConnWindowSize(wire.Window))...)
		},
	})
	s.greeted()
	s.close()
}

// hostCertificate names the variable where go-plugin has the certificate of the host.
const hostCertificate = "PLUGIN_CLIENT_CERT"

// removeSockets tidies the folder that the host made and cannot remove any more.
func removeSockets() {
	dir := os.Getenv(plugin.EnvUnixSocketDir)
	if dir == "" {
		return
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Type() == os.ModeSocket {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir) // only if it is empty
}

// A server has the instances of each part by name.
type server struct {
	offers    []*wire.Offer
	keystores map[string]core.Keystore
	providers map[string]core.CryptoProvider
	issuers   map[string]core.CredentialIssuer
	wrappers  map[string]core.KeyWrapper
	keys      openKeys
	greeted   func() // called when the host asks what there is
}

func newServer(p Plugin) (*server, error) {
	s := &server{
		keystores: map[string]core.Keystore{},
		providers: map[string]core.CryptoProvider{},
		issuers:   map[string]core.CredentialIssuer{},
		wrappers:  map[string]core.KeyWrapper{},
	}
	s.add("", p)
	for name, i := range p.Instances {
		if !wire.IsName(name) {
			return nil, fmt.Errorf("instance %q: a name has 1 to %d of a-z, 0-9 and -", name, wire.MaxName)
		}
		if len(i.Instances) > 0 {
			return nil, fmt.Errorf("instance %q has instances", name)
		}
		s.add(name, i)
	}
	if len(s.offers) == 0 {
		return nil, errors.New("it offers nothing")
	}
	if len(s.offers) > wire.MaxOffers {
		return nil, fmt.Errorf("it offers %d instances: at most %d are allowed", len(s.offers), wire.MaxOffers)
	}
	return s, nil
}

func (s *server) add(name string, p Plugin) {
	offer := func(part wire.Part) *wire.Offer {
		o := &wire.Offer{Part: part, Instance: name}
		s.offers = append(s.offers, o)
		return o
	}
	if p.Keystore != nil {
		s.keystores[name] = p.Keystore
		offer(wire.Part_PART_KEYSTORE)
	}
	if p.CryptoProvider != nil {
		s.providers[name] = p.CryptoProvider
		o := offer(wire.Part_PART_CRYPTO_PROVIDER)
		if _, ok := p.CryptoProvider.(core.KeyDeleter); ok {
			o.Features = append(o.Features, wire.Feature_FEATURE_DELETE_KEY)
		}
		if _, ok := p.CryptoProvider.(core.KeyImporter); ok {
			o.Features = append(o.Features, wire.Feature_FEATURE_IMPORT_KEY)
		}
		if _, ok := p.CryptoProvider.(core.KeyAttester); ok {
			o.Features = append(o.Features, wire.Feature_FEATURE_ATTEST_KEY)
		}
	}
	if p.Issuer != nil {
		s.issuers[name] = p.Issuer
		offer(wire.Part_PART_CREDENTIAL_ISSUER)
	}
	if p.KeyWrapper != nil {
		s.wrappers[name] = p.KeyWrapper
		offer(wire.Part_PART_KEY_WRAPPER).WrapperId = p.KeyWrapper.ID()
	}
}

func (s *server) register(g *grpc.Server) {
	wire.RegisterPluginServer(g, pluginServer{server: s})
	if len(s.keystores) > 0 {
		wire.RegisterKeystoreServer(g, keystoreServer{server: s})
	}
	if len(s.providers) > 0 {
		wire.RegisterCryptoProviderServer(g, providerServer{server: s})
	}
	if len(s.issuers) > 0 {
		wire.RegisterCredentialIssuerServer(g, issuerServer{server: s})
	}
	if len(s.wrappers) > 0 {
		wire.RegisterKeyWrapperServer(g, wrapperServer{server: s})
	}
}

func (s *server) close() {
	for name, store := range s.keystores {
		if err := store.Close(); err != nil {
			fmt.Fprintf(os.Stderr, "close keystore %q: %v\n", name, err)
		}
	}
}

// instance finds one by its name.
func instance[T any](all map[string]T, name string) (T, error) {
	i, ok := all[name]
	if !ok {
		return i, fmt.Errorf("instance %q: %w", name, core.ErrNotFound)
	}
	return i, nil
}

type pluginServer struct {
	wire.UnimplementedPluginServer
	*server
}

func (s pluginServer) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	s.greeted()
	return &wire.DescribeResponse{Offers: slices.Clone(s.offers)}, nil
}
