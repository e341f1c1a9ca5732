// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// counting is a keystore that counts what is handed to Apply: keys and values.
type counting struct {
	core.Keystore
	bytes, batches atomic.Int64
}

func (c *counting) Apply(ctx context.Context, b core.Batch) error {
	n := 0
	for _, e := range b.Expect {
		n += len(e.Key)
	}
	for _, d := range b.Dels {
		n += len(d.Prefix)
	}
	for _, p := range b.Puts {
		n += len(p.Key) + len(p.Value)
	}
	c.bytes.Add(int64(n))
	c.batches.Add(1)
	return c.Keystore.Apply(ctx, b)
}

// written is what this process has given to write calls, where the system tells.
func written() (bytes int64) {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if _, err := fmt.Sscanf(line, "wchar: %d", &bytes); err == nil {
			return bytes
		}
	}
	return 0
}

// shadow is a member without a client: it joins and commits once, so that the
// tree has no blank parents above it.
type shadow struct {
	id     core.ClientID
	bundle *mls.KeyPackageBundle
	env    *mls.Env
}

func newShadow(t testing.TB, id core.ClientID, leaf ...mls.Extension) *shadow {
	p := pure.New()
	key, err := p.GenerateKey(t.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	suite, _ := p.Suite(suite1)
	capabilities := mls.Capabilities{
		Versions: []mls.ProtocolVersion{mls.MLS10}, Suites: p.Suites(),
		Credentials: []core.CredentialType{core.CredentialBasic, core.CredentialX509},
	}
	for _, e := range leaf {
		capabilities.Extensions = append(capabilities.Extensions, e.Type)
	}
	bundle, err := mls.NewKeyPackage(t.Context(), mls.KeyPackageParams{
		Suite: suite, Signer: key.(core.Signer), Credential: core.BasicCredential(id),
		Lifetime:     mls.Lifetime{NotBefore: uint64(time.Now().Add(-time.Hour).Unix()), NotAfter: uint64(time.Now().Add(time.Hour).Unix())},
		Capabilities: capabilities, LeafExtensions: leaf,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &shadow{id: id, bundle: bundle, env: &mls.Env{
		Suites: p, Auth: client.Basic{}, Now: time.Now(),
		Signer: func(context.Context, []byte) (core.Signer, error) { return key.(core.Signer), nil },
		Fetch: func(_ context.Context, q []record.Query) ([][]record.Record, error) {
			return make([][]record.Record, len(q)), nil
		},
	}}
}

func (s *shadow) keyPackage() []byte {
	return (&mls.MLSMessage{KeyPackage: s.bundle.KeyPackage}).Marshal()
}

// commit joins and commits, and is forgotten.
func (s *shadow) commit(t testing.TB, service *clienttest.Service) {
	t.Helper()
	w, ok := service.Welcome(s.id)
	if !ok {
		t.Fatal("no welcome")
	}
	m, err := mls.UnmarshalMLSMessage(w.Message)
	if err != nil {
		t.Fatal(err)
	}
	g, _, _, err := mls.Join(t.Context(), s.env, mls.JoinParams{
		Welcome: m.Welcome, Config: mls.DefaultConfig,
		KeyPackage: func(context.Context, []byte) (*mls.KeyPackageBundle, error) { return s.bundle, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	g, p, _, err := g.Commit(t.Context(), s.env, mls.CommitParams{ForcePath: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Bundle(t.Context(), s.env, g)
	if err != nil {
		t.Fatal(err)
	}
	outcome := service.SubmitCommit(s.id, chat, client.CommitBundle{Commit: b.Commit, GroupInfo: b.GroupInfo})
	if outcome.Kind != client.Accepted {
		t.Fatal(outcome)
	}
}

// grow makes the chat a warm group of n: every second member has committed.
func (w *world) grow(first *clienttest.Device, devices []*clienttest.Device, n int) {
	w.Helper()
	for i := 1 + len(devices); i < n; i += 2 {
		pair := []*shadow{newShadow(w, core.ClientID(fmt.Sprintf("member %d", i))), newShadow(w, core.ClientID(fmt.Sprintf("member %d", i+1)))}
		if i+1 == n {
			pair = pair[:1]
		}
		w.in(first, func(ctx context.Context, c *client.Conversation) error {
			var packages [][]byte
			for _, s := range pair {
				packages = append(packages, s.keyPackage())
			}
			_, err := c.AddMembers(ctx, packages...)
			return err
		})
		pair[0].commit(w, w.service)
		w.must(first.Link.Drain(w.Context(), chat))
	}
	for _, d := range devices {
		w.must(d.Link.Drain(w.Context(), chat))
		d.Received()
	}
}

// The limits that an operation keeps, in bytes handed to Apply.
var byteLimits = map[string]int64{
	"first message sent":     3 << 10,
	"first message received": 3 << 10,
	"message sent":           2 << 10,
	"message received":       2 << 10,
	"own update commit":      32 << 10,
	"update commit received": 24 << 10,
}

// measure prints what each operation hands to Apply in a warm group of n.
func measure(t testing.TB, n int) {
	w := newWorld(t, clienttest.Options{})
	open := func(id core.ClientID) (*clienttest.Device, *counting) {
		store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store"))
		w.must(err)
		t.Cleanup(func() { _ = store.Close() })
		ks := &counting{Keystore: store}
		return w.deviceOn(id, ks, config()), ks
	}
	alice, aliceStore := open("alice")
	bob, bobStore := open("bob")
	w.create(alice)
	w.add(alice, bob)
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	w.must(alice.Link.Drain(t.Context(), chat))
	w.grow(alice, []*clienttest.Device{bob}, n)

	last := map[string]string{}
	count := func(what string, ks *counting, f func()) {
		t.Helper()
		bytes, batches, before, began := ks.bytes.Load(), ks.batches.Load(), written(), time.Now()
		f()
		took := time.Since(began)
		bytes, batches = ks.bytes.Load()-bytes, ks.batches.Load()-batches
		last[what] = fmt.Sprintf("n=%4d  %-24s %6d bytes in %d Apply, %6d given to write calls, %v",
			n, what, bytes, batches, written()-before, took.Round(10*time.Microsecond))
		if limit := byteLimits[what]; limit != 0 && bytes > limit {
			t.Errorf("%s at n=%d: %d bytes, the limit is %d", what, n, bytes, limit)
		}
	}
	text := strings.Repeat("x", 100)
	send := func() { w.send(alice, text) }
	receive := func() { w.must(bob.Link.Drain(t.Context(), chat)) }
	count("first message sent", aliceStore, send)
	count("first message received", bobStore, receive)
	for range 3 {
		count("message sent", aliceStore, send)
		count("message received", bobStore, receive)
	}
	for range 5 { // the window of past epochs is full then
		count("own update commit", aliceStore, func() {
			w.in(alice, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.UpdateKeyMaterial(ctx)
				return err
			})
		})
		count("update commit received", bobStore, receive)
	}
	for _, what := range slices.Sorted(maps.Keys(last)) {
		fmt.Println(last[what])
	}
}

// ENG-2: what an application message and a commit write stays within limits, in a
// group that is quick to make.
func TestBytesPerOperation(t *testing.T) {
	measure(t, 2)
	measure(t, 40)
}

// BenchmarkBytes prints them for 2 and 1000 members.
func BenchmarkBytes(b *testing.B) {
	for range b.N {
		measure(b, 2)
		measure(b, 1000)
	}
}
