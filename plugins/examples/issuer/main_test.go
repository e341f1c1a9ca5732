// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/plugins/host"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// TestMain is also the plugin of the tests, which is this program again.
func TestMain(m *testing.M) {
	if os.Getenv("FOLDER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// program is a copy of this one, as who built it may have let a group write to it.
func program(t testing.TB) string {
	t.Helper()
	folder := t.TempDir()
	path, err := os.Executable()
	must(t, err)
	code, err := os.ReadFile(path)
	must(t, err)
	path = filepath.Join(folder, "conclave-plugin-issuer")
	must(t, errors.Join(os.Chmod(folder, 0o700), os.WriteFile(path, code, 0o700)))
	return path
}

// launch starts the plugin with a CA in a folder.
func launch(t testing.TB, folder string, env ...string) *host.Plugin {
	t.Helper()
	p, err := host.Launch(t.Context(), host.Config{
		Name: "issuer", Path: program(t), Unpinned: true, Env: append(env, "FOLDER="+folder),
		Logger: slog.New(slog.DiscardHandler), Backoff: time.Millisecond, Restarts: 1000,
	})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func issuerOf(t testing.TB, p *host.Plugin) core.CredentialIssuer {
	t.Helper()
	i, err := p.Issuer("")
	must(t, err)
	return i
}

// The suite, in this process and behind plugins: where it opens the issuer anew, an enrolment
// goes on in another process than it began in.
func TestIssuer(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	coretest.TestCredentialIssuer(t, func(t *testing.T) core.CredentialIssuer {
		i, err := open(folder, "", "")
		must(t, err)
		return i
	})
}

func TestIssuerBehindPlugin(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := launch(t, folder)
	coretest.TestCredentialIssuer(t, func(t *testing.T) core.CredentialIssuer {
		if strings.HasSuffix(t.Name(), "restart") {
			return issuerOf(t, launch(t, folder))
		}
		return issuerOf(t, p)
	})
}

// Clients of ours are issued credentials, though the plugin is killed in between; another is
// refused for good. All trust ca.pem.
func TestClient(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := launch(t, folder, "SUFFIX=@corp.example", "LIFETIME=1h")
	issuer := issuerOf(t, p)
	anchor, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	must(t, err)
	suite := core.SuiteX25519AES128Ed25519
	service := clienttest.NewService(clienttest.Options{})
	unavailable := 0
	issue := func(id core.ClientID) (*clienttest.Device, error) {
		d := clienttest.NewDevice(t, service, id, memory.New(), client.Config{
			Suites: pure.New(), Keys: pure.New(), Authenticator: e2ei.Authenticator{Identify: e2ei.ClientOf},
		})
		d.Identify(t, suite)
		var h client.EnrollmentHandle
		must(t, d.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
			if err := tx.RegisterTrustAnchor(ctx, anchor); err != nil {
				return err
			}
			h, err = tx.BeginIssue(ctx, client.IssueParams{Suite: suite})
			return err
		}))
		p.Kill()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			_, err := d.Issue(t.Context(), h, issuer, nil)
			if !errors.Is(err, core.ErrUnavailable) || time.Now().After(end) {
				return d, err
			}
			unavailable++
		}
	}
	alice, err := issue("alice@corp.example")
	must(t, err)
	bob, err := issue("bob@corp.example")
	must(t, err)
	alice.New = client.ConversationConfig{Suite: suite, Credential: core.CredentialX509}
	clienttest.Group(t, "tea", alice, bob)
	alice.Say(t, "tea", "Tea is ready.")
	if texts := bob.Hear(t, "tea"); len(texts) != 1 {
		t.Errorf("bob heard %q", texts)
	}
	own, err := alice.Credential(t.Context(), "tea")
	must(t, err)
	leaf, err := x509.ParseCertificate(own.Credential.Certificates[0])
	must(t, err)
	if long := time.Until(leaf.NotAfter); long > time.Hour {
		t.Errorf("a certificate for %v", long)
	}
	if unavailable == 0 {
		t.Error("nobody has noticed that the plugin was killed")
	}
	_, err = issue("mallory@elsewhere.example")
	if refused := (*client.IssueRefusedError)(nil); !errors.As(err, &refused) || !refused.Final {
		t.Errorf("one who is not ours: %v", err)
	}
}

// Whoever has the id of a client of Wire's gets no handle and no name of somebody else.
func TestNoNames(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	ca, err := open(t.TempDir(), "", "")
	must(t, err)
	step, err := ca.Begin(t.Context(), core.IssueRequest{
		Action: core.ActionIssue, ClientID: "ffffffff-5c01-422f-baa1-d75546b92aa7:1@example.com", Handle: "boss", Display: "The Boss",
		Algorithm: core.Ed25519, PublicKey: public,
	})
	must(t, err)
	step, err = ca.Advance(t.Context(), step.State, core.Input{Signature: ed25519.Sign(private, step.Need.Sign.Message)})
	must(t, err)
	if der := step.Need.Done.Credential.Certificates[0]; bytes.Contains(bytes.ToLower(der), []byte("boss")) {
		t.Errorf("the certificate has a name: %q", der)
	}
}

// The CA is made once, and what is wrong with one that is there is an error that changes
// nothing.
func TestCA(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	certFile, keyFile := filepath.Join(folder, "ca.pem"), filepath.Join(folder, "ca.key")
	read := func(file string) []byte {
		t.Helper()
		text, err := os.ReadFile(file)
		must(t, err)
		return text
	}
	_, err := open(folder, "", "")
	must(t, err)
	cert, key := read(certFile), read(keyFile)
	_, err = open(folder, "", "720h")
	must(t, err)
	if !bytes.Equal(read(certFile), cert) || !bytes.Equal(read(keyFile), key) {
		t.Error("the CA was made again")
	}
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v (%v)", info.Mode(), err)
	}
	must(t, os.Remove(certFile)) // as if it had been killed on the way
	_, err = open(folder, "", "")
	must(t, err)
	if !bytes.Equal(read(keyFile), key) {
		t.Error("the key was made again")
	}
	cert = read(certFile)

	other := t.TempDir()
	_, err = open(other, "", "")
	must(t, err)
	// A state is known by who has the key of the CA, and by nobody else.
	public, _, err := ed25519.GenerateKey(nil)
	must(t, err)
	for name, known := range map[string]bool{folder: true, other: false} {
		ca, err := open(folder, "", "")
		must(t, err)
		step, err := ca.Begin(t.Context(), core.IssueRequest{Action: core.ActionIssue, ClientID: "alice", Algorithm: core.Ed25519, PublicKey: public})
		must(t, err)
		ca, err = open(name, "", "")
		must(t, err)
		step, err = ca.Advance(t.Context(), step.State, core.Input{Error: "nobody at home"})
		if r := step.Need.Refused; err != nil || r == nil || (r.Reason == "nobody at home") != known {
			t.Errorf("known: %v, %+v, %v", known, r, err)
		}
	}

	agreement := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("no key")})
	for name, c := range map[string]struct {
		cert, key []byte
		mode      os.FileMode
		lifetime  string
	}{
		"no key":                {cert, nil, 0, ""},
		"another key":           {cert, read(filepath.Join(other, "ca.key")), 0o600, ""},
		"no PEM":                {cert, []byte("nonsense"), 0o600, ""},
		"no key in it":          {cert, agreement, 0o600, ""},
		"a key of all":          {cert, key, 0o644, ""},
		"no certificate in it":  {[]byte("nonsense"), key, 0o600, ""},
		"an impossible time":    {cert, key, 0o600, "-1h"},
		"something for a time":  {cert, key, 0o600, "soon"},
		"no time at all":        {cert, key, 0o600, "0s"},
		"a certificate without": {agreement, key, 0o600, ""},
	} {
		folder := t.TempDir()
		must(t, os.WriteFile(filepath.Join(folder, "ca.pem"), c.cert, 0o600))
		if c.key != nil {
			must(t, os.WriteFile(filepath.Join(folder, "ca.key"), c.key, c.mode))
		}
		if i, err := open(folder, "", c.lifetime); err == nil {
			t.Errorf("%s: %v", name, i)
		}
		if entries, err := os.ReadDir(folder); err != nil || len(entries) > 2 || c.key == nil && len(entries) > 1 {
			t.Errorf("%s: %v, %v", name, entries, err)
		}
	}
}
