// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A watched store counts what is applied, and fails on demand.
type watched struct {
	core.Keystore
	applied atomic.Int64
	fail    atomic.Pointer[error] // instead of applying
	late    atomic.Pointer[error] // after applying
}

func (w *watched) Apply(ctx context.Context, b core.Batch) error {
	if err := w.fail.Swap(nil); err != nil {
		return *err
	}
	if err := w.Keystore.Apply(ctx, b); err != nil {
		return err
	}
	w.applied.Add(1)
	if err := w.late.Swap(nil); err != nil {
		return *err
	}
	return nil
}

// Commit, Welcome, GroupInfo and roster are one batch: nothing can come between.
func TestPublishedTogether(t *testing.T) {
	store := &watched{Keystore: memory.New()}
	address, _ := serve(t, store, delivery.Options{})
	alice, bob := person(t, address, "alice"), person(t, address, "bob")
	c := client.CommitBundle{
		Commit: private(group, 0, commit, "add"), Welcome: []byte("welcome"), GroupInfo: []byte("info"), Added: []core.ClientID{"bob"},
	}
	published := func() (n int) {
		t.Helper()
		n = len(drain(t, alice, group))
		w, err := bob.Welcomes(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		n += len(w)
		if _, err := bob.GroupInfo(t.Context(), group); err == nil {
			n++
		}
		if _, err := bob.Log(t.Context(), group, 0); err == nil {
			n++
		}
		return n
	}
	for _, err := range []error{core.ErrUnavailable, core.ErrUnknownOutcome} {
		store.fail.Store(&err)
		answer, got := alice.SubmitCommit(t.Context(), c)
		if answer.Kind != 0 || !errors.Is(got, err) {
			t.Errorf("a store that fails: %v, %v", answer.Kind, got)
		}
		if n := published(); n != 0 {
			t.Fatalf("nothing was applied, but %d of 4 parts are published", n)
		}
	}
	// Applied, but the store could not say so: the same bytes find out.
	store.late.Store(&core.ErrUnknownOutcome)
	before := store.applied.Load()
	if answer, err := alice.SubmitCommit(t.Context(), c); answer.Kind != 0 || !errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("unknown: %v, %v", answer.Kind, err)
	}
	if n := store.applied.Load() - before; n != 1 {
		t.Errorf("a commit took %d batches, want one", n)
	}
	if answer := submit(t, alice, c, client.Accepted); answer.Seq != 1 {
		t.Errorf("again: %+v", answer)
	}
	if n := published(); n != 4 {
		t.Errorf("%d of 4 parts are published", n)
	}
}

// What the network loses, the same bytes find again.
func TestLostAnswer(t *testing.T) {
	address, _ := serve(t, memory.New(), delivery.Options{})
	var drop atomic.Bool
	c := dial(t, address, delivery.ClientOptions{Wrap: func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			if err == nil && drop.Swap(false) {
				_ = response.Body.Close()
				return nil, io.ErrUnexpectedEOF
			}
			return response, err
		})
	}})
	if _, err := c.Register(t.Context(), "alice", keyOf("alice")); err != nil {
		t.Fatal(err)
	}
	x := client.CommitBundle{Commit: private(group, 0, commit, "x")}
	drop.Store(true)
	if answer, err := c.SubmitCommit(t.Context(), x); answer.Kind != 0 || !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatalf("%v, %v", answer.Kind, err)
	}
	submit(t, c, x, client.Accepted)
	m := private(group, 1, application, "m")
	drop.Store(true)
	if answer, err := c.SendMessage(t.Context(), []byte("k"), m); answer.Kind != 0 || !errors.Is(err, core.ErrUnknownOutcome) {
		t.Fatalf("%v, %v", answer.Kind, err)
	}
	send(t, c, "k", m, client.Accepted)
	drop.Store(true)
	if _, err := c.Log(t.Context(), group, 0); !errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrUnknownOutcome) {
		t.Errorf("a read that was lost: %v", err)
	}
	if got := drain(t, c, group); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("log %v", got)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestNoService(t *testing.T) {
	address, stop := serve(t, memory.New(), delivery.Options{})
	stop()
	alice := dial(t, address, delivery.ClientOptions{})
	answer, err := alice.SubmitCommit(t.Context(), client.CommitBundle{Commit: private(group, 0, commit, "")})
	if answer.Kind != 0 || !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("%v, %v", answer.Kind, err)
	}
}

func TestRestart(t *testing.T) {
	store := memory.New()
	address, stop := serve(t, store, delivery.Options{})
	alice := person(t, address, "alice")
	bob := person(t, address, "bob")
	if _, err := alice.Upload(t.Context(), [][]byte{[]byte("kp")}, []byte("last")); err != nil {
		t.Fatal(err)
	}
	c := client.CommitBundle{Commit: private(group, 0, commit, "add"), Welcome: []byte("w"), GroupInfo: []byte("i"), Added: []core.ClientID{"bob"}}
	submit(t, alice, c, client.Accepted)
	send(t, alice, "1", private(group, 1, application, "one"), client.Accepted)
	send(t, alice, "2", private(group, 1, application, "two"), client.Accepted)
	if err := bob.Ack(t.Context(), group, 2); err != nil {
		t.Fatal(err)
	}
	stop()

	address, _ = serve(t, store, delivery.Options{})
	alice, bob = person(t, address, "alice"), person(t, address, "bob")
	if got := drain(t, bob, group); !slices.Equal(got, []uint64{3}) {
		t.Errorf("bob goes on with %v, want 3", got)
	}
	if n, err := alice.Count(t.Context()); err != nil || n != 1 {
		t.Errorf("key packages: %d, %v", n, err)
	}
	if w, err := bob.Welcomes(t.Context(), 0); err != nil || len(w) != 1 {
		t.Errorf("welcomes: %v, %v", w, err)
	}
	if answer := submit(t, alice, c, client.Accepted); answer.Seq != 1 {
		t.Errorf("the commit again: %+v", answer)
	}
	if answer := send(t, alice, "1", private(group, 1, application, "one"), client.Accepted); answer.Seq != 2 {
		t.Errorf("the message again: %+v", answer)
	}
}

func TestLongPoll(t *testing.T) {
	store := memory.New()
	address, stop := serve(t, store, delivery.Options{})
	alice, bob := person(t, address, "alice"), person(t, address, "bob")
	late := time.AfterFunc(30*time.Second, func() { t.Error("nothing woke the poll") })
	defer late.Stop()

	welcomed := make(chan int)
	go func() {
		w, err := bob.Welcomes(context.Background(), time.Minute)
		if err != nil {
			t.Error(err)
		}
		welcomed <- len(w)
	}()
	time.Sleep(20 * time.Millisecond) // most likely it waits by now; if not, it must not matter
	submit(t, alice, client.CommitBundle{Commit: private(group, 0, commit, ""), Welcome: []byte("w"), Added: []core.ClientID{"bob"}}, client.Accepted)
	if n := <-welcomed; n != 1 {
		t.Errorf("%d welcomes", n)
	}

	poll := func(c *delivery.Client) <-chan int {
		ch := make(chan int)
		go func() {
			entries, err := c.Log(context.Background(), group, time.Minute)
			if err != nil {
				t.Error(err)
			}
			ch <- len(entries)
		}()
		time.Sleep(20 * time.Millisecond)
		return ch
	}
	woken := poll(bob)
	send(t, alice, "1", private(group, 1, application, "hello"), client.Accepted)
	if n := <-woken; n != 1 {
		t.Errorf("%d entries", n)
	}
	if got := drain(t, bob, group); !slices.Equal(got, []uint64{2}) {
		t.Errorf("log %v", got)
	}
	begin := time.Now()
	if entries, err := bob.Log(t.Context(), group, 50*time.Millisecond); err != nil || len(entries) != 0 || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("%v, %v after %v", entries, err, time.Since(begin))
	}
	woken = poll(bob)
	stop() // a service that goes away answers first
	if n := <-woken; n != 0 {
		t.Errorf("%d entries", n)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false) // as a killed service leaves it
	_ = stale.Close()
	server, err := delivery.New(memory.New(), delivery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := delivery.Listen(t.Context(), "unix:"+path)
	if err != nil {
		t.Fatal(err)
	}
	start(t, server, l)
	alice := person(t, "unix:"+path, "alice")
	submit(t, alice, client.CommitBundle{Commit: private(group, 0, commit, "")}, client.Accepted)
	if _, err := delivery.Listen(t.Context(), "unix:"+path); !errors.Is(err, core.ErrConflict) {
		t.Errorf("a second service on the socket: %v", err)
	}
}

func TestTLS(t *testing.T) {
	lender := httptest.NewTLSServer(nil) // for its certificate
	defer lender.Close()
	roots := lender.Client().Transport.(*http.Transport).TLSClientConfig

	open, err := delivery.New(memory.New(), delivery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := delivery.Listen(t.Context(), "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := open.Serve(t.Context(), l); !errors.Is(err, core.ErrDenied) {
		t.Errorf("all addresses without TLS: %v", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the listener was left open")
	}

	server, err := delivery.New(memory.New(), delivery.Options{TLS: lender.TLS})
	if err != nil {
		t.Fatal(err)
	}
	if l, err = delivery.Listen(t.Context(), "0.0.0.0:0"); err != nil {
		t.Fatal(err)
	}
	start(t, server, l)
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, "https://127.0.0.1:"+port, delivery.ClientOptions{TLS: roots})
	if _, err := c.Register(t.Context(), "alice", keyOf("alice")); err != nil {
		t.Error(err)
	}
	for address, want := range map[string]error{
		"http://192.0.2.1:80":     core.ErrDenied,
		"http://delivery.example": core.ErrDenied,
		"ftp://127.0.0.1":         core.ErrInvalid,
		"":                        core.ErrInvalid,
		"127.0.0.1:80":            core.ErrInvalid,
	} {
		if _, err := delivery.Dial(address, delivery.ClientOptions{}); !errors.Is(err, want) {
			t.Errorf("Dial(%q): %v, want %v", address, err, want)
		}
	}
}

func TestLimits(t *testing.T) {
	store := &watched{Keystore: memory.New()}
	address, _ := serve(t, store, delivery.Options{})
	alice := person(t, address, "alice")
	before := store.applied.Load()
	tooLarge := func(what string, answer delivery.Answer, err error) {
		t.Helper()
		if err != nil || answer.Kind != client.Refused || !errors.Is(answer.Refusal, core.ErrTooLarge) {
			t.Errorf("%s: %v, %v, %v", what, answer.Kind, answer.Refusal, err)
		}
	}
	big := string(make([]byte, delivery.MaxHandshake))
	small := private(group, 0, commit, "")
	answer, err := alice.SubmitCommit(t.Context(), client.CommitBundle{Commit: private(group, 0, commit, big)})
	tooLarge("commit", answer, err)
	answer, err = alice.SubmitCommit(t.Context(), client.CommitBundle{Commit: small, Welcome: []byte(big + "x")})
	tooLarge("Welcome", answer, err)
	answer, err = alice.SubmitCommit(t.Context(), client.CommitBundle{Commit: small, GroupInfo: []byte(big + "x")})
	tooLarge("GroupInfo", answer, err)
	answer, err = alice.SendMessage(t.Context(), []byte("k"), private(group, 0, application, big[:delivery.MaxMessage]))
	tooLarge("message", answer, err)
	if _, err := alice.Upload(t.Context(), [][]byte{make([]byte, delivery.MaxKeyPackage+1)}, nil); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("key package: %v", err)
	}
	if _, err := alice.Upload(t.Context(), make([][]byte, delivery.MaxUpload+1), nil); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("upload: %v", err)
	}
	for key, want := range map[string]error{"": core.ErrInvalid, big[:257]: core.ErrInvalid} {
		if answer, err = alice.SendMessage(t.Context(), []byte(key), private(group, 0, application, "")); err != nil || !errors.Is(answer.Refusal, want) {
			t.Errorf("key of %d bytes: %v, %v", len(key), answer.Refusal, err)
		}
	}
	if n := store.applied.Load() - before; n != 0 {
		t.Errorf("refused, but %d batches were applied", n)
	}
	for i := range 6 {
		var batch [][]byte
		for range delivery.MaxUpload {
			batch = append(batch, random(16))
		}
		_, err := alice.Upload(t.Context(), batch, nil)
		if want := i < delivery.MaxKeyPackages/delivery.MaxUpload; (err == nil) != want || err != nil && !errors.Is(err, core.ErrTooLarge) {
			t.Errorf("upload %d: %v", i, err)
		}
	}
}

// Bodies and paths that no client of ours would send.
func TestMalformedRequests(t *testing.T) {
	address, _ := serve(t, memory.New(), delivery.Options{})
	c := dial(t, address, delivery.ClientOptions{})
	token, err := c.Register(t.Context(), "alice", keyOf("alice"))
	if err != nil {
		t.Fatal(err)
	}
	submit(t, c, client.CommitBundle{Commit: private("g", 0, commit, "")}, client.Accepted)
	for _, call := range []struct{ method, path, body, code string }{
		{"POST", "/v1/messages", ``, "invalid"},
		{"POST", "/v1/messages", `{"key":"AA==","message":"AA=="} {}`, "invalid"},
		{"POST", "/v1/messages", `{"key":"AA==","message":"AA==","epoch":3}`, "invalid"},
		{"POST", "/v1/messages", `{"key":"AA==","message":"not base64"}`, "invalid"},
		{"POST", "/v1/messages", `[]`, "invalid"},
		{"POST", "/v1/clients", `{"client":"` + strings.Repeat("A", 1<<17) + `"}`, "too-large"},
		{"GET", "/v1/groups/!/log", ``, "invalid"},
		{"GET", "/v1/groups/Zw/log?after=-1", ``, "invalid"},
		{"GET", "/v1/groups/Zw/log?wait=NaN", ``, "invalid"},
		{"GET", "/v1/groups/Zw/log?wait=-1", ``, "invalid"},
		{"POST", "/v1/groups/Zw/ack", `{"through":2}`, "invalid"},
		{"POST", "/v1/groups/Zw/ack", `{"through":-2}`, "invalid"},
		{"POST", "/v1/groups/bm9uZQ/ack", `{"through":1}`, "not-found"},
		{"DELETE", "/v1/welcomes/Zw/x", ``, "invalid"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), call.method, address+call.path, strings.NewReader(call.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+string(token.Bytes()))
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || !strings.Contains(string(text), `"code":"`+call.code+`"`) || response.StatusCode < 400 {
			t.Errorf("%s %s %.60s: %s %s, want code %s", call.method, call.path, call.body, response.Status, text, call.code)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
