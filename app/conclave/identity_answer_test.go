// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
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
