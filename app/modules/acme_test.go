// SPDX-License-Identifier: Apache-2.0

package modules_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
)

func parseACME(t *testing.T, uri string) (modules.ACME, error) {
	t.Helper()
	c := config.Default("/home")
	u, err := c.URI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return modules.ParseACME(c, u)
}

func TestACMEOptions(t *testing.T) {
	t.Parallel()
	a, err := parseACME(t, "acme:https://ca.example/acme/wire/directory?roots=r.pem&team=t&validity=240h&client_id=app&redirect=http://127.0.0.1:8765/&backend=https://backend.example/&token=bearer")
	if err != nil || a.Directory != "https://ca.example/acme/wire/directory" || a.AllowHTTP || a.Team != "t" || a.Validity != 240*time.Hour ||
		a.OAuthClientID != "app" || a.RedirectURI != "http://127.0.0.1:8765/" || a.Backend != "https://backend.example" || a.Token != "/home/bearer" || a.Roots != "/home/r.pem" {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := parseACME(t, "acme:http://127.0.0.1:14000/dir?http=loopback"); err != nil || !a.AllowHTTP {
		t.Errorf("on this machine: %+v, %v", a, err)
	}
	for _, bad := range []string{
		"acme:", "acme:ca.example/dir", "acme:ftp://ca.example/dir", "acme:https://me@ca.example/dir", "acme:https://ca.example/dir#x",
		"acme:http://127.0.0.1/dir", "acme:http://ca.example/dir?http=loopback", "acme:https://ca.example/dir?http=yes",
		"acme:https://ca.example/dir?teams=x", "acme:https://ca.example/dir?team=x&team=y", "acme:https://ca.example/dir?team=", "acme:https://ca.example/dir?team=%zz",
		"acme:https://ca.example/dir?validity=90", "acme:https://ca.example/dir?validity=-1h",
		"acme:https://ca.example/dir?redirect=https://127.0.0.1/", "acme:https://ca.example/dir?redirect=http://back.example/",
		"acme:https://ca.example/dir?backend=backend.example", "acme:https://ca.example/dir?backend=https://backend.example/path",
		"acme:https://ca.example/dir?token=bearer",
	} {
		if _, err := parseACME(t, bad); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Paths that a person gives begin where they are, not at the home folder.
func TestIssuerFrom(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"basic:":                             "basic:",
		"localca:ca.pem?key=ca.key":          "localca:///here/ca.pem?key=/here/ca.key",
		"localca:/ca.pem?lifetime=1h&key=/k": "localca:///ca.pem?lifetime=1h&key=/k",
		"localca:ca.pem?key=pkcs11:object=ca?module-path=/m": "localca:///here/ca.pem?key=pkcs11:object=ca?module-path=/m",
		"acme:https://ca.example/dir":                        "acme:https://ca.example/dir",
		"acme:https://ca.example/dir?roots=r.pem&team=t":     "acme:https://ca.example/dir?roots=%2Fhere%2Fr.pem&team=t",
	} {
		if got, err := modules.IssuerFrom("/here", text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, bad := range []string{"ca.pem", "localca:ca.pem", "acme:ca.example"} {
		if _, err := modules.IssuerFrom("/here", bad); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// The backend gets the token, and nobody else does.
func TestBackend(t *testing.T) {
	t.Parallel()
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Replay-Nonce", "nonce-of-"+r.Header.Get("Authorization"))
		_ = json.NewEncoder(w).Encode(map[string]string{"token": r.Header.Get("DPoP") + " " + r.Header.Get("Authorization")})
	}
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch {
		case r.Method == http.MethodHead && r.URL.Path == "/clients/1/nonce", r.Method == http.MethodPost && r.URL.Path == "/clients/1/access-token":
			answer(w, r)
		case r.URL.Path == "/refuse/access-token":
			http.Error(w, "no", http.StatusForbidden)
		case r.URL.Path == "/broken/access-token":
			http.Error(w, "no", http.StatusBadGateway)
		case r.URL.Path == "/elsewhere/access-token":
			http.Redirect(w, r, "/clients/1/access-token", http.StatusTemporaryRedirect)
		case r.URL.Path == "/long/access-token":
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
		case r.URL.Path == "/empty/access-token":
			_, _ = w.Write([]byte(`{"token":""}`))
		}
	}))
	defer server.Close()
	folder := t.TempDir()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, text := range map[string][]byte{"root.pem": root, "bearer": []byte("hunter2\n"), "none.pem": []byte("none")} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	call := func(options, kind, target string) (string, error) {
		t.Helper()
		c := config.Default(folder)
		c.Keystore, c.Key, c.Issuer = "memory:", "random:", "acme:https://ca.example/dir?"+options
		var caller modules.Caller
		var result []byte
		err := app.Run(t.Context(), app.New(c, fx.Populate(&caller)), func(ctx context.Context) (err error) {
			result, err = caller(ctx, core.CallNeed{Kind: kind, Args: map[string]string{"device": "1", "target": target, "proof": "proof"}})
			return err
		})
		return string(result), err
	}
	good, target := "roots=root.pem&token=bearer&backend="+server.URL, server.URL+"/clients/1/access-token"
	if got, err := call(good, "wire.nonce", target); err != nil || got != "nonce-of-Bearer hunter2" {
		t.Errorf("nonce %q, %v", got, err)
	}
	if got, err := call(good, "wire.access-token", target); err != nil || got != "proof Bearer hunter2" {
		t.Errorf("token %q, %v", got, err)
	}
	if got, err := call("roots=root.pem", "wire.access-token", target); err != nil || got != "proof " {
		t.Errorf("without a token of ours: %q, %v", got, err)
	}
	asked = 0
	for name, c := range map[string]struct {
		options, kind, target string
		want                  error
	}{
		"another backend":        {"roots=root.pem&token=bearer&backend=https://backend.example", "wire.nonce", target, core.ErrDenied},
		"without TLS":            {"roots=root.pem", "wire.nonce", strings.Replace(target, "https", "http", 1), core.ErrInvalid},
		"no address":             {"roots=root.pem", "wire.nonce", "::", core.ErrInvalid},
		"no nonce beside it":     {good, "wire.nonce", server.URL + "/clients/1", core.ErrUnsupported},
		"another need":           {good, "wire.other", target, core.ErrUnsupported},
		"a token that is not":    {"roots=root.pem&token=missing&backend=" + server.URL, "wire.nonce", target, core.ErrNotFound},
		"a root that is none":    {"roots=none.pem", "wire.nonce", target, core.ErrInvalid},
		"a root that is not":     {"roots=missing.pem", "wire.nonce", target, core.ErrNotFound},
		"a server nobody trusts": {"team=x", "wire.nonce", target, core.ErrUnavailable},
	} {
		if got, err := call(c.options, c.kind, c.target); !errors.Is(err, c.want) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if asked != 0 {
		t.Errorf("asked %d times", asked)
	}
	for path, want := range map[string]error{
		"refuse": core.ErrDenied, "broken": core.ErrUnavailable, "elsewhere": core.ErrDenied, "long": core.ErrTooLarge, "empty": core.ErrUnavailable,
	} {
		if got, err := call(good, "wire.access-token", server.URL+"/"+path+"/access-token"); !errors.Is(err, want) || got != "" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// What one process begins another one with the key of the CA goes on with; and a home can be
// used without the CA.
func TestCAOfSeveralProcesses(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	writeCA(t, folder, "ca")
	c := config.Default(folder)
	c.Keystore, c.Key, c.Issuer = "memory:", "random:", "localca:ca.pem?key=ca.key"
	use := func(f func(context.Context, core.CredentialIssuer) error) error {
		var issuer core.CredentialIssuer
		return app.Run(t.Context(), app.New(c, fx.Populate(&issuer)), func(ctx context.Context) error { return f(ctx, issuer) })
	}
	var begun core.Step
	err := use(func(ctx context.Context, i core.CredentialIssuer) (err error) {
		begun, err = i.Begin(ctx, core.IssueRequest{Action: core.ActionIssue, ClientID: "alice", Algorithm: core.Ed25519, PublicKey: make([]byte, 32)})
		return err
	})
	if err == nil {
		t.Error("a key of zeros is taken")
	}
	key := newSigner(t)
	err = use(func(ctx context.Context, i core.CredentialIssuer) (err error) {
		begun, err = i.Begin(ctx, core.IssueRequest{Action: core.ActionIssue, ClientID: "alice", Algorithm: key.Algorithm(), PublicKey: key.Public()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(t.Context(), begun.Need.Sign.Message)
	if err != nil {
		t.Fatal(err)
	}
	err = use(func(ctx context.Context, i core.CredentialIssuer) error {
		step, err := i.Advance(ctx, begun.State, core.Input{Signature: signature})
		if err == nil && step.Need.Done == nil {
			t.Errorf("%+v", step.Need)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	c.Issuer = "localca:none.pem?key=none.key"
	if err := use(func(context.Context, core.CredentialIssuer) error { return nil }); err != nil {
		t.Errorf("without the CA: %v", err)
	}
}
