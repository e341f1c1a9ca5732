// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
)

// A desk is where a person sits: a home, and a browser that logs in when a command says where.
type desk struct {
	t       *testing.T
	peer    *e2eitest.Peer
	person  e2eitest.Person
	home    string
	service string
	issuer  string
	visits  int
}

// desks are those of people whom the peer knows, and a delivery service.
func desks(t *testing.T, n int) (all []*desk) {
	t.Helper()
	peer := e2eitest.Start(t)
	folder, err := os.MkdirTemp("", "desks") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	service := "unix:" + filepath.Join(folder, "s")
	ctx, stop := context.WithCancel(t.Context())
	started, served := &lines{until: "delivery service at", came: make(chan string, 1)}, make(chan int, 1)
	go func() {
		served <- run(ctx, []string{"delivery", "--home", filepath.Join(folder, "d"), "--listen", service, "--store", "memory:"}, strings.NewReader(""), started, started)
	}()
	t.Cleanup(func() {
		stop()
		if code := <-served; code != 0 {
			t.Errorf("delivery service: %d: %s", code, started.String())
		}
	})
	<-started.came
	root := filepath.Join(folder, "root.pem")
	if err := os.WriteFile(root, []byte(peer.RootPEM), 0o600); err != nil {
		t.Fatal(err)
	}
	for range n {
		p := peer.Person(t)
		all = append(all, &desk{
			t: t, peer: peer, person: p, home: filepath.Join(folder, p.Handle), service: service,
			issuer: "acme:" + peer.Directory + "?" + url.Values{
				"roots": {root}, "http": {"loopback"}, "team": {p.Team}, "validity": {"240h"}, "backend": {peer.Wire},
			}.Encode(),
		})
	}
	return all
}

func (d *desk) root() string { return filepath.Join(filepath.Dir(d.home), "root.pem") }

// lines is an output in which a line is waited for.
type lines struct {
	mu    sync.Mutex
	text  bytes.Buffer
	until string
	came  chan string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, _ := l.text.Write(b)
	if strings.Contains(string(b), l.until) {
		select {
		case l.came <- string(b):
		default:
		}
	}
	return n, nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// logIn does what the person does at the address that a command has printed.
func (d *desk) logIn(line string) error {
	var visit struct{ Visit, Redirect string }
	if err := json.Unmarshal([]byte(line), &visit); err != nil {
		return err
	}
	query, err := d.peer.Login(d.t.Context(), visit.Visit, d.person.Handle)
	if err != nil {
		return err
	}
	// Any page may send a browser to that address.
	for address, want := range map[string]int{
		visit.Redirect + "?code=x&state=y": http.StatusBadRequest, visit.Redirect + "elsewhere?" + query: http.StatusBadRequest,
	} {
		if got, err := http.Get(address); err != nil || got.StatusCode != want {
			d.t.Errorf("%s: %v, %v", address, got, err)
		} else {
			_ = got.Body.Close()
		}
	}
	reply, err := http.Get(visit.Redirect + "?" + query)
	if err == nil {
		err = reply.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	return err
}

// do runs a command with --json and gives what it prints, line by line.
func (d *desk) do(args ...string) (out []map[string]any, stderr string, code int) {
	d.t.Helper()
	stdout, stderrs := &lines{until: `{"visit":`, came: make(chan string, 1)}, &lines{until: "\x00"}
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"--home", d.home, "--json"}, args...), strings.NewReader(""), stdout, stderrs)
	}()
	for code = -1; code < 0; {
		select {
		case line := <-stdout.came:
			d.visits++
			if err := d.logIn(line); err != nil {
				d.t.Fatalf("%q: %v", args, err)
			}
		case code = <-done:
		}
	}
	for line := range strings.Lines(stdout.String()) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			d.t.Fatalf("%q printed %q: %v", args, line, err)
		}
		out = append(out, v)
	}
	return out, stderrs.String(), code
}

// must is do for what goes well.
func (d *desk) must(args ...string) []map[string]any {
	d.t.Helper()
	out, stderr, code := d.do(args...)
	if code != 0 {
		d.t.Fatalf("%q: %d: %s", args, code, stderr)
	}
	return out
}

func (d *desk) id() string { return string(d.person.ClientID.Core()) }

func (d *desk) init() []map[string]any {
	d.t.Helper()
	defer func() { // the peer's lists are on this machine
		file, err := os.OpenFile(filepath.Join(d.home, configName), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteString("crl_networks = \"127.0.0.0/8\"\n")
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			d.t.Error(err)
		}
	}()
	return d.must("init", d.id(), "--delivery", d.service, "--issuer", d.issuer, "--trust", d.root(),
		"--handle", d.person.Handle, "--name", d.person.DisplayName, "--no-browser")
}

// verdicts is what a member is told of the others.
func (d *desk) verdict() (state string, by map[string]string) {
	d.t.Helper()
	v := d.must("chat", "members", "friends")[0]
	by = map[string]string{}
	for _, i := range v["identities"].([]any) {
		m := i.(map[string]any)
		by[m["client_id"].(string)], _ = m["status"].(string)
		if m["display_name"] != d.person.DisplayName || !strings.HasPrefix(m["handle"].(string), "alice_") {
			d.t.Errorf("member %v", m)
		}
	}
	return v["verified"].(string), by
}

// The life of two people at a real CA: they enrol with logins, see each other verified, one
// renews without a login, one is revoked and comes back.
func TestIdentityLife(t *testing.T) {
	all := desks(t, 2)
	alice, bob := all[0], all[1]
	for _, d := range all {
		d.init()
		if d.visits != 1 {
			t.Errorf("%d logins", d.visits)
		}
	}
	alice.must("chat", "create", "friends")
	alice.must("chat", "add", "friends", bob.id())
	see := func(d *desk, state, alices, bobs string) {
		t.Helper()
		got, by := d.verdict()
		if got != state || by[alice.id()] != alices || by[bob.id()] != bobs {
			t.Errorf("%s, %v; want %s, %s, %s", got, by, state, alices, bobs)
		}
	}
	see(alice, "verified", "valid", "valid")
	see(bob, "verified", "valid", "valid")

	// Nothing is due; then it is, and nobody has to log in. The list is fetched.
	if out := alice.must("identity", "check"); out[len(out)-1]["done"] != "checked" {
		t.Errorf("check: %v", out)
	}
	if out := alice.must("identity", "check", "--within", "4000h"); out[0]["done"] != "renewed" || out[1]["done"] != "rotated" {
		t.Errorf("check: %v", out)
	}
	if alice.visits != 1 {
		t.Errorf("%d logins to renew", alice.visits)
	}
	see(bob, "verified", "valid", "valid")
	trust := 0.0
	for _, v := range alice.must("identity", "status") {
		if n, ok := v["lists"].(float64); ok {
			trust = n
		}
	}
	if trust != 1 {
		t.Errorf("%v lists after check", trust)
	}

	// Bob's certificate is revoked by its key: all who fetch the list see it.
	serial := ""
	for _, v := range bob.must("identity", "status") {
		if v["newest"] == true {
			serial = v["serial"].(string)
		}
	}
	if out := bob.must("identity", "revoke", serial); out[0]["done"] != "revoked" {
		t.Errorf("revoke: %v", out)
	}
	if out := alice.must("identity", "crl", "add", alice.peer.CRL); out[0]["done"] != "list added" || out[0]["changed"] != true {
		t.Errorf("crl add: %v", out)
	}
	see(alice, "not verified", "valid", "revoked")
	if _, stderr, code := bob.do("identity", "check"); code != 1 || !strings.Contains(stderr, "identity enroll") {
		t.Errorf("check: %d: %s", code, stderr)
	}
	// With another key and certificate all is well again. The names are those of before.
	if out := bob.must("identity", "enroll", "--no-browser"); out[len(out)-1]["done"] != "rotated" {
		t.Errorf("enroll: %v", out)
	}
	see(alice, "verified", "valid", "valid")
	see(bob, "verified", "valid", "valid")
	bob.must("chat", "send", "friends", "here again")
	if out := alice.must("chat", "read", "friends"); out[len(out)-1]["text"] != "here again" {
		t.Errorf("read: %v", out)
	}
}

// Killed while it waits for the login, an enrolment goes on with the same one, also if that
// has ended in a browser elsewhere.
func TestEnrollKilled(t *testing.T) {
	d := desks(t, 1)[0]
	args := []string{"--home", d.home, "--json", "init", d.id(), "--delivery", d.service, "--issuer", d.issuer, "--trust", d.root(),
		"--handle", d.person.Handle, "--name", d.person.DisplayName, "--no-browser"}
	cmd := real(t.Context(), t, args...)
	out := &lines{until: `{"visit":`, came: make(chan string, 1)}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var first string
	select {
	case first = <-out.came:
	case err := <-ended:
		t.Fatalf("%v: %s", err, out.String())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if v := d.must("identity", "status"); v[0]["waits"] != "for a login" || !strings.Contains(v[0]["do"].(string), " init ") {
		t.Errorf("status: %v", v)
	}
	var visit struct{ Visit, Redirect string }
	if err := json.Unmarshal([]byte(first), &visit); err != nil {
		t.Fatal(err)
	}
	again := args[3:]
	if _, stderr, code := d.do(append(again, "--redirected", visit.Redirect+"?code=x&state=y")...); code != 1 || !strings.Contains(stderr, "not the address at which this login ended") {
		t.Errorf("another login: %d: %s", code, stderr)
	}
	query, err := d.peer.Login(t.Context(), visit.Visit, d.person.Handle)
	if err != nil {
		t.Fatal(err)
	}
	if out := d.must(append(again, "--redirected", visit.Redirect+"?"+query)...); len(out) != 2 || out[1]["id"] != d.id() || d.visits != 0 {
		t.Errorf("init again: %v", out)
	}
	if v := d.must("identity", "status"); v[0]["status"] != "valid" {
		t.Errorf("status: %v", v)
	}
}
