// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/acme"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// An enrollee is somebody who enrols in a process that dies at the first point where none
// before it did.
type enrollee struct {
	Peer   []byte // for e2eitest.Join
	Person e2eitest.Person
	Renew  bool     // instead: the certificate that is there
	Died   []string // the points
}

// enrolled is what a process prints: where it is about to die, or how it ended.
type enrolled struct {
	Died  string
	Keys  [][]byte // of each credential
	Open  int
	State string
}

// enroll goes on where the processes before it were. A point is named by what was asked of us,
// what came then, and how many writes there were since.
func (p part) enroll(ctx context.Context) error {
	peer, err := e2eitest.Join(p.Enroll.Peer)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	asked, came, writes := "", "", 0
	pts := &points{}
	pts.at = func(event string) {
		if strings.HasSuffix(event, " write") {
			writes++
			event = fmt.Sprintf("%s %s, %d", came, event, writes)
		} else {
			came, writes = event, 0
		}
		if name := asked + ": " + event; !slices.Contains(p.Enroll.Died, name) {
			_ = out.Encode(enrolled{Died: name})
			die()
		}
	}
	var token *hsm.Token
	if p.Token != "" {
		if token, err = hsm.Open(ctx, hsm.Config{URI: p.Token}); err != nil {
			return err
		}
	}
	o, err := p.open(ctx, token, pts, accepting{})
	if err != nil {
		return err
	}
	web := *peer.HTTP
	web.Transport = mortalTransport{web.Transport, pts}
	issuer, err := acme.New(acme.Config{Directory: peer.Directory, RedirectURI: "http://127.0.0.1:1/callback", HTTP: &web, AllowHTTP: true})
	if err != nil {
		return err
	}
	answer := func(ctx context.Context, need core.Need) (core.Input, error) {
		switch {
		case need.Call != nil:
			asked = need.Call.Kind
		case need.Visit != nil:
			asked = "login"
		case need.Wait != nil:
			asked = "wait"
		}
		pts.pass("asked")
		in, err := peer.Answer(p.Enroll.Person)(ctx, need)
		pts.pass("answered")
		return in, err
	}
	for {
		own, err := o.Credentials(ctx, client.CredentialFilter{})
		if err != nil {
			return err
		}
		if len(own) > 1 || len(own) > 0 && !p.Enroll.Renew {
			break
		}
		// The backend takes a proof once: whoever dies with one again and again begins anew.
		var refused *client.IssueRefusedError
		died := len(slices.DeleteFunc(slices.Clone(p.Enroll.Died), func(point string) bool { return !strings.HasPrefix(point, "wire.access-token: ") }))
		if err := p.issue(ctx, o.Client, peer, issuer, answer); err != nil && (!errors.As(err, &refused) || refused.Final || died < 6) {
			return err
		}
	}
	pts.at = nil
	end, err := p.enrolled(ctx, o.Client)
	return errors.Join(err, o.close(), out.Encode(end))
}

// issue begins where nothing is open.
func (p part) issue(ctx context.Context, c *client.Client, peer *e2eitest.Peer, issuer core.CredentialIssuer, answer func(context.Context, core.Need) (core.Input, error)) error {
	open, err := c.OpenIssues(ctx)
	if err != nil {
		return err
	}
	if len(open) == 0 {
		who := p.Enroll.Person
		params := client.IssueParams{Suite: p.Suite, ClientID: who.ClientID.Core(), Handle: who.Handle, DisplayName: who.DisplayName}
		if p.Enroll.Renew {
			params.Action, params.Credential = core.ActionRenew, 1
		}
		var h client.EnrollmentHandle
		if err := c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			if err := tx.RegisterTrustAnchor(ctx, []byte(peer.RootPEM)); err != nil && !errors.Is(err, e2ei.ErrRegistered) {
				return err
			}
			var err error
			h, err = tx.BeginIssue(ctx, params)
			return err
		}); err != nil {
			return err
		}
		open = append(open, client.OpenIssue{Handle: h})
	}
	_, err = c.Issue(ctx, open[0].Handle, issuer, answer)
	return err
}

// enrolled looks at what was stored, and uses the key.
func (p part) enrolled(ctx context.Context, c *client.Client) (e enrolled, err error) {
	own, err := c.Credentials(ctx, client.CredentialFilter{Type: core.CredentialX509})
	if err != nil {
		return e, err
	}
	for _, o := range own {
		e.Keys = append(e.Keys, o.SignatureKey)
	}
	open, err := c.OpenIssues(ctx)
	if err != nil {
		return e, err
	}
	e.Open = len(open)
	chat := core.ConversationID(fmt.Sprintf("chat %d", len(own)))
	if err := c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: p.Suite, Credential: core.CredentialX509})
		return err
	}); err != nil {
		return e, err
	}
	if err := c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		conversation, err := tx.Conversation(ctx, chat)
		if err == nil {
			_, err = conversation.UpdateKeyMaterial(ctx)
		}
		return err
	}); err != nil {
		return e, err
	}
	state, err := c.View(chat).E2EIState(ctx)
	e.State = state.String()
	return e, err
}

// mortalTransport has a point after each answer of a server.
type mortalTransport struct {
	http.RoundTripper
	points *points
}

func (m mortalTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	reply, err := m.RoundTripper.RoundTrip(r)
	if err == nil {
		elem := strings.Split(r.URL.Path, "/")
		what := r.Method + " " + strings.Join(elem[:min(len(elem), 4)], "/")
		if elem[len(elem)-1] == "finalize" {
			what += "/finalize"
		}
		m.points.pass(what)
	}
	return reply, err
}

// TestEnrollmentKilled: a client that enrols at a real server is killed at each point in turn,
// and goes on; then one renews, in the same way. Each ends with one credential more. There is
// one key, and it signs.
func TestEnrollmentKilled(t *testing.T) {
	for _, kind := range []string{"memory", "softhsm"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			peer := e2eitest.Start(t)
			p := part{
				Store: filepath.Join(t.TempDir(), "store"), Suite: core.SuiteP256AES128P256,
				Enroll: &enrollee{Peer: peer.Info(), Person: peer.Person(t)},
			}
			var k *softhsmtest.Token
			if kind == "softhsm" {
				k = softhsmtest.New(t)
				p.Token = k.URI()
			}
			end := p.enrolls(t, 1, append(slices.Clone(stepsOfEnrollment), "login: asked", "login: POST /token after a write, 2", "wait: POST /acme/wire/challenge"))
			if k == nil { // a renewal makes no key
				p.Enroll.Renew, p.Enroll.Died = true, nil
				if end := p.enrolls(t, 2, stepsOfEnrollment); !bytes.Equal(end.Keys[0], end.Keys[1]) {
					t.Errorf("the renewal has another key: %x", end.Keys)
				}
				return
			}
			m := &mortality{t, k, login(t, k)}
			if got := m.publicKeys(); len(got) != 1 || got[0] != fmt.Sprintf("%x", end.Keys[0]) || len(m.bare.ids(t, pkcs11.CKO_PRIVATE_KEY)) != 1 {
				t.Errorf("the token holds %q, the store names %x", got, end.Keys[0])
			}
		})
	}
}

// stepsOfEnrollment are points where, among others, a process has to have died.
var stepsOfEnrollment = []string{
	": POST /acme/wire/new-account", ": POST /acme/wire/new-order", ": POST /acme/wire/authz", ": POST /acme/wire/authz after a write, 2",
	"wire.nonce: answered", "wire.nonce: answered after a write, 2",
	"wire.access-token: asked", "wire.access-token: answered", "wire.access-token: POST /acme/wire/challenge",
	"wait: POST /acme/wire/order", "wait: POST /acme/wire/order before a write, 1", "wait: POST /acme/wire/order after a write, 2",
	": POST /acme/wire/order/finalize", ": POST /acme/wire/certificate",
	": POST /acme/wire/certificate before a write, 1", ": POST /acme/wire/certificate after a write, 2",
}

// enrolls runs processes until one comes to its end.
func (p part) enrolls(t *testing.T, credentials int, points []string) (end enrolled) {
	t.Helper()
	for {
		if end = p.enrollsOnce(t); end.Died == "" {
			break
		}
		if p.Enroll.Died = append(p.Enroll.Died, end.Died); len(p.Enroll.Died) > 200 {
			t.Fatalf("it has no end: %q", p.Enroll.Died)
		}
	}
	for _, point := range points {
		if !slices.Contains(p.Enroll.Died, point) {
			t.Errorf("no process died at %q: %q", point, p.Enroll.Died)
		}
	}
	if len(end.Keys) != credentials || end.Open != 0 || end.State != e2ei.Verified.String() {
		t.Fatalf("it ended with %+v", end)
	}
	return end
}

// enrollsOnce runs one process.
func (p part) enrollsOnce(t *testing.T) (e enrolled) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), asMember+"="+string(text))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if read := json.Unmarshal(stdout.Bytes(), &e); read != nil {
		t.Fatalf("%v, %v: %s\n%s", err, read, stdout.Bytes(), stderr.Bytes())
	}
	var exit *exec.ExitError
	killed := ctx.Err() == nil && errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if killed != (e.Died != "") || !killed && err != nil {
		t.Fatalf("%+v, %v\n%s", e, err, stderr.Bytes())
	}
	return e
}
