// SPDX-License-Identifier: Apache-2.0

package postgres_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
)

// authority makes a CA and a certificate of it for a server, as PEM.
func authority(t *testing.T, hosts ...string) (ca, cert, key []byte) {
	t.Helper()
	make := func(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			parent, by = template, key
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return key, der
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootKey, rootDER := make(root, nil, nil)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2)}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, h)
		}
	}
	leafKey, leafDER := make(leaf, root, rootKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return block("CERTIFICATE", rootDER), block("CERTIFICATE", leafDER), block("PRIVATE KEY", keyDER)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, cert, key := authority(t, "127.0.0.1")
	other, _, _ := authority(t, "127.0.0.1")
	s := pgtest.Start(t)
	exec(t, connect(t, s.AdminDSN()), "ALTER SYSTEM SET ssl_cert_file = '"+s.WriteFile(t, "cert.pem", cert)+"'")
	exec(t, connect(t, s.AdminDSN()), "ALTER SYSTEM SET ssl_key_file = '"+s.WriteFile(t, "key.pem", key)+"'")
	exec(t, connect(t, s.AdminDSN()), "ALTER SYSTEM SET ssl = on")
	s.Restart(t)
	folder := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return url.QueryEscape(path)
	}
	ours, theirs := file("ca.pem", ca), file("other.pem", other)

	store := open(t, s.TCP("sslmode=verify-full&sslrootcert="+ours))
	put(t, store, "a", "1")
	var n int
	if err := connect(t, s.AdminDSN()).QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND usename = 'conclave'").Scan(&n); err != nil || n == 0 {
		t.Errorf("%d connections have TLS, %v", n, err)
	}
	refused(t, "another CA", s.TCP("sslmode=verify-full&sslrootcert="+theirs), core.ErrDenied)
	refused(t, "another CA, and no name", s.TCP("sslmode=verify-ca&sslrootcert="+theirs), core.ErrDenied)
	refused(t, "another name", strings.Replace(s.TCP("sslmode=verify-full&sslrootcert="+ours), "127.0.0.1", "localhost", 1), core.ErrDenied)
	refused(t, "the name does not count", strings.Replace(s.TCP("sslmode=verify-ca&sslrootcert="+ours), "127.0.0.1", "localhost", 1), nil)
	refused(t, "a CA that is not there", s.TCP("sslmode=verify-full&sslrootcert=/nowhere"), core.ErrInvalid)
}
