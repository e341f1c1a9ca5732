// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
	"github.com/conclave-mls/conclave/plugins/sdk"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// What follows runs in a plugin that does not want to do what it should.

// speak prints a handshake and never ends.
func speak(format string, a ...any) {
	fmt.Printf(format+"\n", a...)
	select {}
}

var hostile = map[string]func(){
	"silent":          func() { select {} },
	"ends":            func() { os.Exit(3) },
	"garbage":         func() { speak("hello, this is no handshake \x1b[31m") },
	"a long line":     func() { speak("%s", strings.Repeat("x", 1<<20)) },
	"no numbers":      func() { speak("1|x|unix|%s/s|grpc|", os.Getenv(plugin.EnvUnixSocketDir)) },
	"tcp":             func() { speak("1|1|tcp|%s|grpc|", listen("tcp", "127.0.0.1:0")) },
	"elsewhere":       func() { speak("1|1|unix|%s|grpc|", listen("unix", filepath.Join(os.Getenv("DIR"), "s"))) },
	"climbing":        func() { speak("1|1|unix|%s/x/../../s|grpc|", os.Getenv(plugin.EnvUnixSocketDir)) },
	"net/rpc":         func() { speak("1|1|unix|%s|netrpc|", ownSocket()) },
	"no TLS":          func() { speak("1|1|unix|%s|grpc|", ownSocket()) },
	"bad certificate": func() { speak("1|1|unix|%s|grpc|%s", ownSocket(), strings.Repeat("A", 100)) },
	"plain": func() { // all that a plugin should, but without TLS
		l, err := net.Listen("unix", filepath.Join(os.Getenv(plugin.EnvUnixSocketDir), "s"))
		if err != nil {
			panic(err)
		}
		g := grpc.NewServer()
		wire.RegisterPluginServer(g, offering(func() []*wire.Offer { return everything[:1] }))
		go func() { _ = g.Serve(l) }()
		speak("1|1|unix|%s|grpc|", l.Addr())
	},
	"another certificate": func() { // than the one it has the key of
		l, err := net.Listen("unix", filepath.Join(os.Getenv(plugin.EnvUnixSocketDir), "s"))
		if err != nil {
			panic(err)
		}
		said, served := ownCertificate(), ownCertificate()
		g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{served}})))
		wire.RegisterPluginServer(g, offering(func() []*wire.Offer { return everything[:1] }))
		go func() { _ = g.Serve(l) }()
		speak("1|1|unix|%s|grpc|%s", l.Addr(), base64.RawStdEncoding.EncodeToString(said.Certificate[0]))
	},
	"bare": func() { // the least that a plugin may have; it says what else it is asked for
		l, err := net.Listen("unix", filepath.Join(os.Getenv(plugin.EnvUnixSocketDir), "s"))
		if err != nil {
			panic(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(os.Getenv("PLUGIN_CLIENT_CERT")))
		own := ownCertificate()
		g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{own}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
		})), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			fmt.Fprintln(os.Stderr, "asked for", method)
			return status.Error(codes.Unimplemented, "")
		}))
		wire.RegisterPluginServer(g, offering(func() []*wire.Offer { return everything[:1] }))
		wire.RegisterKeystoreServer(g, lyingStore{})
		go func() { _ = g.Serve(l) }()
		speak("1|1|unix|%s|grpc|%s", l.Addr(), base64.RawStdEncoding.EncodeToString(own.Certificate[0]))
	},
	"floods before": func() {
		go flood(os.Stdout)
		flood(os.Stderr)
	},
	"floods": func() {
		store := flooding{Keystore: memory.New(), stdout: os.Stdout, stderr: os.Stderr, once: new(sync.Once)}
		sdk.Serve(sdk.Plugin{Keystore: store})
	},
	"stays": func() {
		sdk.Serve(sdk.Plugin{Keystore: memory.New()})
		select {}
	},
	"breeds": func() { // another process that holds what it can hold of ours
		cmd := exec.Command("/bin/sleep", "3600")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: os.Getenv("SETSID") != ""}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Fprintf(os.Stderr, "pid=%d\n", cmd.Process.Pid)
		sdk.Serve(sdk.Plugin{Keystore: memory.New()})
	},
	"offers nothing it has": func() {
		serve(1, func(g *grpc.Server) {
			wire.RegisterPluginServer(g, offering(func() []*wire.Offer { return everything }))
		})
	},
	"offers features": func() { // a provider of the SDK's serves them all, but has not all
		serve(1, func(g *grpc.Server) {
			wire.RegisterPluginServer(g, offering(func() []*wire.Offer { return everything }))
			wire.RegisterCryptoProviderServer(g, signing{})
		})
	},
	"offers too much": func() {
		serve(1, func(g *grpc.Server) {
			wire.RegisterPluginServer(g, offering(func() (all []*wire.Offer) {
				for i := range 10_000 {
					all = append(all, &wire.Offer{Part: wire.Part_PART_KEYSTORE, Instance: fmt.Sprint(i)})
				}
				return all
			}))
		})
	},
	"offers nothings": func() {
		serve(1, func(g *grpc.Server) {
			wire.RegisterPluginServer(g, offering(func() []*wire.Offer {
				all := make([]*wire.Offer, wire.MaxOfDescribe/2+1) // of two bytes each
				for i := range all {
					all[i] = &wire.Offer{}
				}
				return all
			}))
		})
	},
	"offers another thing later": func() {
		var asked atomic.Int32
		serve(1, func(g *grpc.Server) {
			wire.RegisterPluginServer(g, offering(func() []*wire.Offer { return everything[:1+min(asked.Add(1)/3, 1)] }))
			wire.RegisterKeystoreServer(g, lyingStore{})
		})
	},
	"offers another thing after a restart": func() {
		name, n := filepath.Join(os.Getenv("DIR"), "was here"), 1
		if _, err := os.Stat(name); err == nil {
			n = 2
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			panic(err)
		}
		serve(1, func(g *grpc.Server) {
			wire.RegisterPluginServer(g, offering(func() []*wire.Offer { return everything[:n] }))
			wire.RegisterKeystoreServer(g, lyingStore{})
		})
	},
	"hangs": func() { // from the second question on
		var asked atomic.Int32
		serve(1, func(g *grpc.Server) {
			wire.RegisterPluginServer(g, offering(func() []*wire.Offer {
				if asked.Add(1) > 1 {
					select {}
				}
				return everything
			}))
			wire.RegisterKeystoreServer(g, lyingStore{})
		})
	},
	"lies": func() {
		serve(1, func(g *grpc.Server) {
			wire.RegisterPluginServer(g, offering(func() []*wire.Offer { return everything }))
			wire.RegisterKeystoreServer(g, lyingStore{})
			wire.RegisterCryptoProviderServer(g, lyingProvider{})
			wire.RegisterCredentialIssuerServer(g, lyingIssuer{})
			wire.RegisterKeyWrapperServer(g, lyingWrapper{})
		})
	},
	"version 2": func() { serve(2, sdkMemory) },
	"version 1": func() { serve(1, sdkMemory) },
}

func sdkMemory(g *grpc.Server) {
	wire.RegisterPluginServer(g, offering(func() []*wire.Offer { return everything[:1] }))
	wire.RegisterKeystoreServer(g, lyingStore{})
}

func listen(network, addr string) string {
	l, err := net.Listen(network, addr)
	if err != nil {
		panic(err)
	}
	go func() {
		for { // it takes connections, and says nothing
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	return l.Addr().String()
}

// ownCertificate is as good as the host's or a plugin's, but one that nobody was told of.
func ownCertificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func ownSocket() string {
	return listen("unix", filepath.Join(os.Getenv(plugin.EnvUnixSocketDir), "s"))
}

// flooding writes without end from the first batch on.
type flooding struct {
	core.Keystore
	stdout, stderr *os.File
	once           *sync.Once
}

func (f flooding) Apply(ctx context.Context, b core.Batch) error {
	f.once.Do(func() {
		go flood(f.stdout)
		go flood(f.stderr)
	})
	return f.Keystore.Apply(ctx, b)
}

func flood(f *os.File) {
	line := []byte(strings.Repeat("x", 99) + "\n")
	for {
		if _, err := f.Write(line); err != nil {
			return
		}
	}
}

// serve is a plugin with services of its own, in versions up to the given one.
func serve(version int, register func(*grpc.Server)) {
	versions := map[int]plugin.PluginSet{}
	first := 1
	if os.Getenv("ONLY") != "" {
		first = version
	}
	for v := first; v <= version; v++ {
		versions[v] = wire.Versions(register)[1]
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: wire.Handshake, VersionedPlugins: versions, Logger: hclog.NewNullLogger(),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server { return grpc.NewServer(opts...) },
	})
}

var everything = []*wire.Offer{
	{Part: wire.Part_PART_KEYSTORE},
	{Part: wire.Part_PART_CRYPTO_PROVIDER, Features: []wire.Feature{
		wire.Feature_FEATURE_DELETE_KEY, wire.Feature_FEATURE_IMPORT_KEY, wire.Feature_FEATURE_ATTEST_KEY, 77}},
	{Part: wire.Part_PART_CREDENTIAL_ISSUER},
	{Part: wire.Part_PART_KEY_WRAPPER, WrapperId: "a key"},
}

type describer struct {
	wire.UnimplementedPluginServer
	offers func() []*wire.Offer
}

func offering(offers func() []*wire.Offer) describer { return describer{offers: offers} }

func (d describer) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	return &wire.DescribeResponse{Offers: d.offers()}, nil
}

// The table of what is read or put says which lie is told.
const (
	honest = iota
	tooLarge
	tooMuch
	drips
	saysNothing
	emptyWithoutEnd
	notAsked
	longText
	weGaveUp
	longStatus
	bigHeaders
	unknownCode
	noCode
)

type lyingStore struct {
	wire.UnimplementedKeystoreServer
}

func (lyingStore) Read(stream grpc.BidiStreamingServer[wire.ReadRequest, wire.ReadResponse]) error {
	ask, err := stream.Recv()
	if err != nil || len(ask.GetQueries()) == 0 {
		return err
	}
	rec := func(key string, size int) *wire.ReadResponse {
		v := core.NewVersion()
		return &wire.ReadResponse{Records: []*wire.Record{{Key: []byte(key), Value: make([]byte, size), Version: v[:]}}}
	}
	number := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	switch ask.Queries[0].Table {
	case tooLarge:
		return stream.Send(rec("a", wire.MaxOfRead))
	case tooMuch:
		for n := uint32(0); ; n++ {
			if err := stream.Send(rec(number(n), core.MaxValue)); err != nil {
				return err
			}
		}
	case drips:
		for n := uint32(0); ; n++ {
			if err := stream.Send(rec(number(n), 1)); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	case saysNothing:
		select {}
	case emptyWithoutEnd:
		for {
			if err := stream.Send(&wire.ReadResponse{}); err != nil {
				return err
			}
		}
	case notAsked:
		return stream.Send(rec("b", 1))
	default:
		e, err := refuse(stream.Context(), ask.Queries[0].Table)
		if err != nil {
			return err
		}
		return stream.Send(&wire.ReadResponse{Error: e})
	}
}

// refuse is what all calls can answer.
func refuse(ctx context.Context, lie uint32) (*wire.Error, error) {
	switch lie {
	case tooLarge:
		return &wire.Error{Text: strings.Repeat("x", wire.MaxFromPlugin)}, nil
	case longText:
		return &wire.Error{Text: "\x1b[31m\n" + strings.Repeat("x", 1<<19), Codes: []wire.ErrorCode{wire.ErrorCode_ERROR_CODE_CONFLICT}}, nil
	case weGaveUp:
		return &wire.Error{Text: "gave up", Codes: []wire.ErrorCode{wire.ErrorCode_ERROR_CODE_CANCELED, wire.ErrorCode_ERROR_CODE_DEADLINE_EXCEEDED}}, nil
	case longStatus:
		return nil, status.Error(codes.DataLoss, "\x1b[31m\n"+strings.Repeat("x", 20_000))
	case bigHeaders:
		return nil, grpc.SendHeader(ctx, metadata.Pairs("x", strings.Repeat("x", 1<<20)))
	case unknownCode:
		return &wire.Error{Text: "news", Codes: []wire.ErrorCode{1000}}, nil
	case noCode:
		return &wire.Error{Text: "odd"}, nil
	case saysNothing:
		select {}
	}
	return nil, nil
}

func (lyingStore) Apply(stream grpc.ClientStreamingServer[wire.ApplyRequest, wire.ApplyResponse]) error {
	ask, err := stream.Recv()
	if err != nil {
		return err
	}
	e, err := refuse(stream.Context(), ask.Puts[0].Table)
	if err != nil {
		return err
	}
	return stream.SendAndClose(&wire.ApplyResponse{Error: e})
}

// A signing is an honest provider that can do nothing but sign.
type signing struct {
	wire.UnimplementedCryptoProviderServer
}

func (signing) GenerateKey(ctx context.Context, m *wire.GenerateKeyRequest) (*wire.KeyResponse, error) {
	spec, err := wire.FromKeySpec(m.GetSpec())
	if err != nil {
		return nil, err
	}
	key, err := pure.New().GenerateKey(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &wire.KeyResponse{Key: &wire.Key{Ref: "x", Algorithm: string(key.Algorithm()), Public: key.Public(), Ability: wire.Ability_ABILITY_SIGN}}, nil
}

// lyingProvider tells the lie of a key's label or reference, which is the change to a good one.
type lyingProvider struct {
	wire.UnimplementedCryptoProviderServer
}

func (lyingProvider) Algorithms(context.Context, *wire.AlgorithmsRequest) (*wire.AlgorithmsResponse, error) {
	return &wire.AlgorithmsResponse{Algorithms: []string{"Ed25519", "a\nb"}}, nil
}

var keyLies = map[string]func(*wire.KeyResponse){
	"no key":                  func(m *wire.KeyResponse) { m.Key = nil },
	"another algorithm":       func(m *wire.KeyResponse) { m.Key.Algorithm = "X25519" },
	"a long algorithm":        func(m *wire.KeyResponse) { m.Key.Algorithm = strings.Repeat("x", 65) },
	"no algorithm":            func(m *wire.KeyResponse) { m.Key.Algorithm = "" },
	"no reference":            func(m *wire.KeyResponse) { m.Key.Ref = "" },
	"a long reference":        func(m *wire.KeyResponse) { m.Key.Ref = strings.Repeat("x", 1025) },
	"a reference with colour": func(m *wire.KeyResponse) { m.Key.Ref = "x\x1b[31m" },
	"no public key":           func(m *wire.KeyResponse) { m.Key.Public = nil },
	"an absurd public key":    func(m *wire.KeyResponse) { m.Key.Public = make([]byte, wire.MaxPublic+1) },
	"absurd material":         func(m *wire.KeyResponse) { m.Key.Material = make([]byte, wire.MaxPublic+1) },
	"a short public key":      func(m *wire.KeyResponse) { m.Key.Public = make([]byte, 31) },
	"an unknown ability":      func(m *wire.KeyResponse) { m.Key.Ability = 9 },
	"another ability":         func(m *wire.KeyResponse) { m.Key.Ability = wire.Ability_ABILITY_DECAPSULATE },
	"no ability":              func(m *wire.KeyResponse) { m.Key.Ability = 0 },
	"material of its own":     func(m *wire.KeyResponse) { m.Key.Material = []byte("its own") },
}

func keyOf(name string) (*wire.KeyResponse, error) {
	m := &wire.KeyResponse{Key: &wire.Key{Ref: "x", Algorithm: "Ed25519", Public: make([]byte, 32), Ability: wire.Ability_ABILITY_SIGN}}
	if change := keyLies[name]; change != nil {
		change(m)
	}
	return m, nil
}

func (lyingProvider) GenerateKey(_ context.Context, m *wire.GenerateKeyRequest) (*wire.KeyResponse, error) {
	return keyOf(m.GetSpec().GetLabel())
}

func (lyingProvider) ImportKey(_ context.Context, m *wire.ImportKeyRequest) (*wire.KeyResponse, error) {
	return keyOf(m.GetSpec().GetLabel())
}

func (lyingProvider) OpenKey(_ context.Context, m *wire.OpenKeyRequest) (*wire.KeyResponse, error) {
	key, err := keyOf(m.GetRef())
	if key.Key != nil && key.Key.Ref == "x" && m.GetRef() != "another key" {
		key.Key.Ref = m.GetRef()
	}
	return key, err
}

func (lyingProvider) AttestKey(context.Context, *wire.AttestKeyRequest) (*wire.BytesResponse, error) {
	return &wire.BytesResponse{}, nil
}

func (lyingProvider) Sign(_ context.Context, m *wire.UseKeyRequest) (*wire.BytesResponse, error) {
	switch string(m.GetInput()) {
	case "empty":
		return &wire.BytesResponse{}, nil
	case "absurd":
		return &wire.BytesResponse{Bytes: make([]byte, wire.MaxPublic+1)}, nil
	case "too large":
		return &wire.BytesResponse{Bytes: make([]byte, wire.MaxFromPlugin)}, nil
	case "never":
		select {}
	case "text":
		e, err := refuse(context.Background(), longText)
		return &wire.BytesResponse{Error: e}, err
	}
	return &wire.BytesResponse{Bytes: []byte("a signature")}, nil
}

// lyingIssuer tells the lie of a handle.
type lyingIssuer struct {
	wire.UnimplementedCredentialIssuerServer
}

func (lyingIssuer) Describe(context.Context, *wire.IssuerDescribeRequest) (*wire.IssuerDescribeResponse, error) {
	return &wire.IssuerDescribeResponse{Info: &wire.IssuerInfo{Type: 1 << 20}}, nil
}

var stepLies = map[string]*wire.StepResponse{
	"no step":      {},
	"no need":      {Step: &wire.Step{State: []byte("x")}},
	"no type":      {Step: &wire.Step{Need: &wire.Step_Done{Done: &wire.Issued{Credential: &wire.Credential{Type: 1 << 20}}}}},
	"too large":    {Step: &wire.Step{State: make([]byte, wire.MaxFromPlugin), Need: &wire.Step_Wait{Wait: &wire.WaitNeed{}}}},
	"wait forever": nil,
}

func (lyingIssuer) Begin(_ context.Context, m *wire.BeginRequest) (*wire.StepResponse, error) {
	step, ok := stepLies[m.GetRequest().GetHandle()]
	if !ok {
		return &wire.StepResponse{Step: &wire.Step{Need: &wire.Step_Wait{Wait: &wire.WaitNeed{}}}}, nil
	}
	if step == nil {
		select {}
	}
	return step, nil
}

type lyingWrapper struct {
	wire.UnimplementedKeyWrapperServer
}

func (lyingWrapper) Wrap(context.Context, *wire.WrapRequest) (*wire.BytesResponse, error) {
	return &wire.BytesResponse{}, nil
}

func (lyingWrapper) Unwrap(_ context.Context, m *wire.UnwrapRequest) (*wire.BytesResponse, error) {
	return &wire.BytesResponse{Bytes: bytes.Repeat([]byte{1}, wire.MaxPublic+1)}, nil
}
