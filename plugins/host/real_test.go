// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	"github.com/conclave-mls/conclave/plugins/host"
	"github.com/conclave-mls/conclave/plugins/sdk"
	"github.com/conclave-mls/conclave/providers/acme"
	"github.com/conclave-mls/conclave/providers/localca"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

// The parts that speak with servers, or have keys of their own, behind a plugin. What they
// need is in the plugin's environment.

func addReal(p *sdk.Plugin, part string) {
	var err error
	switch part {
	case "postgres":
		p.Keystore, err = postgres.Open(context.Background(), os.Getenv("DSN"))
	case "localca":
		p.Issuer, err = localCA()
	case "acme":
		p.Issuer, err = acmeIssuer()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A process is a store whose plugin ends with it.
type process struct {
	core.Keystore
	plugin *host.Plugin
}

func (p process) Close() error { return errors.Join(p.Keystore.Close(), p.plugin.Close()) }

func TestPostgreSQLBehindPlugin(t *testing.T) {
	dsn := pgtest.Shared(t)
	coretest.TestDurableKeystore(t, func(ctx context.Context, location string) (core.Keystore, error) {
		schema := fmt.Sprintf("&schema=s%.20x", sha256.Sum256([]byte(location)))
		p, err := host.Launch(ctx, config("postgres", "DSN="+dsn+schema))
		if err != nil {
			return nil, err
		}
		store, err := p.Keystore("")
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		return process{store, p}, nil
	})
}

// newCA is the environment of a new CA, without the key of its states.
func newCA(t testing.TB) []string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"CA=" + base64.StdEncoding.EncodeToString(der), "CA_KEY=" + base64.StdEncoding.EncodeToString(private)}
}

func localCA() (core.CredentialIssuer, error) {
	var err error
	bytes := func(name string) []byte {
		b, e := base64.StdEncoding.DecodeString(os.Getenv(name))
		err = errors.Join(err, e)
		return b
	}
	private, e := x509.ParsePKCS8PrivateKey(bytes("CA_KEY"))
	cfg := localca.Config{
		Certificates: bytes("CA"), StateKey: core.NewSecret(bytes("STATE_KEY")),
		Key: func(context.Context) (crypto.Signer, error) { return private.(crypto.Signer), nil },
	}
	if err = errors.Join(err, e); err != nil {
		return nil, err
	}
	return localca.New(context.Background(), cfg)
}

// issuers opens one and the same plugin, but another process with the same environment
// where the suite wants to know what comes after a restart.
func issuers(t *testing.T, cfg host.Config, wrap func(core.CredentialIssuer) core.CredentialIssuer) func(*testing.T) core.CredentialIssuer {
	first := launch(t, cfg)
	return func(t *testing.T) core.CredentialIssuer {
		p := first
		if strings.HasSuffix(t.Name(), "restart") {
			p = launch(t, cfg)
		}
		i, err := p.Issuer("")
		if err != nil {
			t.Fatal(err)
		}
		return wrap(i)
	}
}

func TestLocalCABehindPlugin(t *testing.T) {
	t.Parallel()
	cfg := config("localca", append(newCA(t), "STATE_KEY="+base64.StdEncoding.EncodeToString(make([]byte, localca.StateKeySize)))...)
	coretest.TestCredentialIssuer(t, issuers(t, cfg, func(i core.CredentialIssuer) core.CredentialIssuer { return i }))
}

// An issuer whose states die with its process: after a restart it refuses, not for good, and
// whoever begins again is served.
func TestStatesThatDie(t *testing.T) {
	t.Parallel()
	cfg := config("localca", newCA(t)...)
	open := func() core.CredentialIssuer {
		t.Helper()
		i, err := launch(t, cfg).Issuer("")
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	before, after := open(), open()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	begin := func(by core.CredentialIssuer) core.Step {
		t.Helper()
		step, err := by.Begin(t.Context(), core.IssueRequest{Action: core.ActionIssue, ClientID: "alice", Algorithm: core.ECDSAP256, PublicKey: public})
		if err != nil {
			t.Fatal(err)
		}
		return step
	}
	answer := func(step core.Step) core.Need {
		t.Helper()
		digest := sha256.Sum256(step.Need.Sign.Message)
		signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		next, err := after.Advance(t.Context(), step.State, core.Input{Signature: signature})
		if err != nil {
			t.Fatal(err)
		}
		return next.Need
	}
	if r := answer(begin(before)).Refused; r == nil || r.Final {
		t.Errorf("a state of another life: %+v", r)
	}
	if answer(begin(after)).Done == nil {
		t.Error("begun again: no credential")
	}
}

func acmeIssuer() (core.CredentialIssuer, error) {
	info, err := hex.DecodeString(os.Getenv("PEER"))
	if err != nil {
		return nil, err
	}
	peer, err := e2eitest.Join(info)
	if err != nil {
		return nil, err
	}
	return acme.New(acme.Config{Directory: peer.Directory, RedirectURI: "http://127.0.0.1:1/callback", HTTP: peer.HTTP, AllowHTTP: true})
}

func TestACMEBehindPlugin(t *testing.T) {
	t.Parallel()
	peer := e2eitest.Start(t)
	coretest.TestCredentialIssuer(t, issuers(t, config("acme", "PEER="+hex.EncodeToString(peer.Info())), peer.Strangers))
}
