// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/basic"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A network fails when it is told to.
type network struct {
	http.RoundTripper
	mu     sync.Mutex
	before func(*http.Request) error // the request gets lost
	after  func(*http.Request) error // the answer gets lost
}

func (n *network) set(before, after func(*http.Request) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.before, n.after = before, after
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	before, after := n.before, n.after
	n.mu.Unlock()
	if before != nil {
		if err := before(r); err != nil {
			return nil, err
		}
	}
	response, err := n.RoundTripper.RoundTrip(r)
	if err == nil && after != nil {
		if err = after(r); err != nil {
			_ = response.Body.Close()
			return nil, err
		}
	}
	return response, err
}

var errNetwork = errors.New("the network is down")

// failing loses what matches a method and the beginning of a path.
func failing(method, path string) func(*http.Request) error {
	return func(r *http.Request) error {
		if r.Method == method && strings.HasPrefix(r.URL.Path, path) {
			return errNetwork
		}
		return nil
	}
}

// A disk fails a read or a write when it is told to.
type disk struct {
	core.Keystore
	mu    sync.Mutex
	read  func() error
	write func() error
}

func (d *disk) set(read func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.read = read
}

func (d *disk) onApply(write func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write = write
}

func (d *disk) Apply(ctx context.Context, b core.Batch) error {
	d.mu.Lock()
	write := d.write
	d.mu.Unlock()
	if write != nil {
		if err := write(); err != nil {
			return err
		}
	}
	return d.Keystore.Apply(ctx, b)
}

func (d *disk) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	d.mu.Lock()
	read := d.read
	d.mu.Unlock()
	if read != nil {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return d.Keystore.Read(ctx, queries)
}

// A person is a messenger with what it stands on.
type person struct {
	*messenger.Messenger
	t         *testing.T
	name      core.ClientID
	address   string
	client    *client.Client
	service   *delivery.Client
	transport *delivery.Transport
	network   *network
	disk      *disk
	told      []step // of progress
}

// A step is what progress told.
type step struct {
	what        string
	done, total int
}

// people returns registered persons on one service, each with a store in memory.
func people(t *testing.T, names ...core.ClientID) []*person {
	t.Helper()
	server, err := delivery.New(memory.New(), delivery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := delivery.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	var all []*person
	for _, name := range names {
		p := arrive(t, "http://"+l.Addr().String(), name)
		if err := p.Register(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func arrive(t *testing.T, address string, name core.ClientID) *person {
	t.Helper()
	return arriveOn(t, address, name, memory.New(), client.Refuse)
}

func arriveOn(t *testing.T, address string, name core.ClientID, ks core.Keystore, then client.AfterRollback) *person {
	t.Helper()
	return arriveWith(t, address, name, ks, then, basic.New())
}

func arriveWith(t *testing.T, address string, name core.ClientID, ks core.Keystore, then client.AfterRollback, issuer core.CredentialIssuer) *person {
	t.Helper()
	p := &person{t: t, name: name, address: address, network: &network{}, disk: &disk{Keystore: ks}}
	var err error
	p.service, err = delivery.Dial(address, delivery.ClientOptions{Wrap: func(r http.RoundTripper) http.RoundTripper {
		p.network.RoundTripper = r
		return p.network
	}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.RawKey(core.NewSecret([]byte("the key of a store that is not kept anywhere!!!!")[:32]))
	if err != nil {
		t.Fatal(err)
	}
	store, err := seal.Open(t.Context(), p.disk, key, "conclave")
	if err != nil {
		t.Fatal(err)
	}
	p.transport = delivery.NewTransport(p.service)
	var notices messenger.Notices
	software := pure.New()
	p.client, err = client.Open(t.Context(), client.Config{
		Store: store, Suites: software, Keys: software, Transport: p.transport, Observe: notices.Observe, RolledBack: then,
		Authenticator: e2ei.Authenticator{Identify: e2ei.ClientOf},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Messenger = messenger.New(messenger.Parts{
		Client: p.client, Service: p.service, Transport: p.transport, Issuer: issuer, Notices: &notices, Suite: 1,
		Authenticator: e2ei.Authenticator{Identify: e2ei.ClientOf},
		Progress:      func(what string, done, total int) { p.told = append(p.told, step{what, done, total}) },
	})
	t.Cleanup(func() {
		if err := errors.Join(p.client.Close(context.Background()), p.service.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// reads returns what is unread, each item as its kind, sender and text.
func (p *person) reads(name string) (lines []string) {
	p.t.Helper()
	err := p.Read(p.t.Context(), name, func(_ core.ConversationID, i messenger.Item) error {
		line := string(i.Kind)
		if i.From != "" {
			line += " " + string(i.From)
		}
		if len(i.Text) > 0 {
			line += " " + string(i.Text)
		}
		for _, who := range i.Left {
			line += ", left: " + string(who)
		}
		if i.Past {
			line += ", past"
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		p.t.Fatalf("%s reads %s: %v", p.name, name, err)
	}
	return lines
}

// conversation makes one with all persons in it, everything read.
func conversation(t *testing.T, name string, all []*person) string {
	t.Helper()
	id, err := all[0].Create(t.Context(), name)
	must(t, err)
	var others []core.ClientID
	for _, p := range all[1:] {
		others = append(others, p.name)
	}
	if len(others) > 0 {
		must(t, all[0].Add(t.Context(), name, others...))
	}
	for _, p := range all[1:] {
		p.reads(string(id))
	}
	return string(id)
}

// agree checks that all are in the same state.
func agree(t *testing.T, id string, all ...*person) {
	t.Helper()
	var first messenger.Status
	for i, p := range all {
		must(t, p.Sync(t.Context()))
		s, err := p.Status(t.Context(), id)
		must(t, err)
		if i == 0 {
			first = s
		}
		if len(s.Members) != len(all) || s.Epoch != first.Epoch || string(s.Fingerprint) != string(first.Fingerprint) {
			t.Fatalf("%s: epoch %d, fingerprint %x, members %v; %s: epoch %d, fingerprint %x", p.name, s.Epoch, s.Fingerprint, s.Members,
				all[0].name, first.Epoch, first.Fingerprint)
		}
	}
}
