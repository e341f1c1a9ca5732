// SPDX-License-Identifier: Apache-2.0

// Package e2eitest is the other side of an enrolment, for tests: a real step-ca with Wire's
// two challenges, an identity provider and a stand-in for Wire's backend, all on loopback.
// [Start] gives it, [Peer.Person] somebody whom all of them know. A [Session] leads an
// enrolment of the engine to its end; [Peer.Answer] is what an application does for an issuer
// that drives the enrolment itself, and [Peer.Strangers] has that pass the suite of coretest. [Checks] is all that is asked of the engine at such a server,
// with the keys of the caller.
package e2eitest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// stepCA is what make ca calls it.
const stepCA = "step-ca-v0.30.2"

// A Peer is where a real step-ca, its identity provider and its backend are. It is safe for
// concurrent use.
type Peer struct {
	Directory       string `json:"directory"` // of ACME
	RootPEM         string `json:"root_pem"`
	IntermediatePEM string `json:"intermediate_pem"`
	CRL             string `json:"crl"`        // the distribution point of what it issues
	Federation      string `json:"federation"` // where step-ca says which roots it knows
	OIDCClientID    string `json:"oidc_client_id"`
	Wire            string `json:"wire"` // the backend, without a slash at its end
	Domain          string `json:"domain"`

	// HTTP trusts the root and follows no redirects.
	HTTP *http.Client `json:"-"`

	tokens sync.Map // of the backend, by proof; see Strangers
}

// The one process of this test binary. It stops when its standard input closes: that is when
// the tests end, however they do.
var running struct {
	sync.Mutex
	info  []byte // JSON
	stdin io.WriteCloser
	log   *os.File
}

// Start gives the peer of this test binary, which the first call starts. Without the shared
// test data or the programs of make ca, coretest says what becomes of the test. What the
// peer wrote meanwhile is logged if the test fails.
func Start(t testing.TB) *Peer {
	t.Helper()
	coretest.Shared(t, "e2ei-peer")
	bin := peers(t)
	for _, program := range []string{"e2ei-peer", stepCA} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			coretest.Lacking(t, "no "+program+": make ca")
		}
	}
	running.Lock()
	defer running.Unlock()
	if running.info == nil {
		if err := start(filepath.Join(bin, "e2ei-peer"), filepath.Join(bin, stepCA)); err != nil {
			t.Fatal(err)
		}
	}
	begin, err := running.log.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := io.ReadAll(io.NewSectionReader(running.log, begin, 1<<16))
			t.Logf("the peer meanwhile:\n%s", text)
		}
	})
	p, err := Join(running.info)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.HTTP.CloseIdleConnections)
	return p
}

// peers is bin/peers of the module.
func peers(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "bin", "peers")
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("not within the module")
		}
		dir = filepath.Dir(dir)
	}
}

// start keeps the log in a file without a name: a pipe would need a goroutine, which those
// who look for forgotten ones would find.
func start(program, ca string) (err error) {
	cmd := exec.Command(program, "-step-ca", ca)
	if running.log == nil {
		if running.log, err = os.CreateTemp("", "e2ei-peer-log-"); err != nil {
			return err
		}
		if err := os.Remove(running.log.Name()); err != nil {
			return err
		}
	}
	cmd.Stderr = running.log
	if running.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdout.Close()
	// It has both ends: if we die before it has said where it is, that must not kill it, for it
	// still has to stop the CA.
	cmd.Stdout, cmd.ExtraFiles = theirs, []*os.File{stdout}
	err = cmd.Start()
	if err := errors.Join(err, theirs.Close()); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		_ = running.stdin.Close()
		text, _ := io.ReadAll(io.NewSectionReader(running.log, 0, 1<<20))
		return fmt.Errorf("peer: %w, %v\n%s", err, cmd.Wait(), text)
	}
	running.info = line
	return nil
}

// Info is the peer for [Join], as text in one line.
func (p *Peer) Info() []byte {
	info, err := json.Marshal(p)
	if err != nil {
		panic(err) // of strings alone
	}
	return info
}

// Join gives the peer that another process has started.
func Join(info []byte) (*Peer, error) {
	p := &Peer{}
	if err := json.Unmarshal(info, p); err != nil {
		return nil, fmt.Errorf("peer %.80q: %w", info, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(p.RootPEM)) {
		return nil, fmt.Errorf("peer %.80q: no root", info)
	}
	p.HTTP = &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
	return p, nil
}

// A Person is somebody with one device.
type Person struct {
	ClientID    e2ei.ClientID
	Handle      string // bare; also the login at the identity provider
	DisplayName string
	Team        string
}

// Person makes somebody and tells the backend and the identity provider.
func (p *Peer) Person(t testing.TB) Person {
	t.Helper()
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	who := Person{
		ClientID: e2ei.ClientID{User: [16]byte(b[:16]), Device: 0xa<<60 | uint64(b[16])<<16 | uint64(b[17])<<8 | uint64(b[18]), Domain: p.Domain},
		Handle:   "alice_" + hex.EncodeToString(b[18:]), DisplayName: `Alice "Ally" Smith & Söhne`, Team: "wire",
	}
	if err := p.Register(t.Context(), who); err != nil {
		t.Fatal(err)
	}
	return who
}

// Register tells the backend and the identity provider of somebody, in place of whom they
// knew by that handle or device.
func (p *Peer) Register(ctx context.Context, who Person) error {
	user, err := json.Marshal(map[string]any{
		"user_b64": base64.RawURLEncoding.EncodeToString(who.ClientID.User[:]), "handle": who.Handle, "name": who.DisplayName,
		"team": who.Team, "devices": []string{who.ClientID.DeviceID()},
	})
	if err != nil {
		return err
	}
	_, _, err = p.Do(ctx, http.MethodPost, p.Wire+"/_test/users", user, "Content-Type", "application/json")
	return err
}

// Do returns the reply of a success, and the problem otherwise. The header is given as names
// and values.
func (p *Peer) Do(ctx context.Context, method, address string, body []byte, header ...string) ([]byte, http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	reply, err := p.HTTP.Do(request)
	if err != nil {
		return nil, nil, err
	}
	text, err := io.ReadAll(io.LimitReader(reply.Body, e2ei.MaxReply+1))
	if err := errors.Join(err, reply.Body.Close()); err != nil {
		return nil, nil, err
	}
	if reply.StatusCode >= 400 {
		return text, reply.Header, e2ei.ParseProblem(reply.StatusCode, text)
	}
	return text, reply.Header, nil
}

// FetchCRL gives the revocation list as it is now, in DER.
func (p *Peer) FetchCRL(t testing.TB) []byte {
	t.Helper()
	der, _, err := p.Do(t.Context(), http.MethodGet, p.CRL, nil)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Environment trusts the peer's root and nothing else. Intermediates come with each chain.
func (p *Peer) Environment(t testing.TB, at time.Time) *e2ei.Environment {
	t.Helper()
	root, err := e2ei.ParsePEM([]byte(p.RootPEM))
	if err != nil {
		t.Fatal(err)
	}
	environment, _, err := (*e2ei.Environment)(nil).AddAnchor(root[0], at)
	if err != nil {
		t.Fatal(err)
	}
	return environment
}
