// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/crl"
)

// A browser is started with the address of the login and nothing else, and the answer is the
// query with which it comes back.
func TestVisit(t *testing.T) {
	folder := t.TempDir()
	asked := filepath.Join(folder, "asked")
	for _, name := range []string{"xdg-open", "open"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\necho \"$@\" >"+asked+".new && mv "+asked+".new "+asked+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back := "http://" + l.Addr().String()
	var out bytes.Buffer
	a := &answers{program: &program{out: &out, err: &out}, person: true, browser: true}
	visit := func(login string) (core.Input, error) {
		return a.answer(t.Context(), core.Need{Visit: &core.VisitNeed{URL: login, RedirectURI: back}})
	}
	const login = "https://idp.example/login?state=s&scope=openid"
	if _, err := visit(login); !errors.Is(err, core.ErrUnavailable) || !strings.Contains(hintOf(err), "--restart") {
		t.Errorf("the port is taken: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"file:///etc/passwd", "javascript:alert(1)", "-x", "::"} {
		if _, err := visit(bad); err == nil {
			t.Errorf("%s is visited", bad)
		}
	}
	if _, err := os.Stat(asked); err == nil || strings.Contains(out.String(), "log in") {
		t.Errorf("it was told of or opened: %s", out.String())
	}
	came := make(chan error, 1)
	go func() {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if text, err := os.ReadFile(asked); err == nil {
				if string(text) != login+"\n" {
					t.Errorf("the browser was given %q", text)
				}
				break
			} else if time.Now().After(end) {
				came <- err
				return
			}
		}
		reply, err := http.Get(back + "/?code=c&state=s")
		if err == nil {
			err = reply.Body.Close()
		}
		came <- err
	}()
	in, err := visit(login)
	if err := errors.Join(err, <-came); err != nil || in.RedirectQuery != "code=c&state=s" {
		t.Errorf("%+v, %v", in, err)
	}
	http.DefaultClient.CloseIdleConnections()
	a.person = false
	if _, err := visit(login); !errors.Is(err, messenger.ErrPerson) {
		t.Errorf("nobody is there: %v", err)
	}
}

// A proof that the backend refuses may be replaced; what is not there now is asked for again.
func TestAnswers(t *testing.T) {
	t.Parallel()
	var problem error
	a := &answers{program: &program{}, call: func(context.Context, core.CallNeed) ([]byte, error) { return []byte("x"), problem }}
	call := core.Need{Call: &core.CallNeed{Kind: "wire.access-token"}}
	if in, err := a.answer(t.Context(), call); err != nil || string(in.Result) != "x" {
		t.Errorf("%+v, %v", in, err)
	}
	problem = core.ErrDenied
	if in, err := a.answer(t.Context(), call); err != nil || in.Error == "" || in.Result != nil {
		t.Errorf("refused: %+v, %v", in, err)
	}
	problem = core.ErrUnavailable
	if _, err := a.answer(t.Context(), call); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("out of reach: %v", err)
	}
	if _, err := a.answer(t.Context(), core.Need{Wait: &core.WaitNeed{}}); err != nil {
		t.Errorf("no time at all: %v", err)
	}
	if _, err := a.answer(t.Context(), core.Need{Wait: &core.WaitNeed{After: time.Hour}}); !errors.Is(err, errLater) {
		t.Errorf("an hour: %v", err)
	}
	if _, err := a.answer(t.Context(), core.Need{Show: &core.ShowNeed{}}); !errors.Is(err, messenger.ErrPerson) {
		t.Errorf("a request: %v", err)
	}
}

// Each trouble with a certificate has something that a person can do.
func TestIdentityHints(t *testing.T) {
	t.Parallel()
	from := func(provider string, err error) error {
		return &core.ProviderError{Provider: provider, Op: "begin", Err: err}
	}
	for want, err := range map[string]error{
		"in issuer = right":              from("acme", core.ErrUnavailable),
		"backend that the ACME server":   from("backend", core.ErrUnavailable),
		"identity crl add URL FILE":      from("crl", core.ErrUnavailable),
		"is the delivery service":        from("other", core.ErrUnavailable),
		"crl_networks = ":                from("crl", crl.ErrNetwork),
		"a client id of Wire":            from("acme", e2ei.ErrClientID),
		"--handle alice_wire":            from("acme", e2ei.ErrHandle),
		"begin anew with the same":       &client.IssueRefusedError{Refusal: core.Refusal{Final: true}},
		"with the same key":              &client.IssueRefusedError{},
		"--restart":                      messenger.ErrOpen,
		"identity enroll --issuer URI":   messenger.ErrNobody,
		"makes a fresh key":              messenger.ErrCertified,
		"trust add FILE":                 e2ei.ErrNotReady,
		"no CA that you trust vouches":   e2ei.ErrNoPath,
		"a CA signed whom you trust":     e2ei.ErrCRLSignature,
		"is it the PEM of certificates,": e2ei.ErrCertificate,
	} {
		if got := hintOf(fmt.Errorf("enrolment: %w", err)); !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
