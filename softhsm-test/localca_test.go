// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/localca"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// caKey makes a CA's key on a token, by another program.
func caKey(t *testing.T, k *softhsmtest.Token, kind, label, id string) {
	t.Helper()
	tool(t, k, "--keypairgen", "--key-type", kind, "--label", label, "--id", id, "--usage-sign")
}

// caURI names a key for an engine.
func caURI(k *softhsmtest.Token, engine, attributes string) string {
	path, query, _ := strings.Cut(k.URI(), "?")
	return path + ";" + attributes + "?" + query + "&x-engine=" + engine
}

func openCA(t *testing.T, uri string) *hsm.CAKey {
	t.Helper()
	key, err := hsm.OpenCAKey(t.Context(), hsm.Config{URI: uri, Latch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	})
	return key
}

// selfSigned is the certificate of a CA, and the signer that made it.
func selfSigned(t *testing.T, key *hsm.CAKey) ([]byte, crypto.Signer) {
	t.Helper()
	s, err := key.Signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, s.Public(), s)
	if err != nil {
		t.Fatal(err)
	}
	return der, s
}

// TestLocalCA: the conformance suite of credential issuers with the CA's key on a token,
// by each engine that knows the key.
func TestLocalCA(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ token, engine, kinds string }{
		{"softhsm", "p11", "EC:prime256v1 EC:secp384r1 EC:secp521r1 EC:edwards25519"},
		{"softhsm", "crypto11", "EC:prime256v1 EC:secp384r1 EC:secp521r1 rsa:2048"},
		{"nss", "p11", "EC:prime256v1"},
		{"p11-kit", "p11", "EC:prime256v1"},
		{"p11-kit", "crypto11", "EC:prime256v1 rsa:2048"},
		{"tpm", "p11", "EC:prime256v1 EC:secp384r1"},
		{"tpm", "crypto11", "EC:prime256v1 EC:secp384r1 rsa:2048"},
		{"opencryptoki", "crypto11", "rsa:2048"},
	} {
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == c.token })
		if i < 0 {
			continue
		}
		t.Run(c.token+"/"+c.engine, func(t *testing.T) {
			t.Parallel()
			k := kinds[i].make(t)
			label := func(kind string) string { return strings.ReplaceAll(kind, ":", "-") }
			// All of them first: a TPM's module does not see what another program makes later.
			for i, kind := range strings.Fields(c.kinds) {
				if c.token == "nss" { // pkcs11-tool cannot give it what it wants at the start
					makeKey(t, open(t, k.URI()), core.ECDSAP256)
					label = func(string) string { return "a%20key" }
				} else {
					caKey(t, k, kind, label(kind), string(rune('1'+i))+"0")
				}
			}
			for _, kind := range strings.Fields(c.kinds) {
				key := openCA(t, caURI(k, c.engine, "object="+label(kind)))
				der, _ := selfSigned(t, key)
				t.Run(kind, func(t *testing.T) {
					coretest.TestCredentialIssuer(t, func(t *testing.T) core.CredentialIssuer {
						issuer, err := localca.New(t.Context(), localca.Config{Certificates: der, Key: key.Signer, StateKey: core.NewSecret(make([]byte, localca.StateKeySize))})
						if err != nil {
							t.Fatal(err)
						}
						return issuer
					})
				})
			}
		})
	}
}

// A module belongs to one engine as long as anything of it is open.
func TestModuleOfOneEngine(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	caKey(t, k, "EC:prime256v1", "ca", "01")
	other := filepath.Join(filepath.Dir(k.ModulePath), "another-name.so")
	if err := os.Symlink(k.ModulePath, other); err != nil {
		t.Fatal(err)
	}
	linked := through(k, other)
	latch := t.TempDir()
	openKey := func(k *softhsmtest.Token, engine string) (*hsm.CAKey, error) {
		return hsm.OpenCAKey(t.Context(), hsm.Config{URI: caURI(k, engine, "object=ca"), Latch: latch})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	owned := func(what string, err error) { // known without a look at the module
		t.Helper()
		if !errors.Is(err, hsm.ErrModuleOwned) || !strings.Contains(err.Error(), "engine ") {
			t.Errorf("%s: %v, want ErrModuleOwned", what, err)
		}
	}

	token, err := hsm.Open(t.Context(), hsm.Config{URI: k.URI(), Latch: latch})
	must(err)
	for _, k := range []*softhsmtest.Token{k, &linked} {
		_, err = openKey(k, "crypto11")
		owned("crypto11 beside p11", err)
	}
	must(signsOnce(t, makeKey(t, token, core.ECDSAP256).(core.Signer)))
	must(token.Close())

	first, err := openKey(k, "crypto11")
	must(err)
	for _, k := range []*softhsmtest.Token{k, &linked} {
		_, err = hsm.Open(t.Context(), hsm.Config{URI: k.URI(), Latch: latch})
		owned("p11 beside crypto11", err)
		_, err = openKey(k, "p11")
		owned("a CA key by p11 beside crypto11", err)
	}
	stranger := through(k, k.ModulePath)
	stranger.Label = "another token"
	_, err = openKey(&stranger, "crypto11")
	owned("another token of the module", err)
	second, err := openKey(&linked, "crypto11") // the same context again
	must(err)
	must(first.Close())
	must(first.Close())
	_, err = openKey(k, "p11")
	owned("p11 beside crypto11 that is open a second time", err)
	_, s := selfSigned(t, second)
	must(second.Close())
	digest := sha256.Sum256([]byte("message"))
	if _, err := s.Sign(rand.Reader, digest[:], crypto.SHA256); !errors.Is(err, core.ErrClosed) {
		t.Errorf("a signer after its end: %v", err)
	}

	third, err := openKey(k, "p11")
	must(err)
	selfSigned(t, third)
	must(third.Close())
	if _, err := hsm.Open(t.Context(), hsm.Config{URI: caURI(k, "crypto11", "object=ca"), Latch: latch}); !errors.Is(err, hsm.ErrUnsupported) {
		t.Errorf("a token by crypto11: %v, want ErrUnsupported", err)
	}
}

// What crypto11 would fail with, and finalise the module, it is not asked for.
func TestCrypto11Refused(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	caKey(t, k, "EC:prime256v1", "twin", "01")
	caKey(t, k, "EC:secp384r1", "twin", "02")
	caKey(t, k, "EC:edwards25519", "ed", "03")
	nss := through(k, k.ModulePath)
	nss.InitArgs = "configdir="
	stranger := through(k, k.ModulePath)
	stranger.Label = "no such token"
	bare := through(k, k.ModulePath)
	for name, c := range map[string]struct {
		uri  string
		want error
	}{
		"another label":       {caURI(&stranger, "crypto11", "object=twin"), hsm.ErrTokenNotFound},
		"no key":              {caURI(k, "crypto11", "object=none"), hsm.ErrKeyNotFound},
		"two keys":            {caURI(k, "crypto11", "object=twin"), hsm.ErrKeyAmbiguous},
		"Ed25519":             {caURI(k, "crypto11", "object=ed"), hsm.ErrUnsupported},
		"x-init-args":         {caURI(&nss, "crypto11", "object=twin"), hsm.ErrUnsupported},
		"no name of a key":    {k.URI() + "&x-engine=crypto11", hsm.ErrInvalidInput},
		"no PIN":              {"pkcs11:object=twin?module-path=" + bare.ModulePath + "&x-engine=crypto11", hsm.ErrPINRequired},
		"no module":           {"pkcs11:object=twin?module-path=/nonexistent.so&x-engine=crypto11", hsm.ErrModuleLoad},
		"no module, but text": {"pkcs11:object=twin?module-path=" + k.PINFile + "&x-engine=crypto11", hsm.ErrModuleLoad},
		"p11: no key":         {caURI(k, "p11", "object=none"), hsm.ErrKeyNotFound},
	} {
		key, err := hsm.OpenCAKey(t.Context(), hsm.Config{URI: c.uri, Latch: t.TempDir()})
		if err == nil {
			_ = key.Close()
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}

	// Nothing of that has kept the module, and a key by its id is found.
	own, err := hsm.OpenCAKey(t.Context(), hsm.Config{URI: caURI(k, "p11", "id=%02"), Latch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Close(); err != nil {
		t.Error(err)
	}
	key := openCA(t, caURI(k, "crypto11", "id=%02"))
	_, s := selfSigned(t, key)
	for what, opts := range map[string]crypto.SignerOpts{"none": nil, "no hash": crypto.Hash(0), "another hash": crypto.SHA512} {
		if _, err := s.Sign(rand.Reader, make([]byte, 48), opts); !errors.Is(err, hsm.ErrInvalidInput) {
			t.Errorf("a digest of 48 bytes for %s: %v", what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if late, err := key.Signer(ctx); err != nil {
		t.Error(err)
	} else if _, err := late.Sign(rand.Reader, make([]byte, 48), crypto.SHA384); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancellation: %v", err)
	}
	if _, err := hsm.OpenCAKey(ctx, hsm.Config{URI: caURI(k, "crypto11", "id=%02")}); !errors.Is(err, context.Canceled) {
		t.Errorf("open after cancellation: %v", err)
	}
}

// With crypto11 as well, a wrong PIN reaches the module once, and a PIN is not taken for
// right because somebody is logged in.
func TestCrypto11PIN(t *testing.T) {
	t.Parallel()
	local := softhsmtest.New(t)
	caKey(t, local, "EC:prime256v1", "ca", "01")
	spy := softhsmtest.Spy(t, local)
	cfg := hsm.Config{URI: caURI(spy, "crypto11", "object=ca"), Latch: t.TempDir()}
	refused := func() {
		t.Helper()
		key, err := hsm.OpenCAKey(t.Context(), cfg)
		if err == nil {
			_ = key.Close()
		}
		if !errors.Is(err, hsm.ErrPINRejected) || strings.Contains(err.Error(), wrongPIN) {
			t.Errorf("a wrong PIN: %v", err)
		}
	}
	logins := func(want int) {
		t.Helper()
		if calls := spy.Calls(t, "C_Login"); len(calls) != want {
			t.Fatalf("%d logins reached the module, want %d", len(calls), want)
		}
	}
	writePIN(t, spy, wrongPIN)
	var all sync.WaitGroup
	for range 5 {
		all.Go(refused)
	}
	all.Wait()
	refused()
	logins(1)
	writePIN(t, spy, spy.PIN)
	key := openCA(t, cfg.URI)
	logins(3) // ours and then that of crypto11
	selfSigned(t, key)
	writePIN(t, spy, wrongPIN)
	cfg.Latch = "" // it is not the latch that refuses
	refused()
	logins(3)
	selfSigned(t, key)
}

// The issuer of an application has its CA's key on a token, and gives the token back.
func TestLocalCAOfApplication(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	caKey(t, k, "rsa:2048", "ca", "01")
	uri := caURI(k, "crypto11", "object=ca")
	cfg := hsm.Config{URI: uri, Latch: t.TempDir()}
	key, err := hsm.OpenCAKey(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := selfSigned(t, key)
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	c := config.Default(t.TempDir())
	u, err := c.URI("localca:ca.der?key=" + uri)
	if err != nil {
		t.Fatal(err)
	}
	write := func(der []byte) {
		t.Helper()
		if err := os.WriteFile(c.File("ca.der"), der, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	write(der[1:])
	if _, err := modules.LocalCA(t.Context(), c, log, u); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("a certificate that is none: %v", err)
	}
	write(der)
	issuer, err := modules.LocalCA(t.Context(), c, log, u)
	if err != nil {
		t.Fatal(err)
	}
	coretest.TestCredentialIssuer(t, func(*testing.T) core.CredentialIssuer { return issuer })
	if err := issuer.(io.Closer).Close(); err != nil {
		t.Error(err)
	}
	token, err := hsm.Open(t.Context(), hsm.Config{URI: k.URI(), Latch: cfg.Latch})
	if err != nil {
		t.Fatalf("the issuer has kept the module: %v", err)
	}
	if err := token.Close(); err != nil {
		t.Error(err)
	}
}

// When the token is taken away, crypto11 says so and does not find it again; a key that is
// opened afterwards does.
func TestCrypto11Vanish(t *testing.T) {
	t.Parallel()
	for name, bringUp := range map[string]func(testing.TB) *softhsmtest.Token{"SoftHSM": softhsmtest.New, "p11-kit": softhsmtest.P11Kit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := bringUp(t)
			caKey(t, k, "EC:prime256v1", "ca", "01")
			cfg := hsm.Config{URI: caURI(k, "crypto11", "object=ca"), Latch: t.TempDir()}
			key, err := hsm.OpenCAKey(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			_, s := selfSigned(t, key)
			k.Remove(t)
			if _, err := s.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !errors.Is(err, hsm.ErrTokenUnavailable) {
				t.Errorf("a token that is away: %v", err)
			}
			if err := key.Close(); err != nil && !errors.Is(err, hsm.ErrTokenUnavailable) {
				t.Errorf("the end of one: %v", err)
			}
			if key, err := hsm.OpenCAKey(t.Context(), cfg); err == nil {
				_ = key.Close()
				t.Error("a token that is away was opened")
			}
			k.Restore(t)
			selfSigned(t, openCA(t, cfg.URI))
		})
	}
}
