// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/pure"
)

func signer(t *testing.T, algorithm core.KeyAlgorithm) core.Signer {
	t.Helper()
	key, err := pure.New().GenerateKey(t.Context(), core.KeySpec{Algorithm: algorithm, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	return key.(core.Signer)
}

// A key of each algorithm signs what crypto/x509 makes, and what verifies it has the key.
func TestX509Signer(t *testing.T) {
	for algorithm, named := range map[core.KeyAlgorithm]x509.SignatureAlgorithm{
		core.Ed25519: x509.PureEd25519, core.ECDSAP256: x509.ECDSAWithSHA256,
		core.ECDSAP384: x509.ECDSAWithSHA384, core.ECDSAP521: x509.ECDSAWithSHA512,
	} {
		key := signer(t, algorithm)
		s, err := core.X509Signer(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		public, err := core.X509PublicKey(algorithm, key.Public())
		if err != nil || !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(s.Public()) {
			t.Errorf("%s: the public key differs; %v", algorithm, err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "alice"}}, s)
		if err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		request, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := request.CheckSignature(); err != nil || request.SignatureAlgorithm != named {
			t.Errorf("%s: request with %v: %v", algorithm, request.SignatureAlgorithm, err)
		}
		ca := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		if der, err = x509.CreateCertificate(rand.Reader, ca, ca, s.Public(), s); err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.CheckSignatureFrom(cert); err != nil {
			t.Errorf("%s: certificate: %v", algorithm, err)
		}
		if err := pureVerify(t, algorithm, key.Public(), cert.RawTBSCertificate, cert.Signature); err != nil {
			t.Errorf("%s: the signature is not that of MLS: %v", algorithm, err)
		}
	}
}

func pureVerify(t *testing.T, algorithm core.KeyAlgorithm, public, message, signature []byte) error {
	t.Helper()
	for _, id := range pure.New().Suites() {
		s, err := pure.New().Suite(id)
		if err != nil {
			t.Fatal(err)
		}
		if s.Parameters().Signature == algorithm {
			return s.Verify(public, message, signature)
		}
	}
	t.Fatalf("no suite with %s", algorithm)
	return nil
}

func TestX509SignerRefuses(t *testing.T) {
	if _, err := core.X509Signer(t.Context(), signer(t, core.Ed448)); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("Ed448: %v, want ErrUnsupported", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := core.X509Signer(ctx, signer(t, core.ECDSAP256))
	if err != nil {
		t.Fatal(err)
	}
	for _, opts := range []crypto.SignerOpts{nil, crypto.Hash(0), crypto.SHA384, &rsa.PSSOptions{Hash: crypto.SHA256}} {
		if _, err := s.SignMessage(rand.Reader, []byte("message"), opts); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("with %v: %v, want ErrUnsupported", opts, err)
		}
	}
	if _, err := s.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("a digest: %v, want ErrUnsupported", err)
	}
	cancel()
	if _, err := s.SignMessage(rand.Reader, []byte("message"), crypto.SHA256); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancellation: %v", err)
	}
	s, err = core.X509Signer(t.Context(), signer(t, core.Ed25519))
	if err != nil {
		t.Fatal(err)
	}
	// Ed25519ctx and Ed25519ph are other algorithms.
	for _, opts := range []crypto.SignerOpts{&ed25519.Options{Context: "x"}, crypto.SHA512} {
		if _, err := s.SignMessage(rand.Reader, make([]byte, 64), opts); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("Ed25519 with %v: %v, want ErrUnsupported", opts, err)
		}
	}
}

// An Ed25519 key of small order is refused, however it is written: for each, a signature of
// nobody verifies for one message in eight or more.
func TestX509PublicKeyOfSmallOrder(t *testing.T) {
	nobodys := make([]byte, ed25519.SignatureSize)
	nobodys[0] = 1 // R is the neutral point, and S is 0
	for _, text := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	} {
		for _, sign := range []byte{0, 0x80} {
			public, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			public[31] |= sign
			verified := 0
			for m := range 200 {
				if ed25519.Verify(public, []byte{byte(m)}, nobodys) {
					verified++
				}
			}
			if verified == 0 {
				t.Errorf("%x is not of small order", public)
			}
			if _, err := core.X509PublicKey(core.Ed25519, public); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%x: %v, want ErrInvalid", public, err)
			}
		}
	}
}

func TestX509PublicKeyRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		algorithm core.KeyAlgorithm
		public    []byte
		want      error
	}{
		"short":            {core.Ed25519, make([]byte, 31), core.ErrInvalid},
		"off the curve":    {core.ECDSAP256, append([]byte{4}, make([]byte, 64)...), core.ErrInvalid},
		"of another curve": {core.ECDSAP384, signer(t, core.ECDSAP256).Public(), core.ErrInvalid},
		"Ed448":            {core.Ed448, make([]byte, 57), core.ErrUnsupported},
		"X25519":           {core.X25519, make([]byte, 32), core.ErrUnsupported},
	} {
		if _, err := core.X509PublicKey(c.algorithm, c.public); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
