// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/storage/postgres"
	"github.com/conclave-mls/conclave/storage/postgres/pgtest"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// After a conversation of three, in the middle of it too, nothing is to be found in
// the store's files that anybody could read: no name, no identifier, no message, no
// key, public or private, and no secret that was derived on the way.

func TestNoPlaintextInSQLite(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "store.db")
	open := func(ctx context.Context) (core.Keystore, error) { return sqlite.Open(ctx, file) }
	looked := map[string]bool{}
	noPlaintext(t, "sqlite:"+file, open, func(h *haystack) map[string]string {
		for _, end := range []string{"", "-wal", "-shm"} {
			if info, err := os.Stat(file + end); err == nil && info.Size() > 0 {
				looked[end] = true
			}
		}
		return h.files(t, folder)
	})
	if len(looked) != 3 {
		t.Errorf("looked at %v only", looked)
	}
}

func TestNoPlaintextInPostgreSQL(t *testing.T) {
	server := pgtest.Start(t)
	open := func(ctx context.Context) (core.Keystore, error) { return postgres.Open(ctx, server.DSN()) }
	noPlaintext(t, server.DSN(), open, func(h *haystack) map[string]string {
		server.Tool(t, "psql", "-X", "-q", "-c", "CHECKPOINT", server.AdminDSN())
		dump := filepath.Join(server.Folder, "dump")
		server.Tool(t, "pg_dump", "-f", dump, server.AdminDSN())
		text, err := os.ReadFile(dump)
		if err != nil || !bytes.Contains(text, []byte("COPY ")) {
			t.Fatalf("no dump: %v", err)
		}
		do(t, os.Remove(dump))
		inDump := map[string]string{}
		h.search(text, "dump", inDump)
		inTables := h.files(t, filepath.Join(server.Folder, "data", "base"))
		inLog := h.log(t, filepath.Join(server.Folder, "data", "pg_wal"))
		found := h.files(t, server.Folder, "base", "pg_wal") // what the server has to say
		for _, in := range []map[string]string{inDump, inTables, inLog} {
			if len(in) != len(inDump) {
				t.Errorf("found in the dump: %d, in the tables: %d, in the log: %d", len(inDump), len(inTables), len(inLog))
			}
			maps.Copy(found, in)
		}
		return found
	})
}

// noPlaintext has the conversation over a keystore, which look looks at from outside.
func noPlaintext(t *testing.T, uri string, open func(context.Context) (core.Keystore, error), look func(*haystack) map[string]string) {
	h, keys := new(haystack), &keyHole{h: map[string][]byte{}}
	clean := func(when string) {
		t.Helper()
		keys.show(t, h)
		for name, where := range look(h) {
			t.Errorf("%s: %s is in %s", when, name, where)
		}
	}

	// The delivery service has a store that nobody seals.
	folder := t.TempDir()
	service := config.Default(folder)
	service.Keystore, service.Listen = "sqlite:service.db", "127.0.0.1:0"
	var s *modules.Service
	server := app.NewService(service, fx.Populate(&s))
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	defer stop()

	people := map[core.ClientID]*messenger.Messenger{}
	var clients []*client.Client
	var stops []func()
	for _, id := range []core.ClientID{"grete-quxifrant", "oskar-wobblin", "zeno-pimpfel"} {
		cfg := config.Default(folder)
		cfg.Keystore, cfg.Delivery = uri, s.Address()
		cfg.Key = "file:" + string(id) + ".key"
		do(t, modules.NewKeyFile(cfg.File(string(id)+".key")))
		text, err := os.ReadFile(cfg.File(string(id) + ".key"))
		do(t, err)
		// In hexadecimal, as it is there, a piece of it is in a dump by chance now and then.
		key, err := hex.DecodeString(strings.TrimSpace(string(text)))
		do(t, err)
		h.need(t, "key of "+string(id), key)
		var m *messenger.Messenger
		var c *client.Client
		a := app.New(cfg, modules.Messenger(), fx.Populate(&m, &c),
			fx.Replace(modules.Tenant("tenant of "+id), slog.New(slog.DiscardHandler)),
			fx.Decorate(keys.suites), fx.Decorate(keys.provider), fx.Decorate(keys.wrapper))
		if err := a.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, func() {
			if err := a.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
		do(t, m.Register(t.Context(), id))
		people[id], clients = m, append(clients, c)
		h.need(t, "client "+string(id), []byte(id))
		h.need(t, "tenant of "+string(id), []byte("tenant of "+id))
	}
	grete, oskar, zeno := people["grete-quxifrant"], people["oskar-wobblin"], people["zeno-pimpfel"]
	nothing := func(core.ConversationID, messenger.Item) error { return nil }
	say := func(m *messenger.Messenger, text string) {
		t.Helper()
		h.need(t, "text "+text[:8], []byte(text))
		do(t, m.Send(t.Context(), "Zwetschgenkuchen", []byte(text)))
	}

	conversation, err := grete.Create(t.Context(), "Zwetschgenkuchen")
	do(t, err)
	h.need(t, "conversation", []byte(conversation))
	do(t, grete.Add(t.Context(), "Zwetschgenkuchen", "oskar-wobblin", "zeno-pimpfel"))
	say(grete, "Um achtzehn Uhr dreissig im Kulturhaus Xylophon!")
	do(t, oskar.Sync(t.Context()))
	do(t, zeno.Sync(t.Context())) // unread, so it waits in the store
	clean("unread")
	do(t, oskar.Read(t.Context(), "Zwetschgenkuchen", nothing))
	say(oskar, "Vorzueglich, ich bringe Quittenmarmelade mit.")
	do(t, oskar.Update(t.Context(), "Zwetschgenkuchen"))
	_, err = grete.Rotate(t.Context())
	do(t, err)
	do(t, grete.Read(t.Context(), "Zwetschgenkuchen", nothing))
	do(t, grete.Remove(t.Context(), "Zwetschgenkuchen", "zeno-pimpfel"))
	do(t, zeno.Read(t.Context(), "Zwetschgenkuchen", nothing))
	do(t, oskar.Sync(t.Context()))

	// What cannot be sent waits in the outbox.
	for _, c := range clients[:2] {
		members, err := c.View(conversation).Members(t.Context())
		do(t, err)
		for _, m := range members {
			h.need(t, "signature key of "+string(m.ClientID), m.SignatureKey)
		}
	}
	stop()
	unsent := "Dies kommt heute nicht mehr an, Jodelhoernchen."
	h.need(t, "unsent text", []byte(unsent))
	_ = grete.Send(t.Context(), "Zwetschgenkuchen", []byte(unsent))
	if n, err := clients[0].Unsent(t.Context(), conversation); n != 1 || err != nil {
		t.Errorf("%d messages wait, %v", n, err)
	}
	clean("unsent")
	for _, stop := range stops {
		stop()
	}
	clean("closed")

	// The same search finds what the delivery service knows, in the same conversation,
	// and nothing else there.
	atService := h.files(t, folder, "grete-quxifrant.key", "oskar-wobblin.key", "zeno-pimpfel.key")
	for _, name := range []string{"client grete-quxifrant", "client oskar-wobblin", "client zeno-pimpfel", "conversation"} {
		if atService[name] == "" {
			t.Errorf("the delivery service has %s, and the search does not find it", name)
		}
	}
	for name, where := range atService {
		if strings.HasPrefix(name, "text") || strings.HasPrefix(name, "unsent") || strings.HasPrefix(name, "secret") {
			t.Errorf("the delivery service has %s: %s", name, where)
		}
	}
	// And every single thing, where it lies unsealed in the store.
	store, err := open(t.Context())
	do(t, err)
	for _, plant := range h.plants() {
		do(t, store.Apply(context.Background(), plant))
	}
	do(t, store.Close())
	found := look(h)
	missed := 0
	for name := range h.names() {
		if found[name] == "" {
			missed++
			t.Logf("planted, and not found: %s", name)
		}
	}
	if missed > 0 {
		t.Errorf("%d of %d things that were planted are not found", missed, len(h.names()))
	}
	t.Logf("looked for %d things, %d pieces", len(h.names()), len(h.windows))
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plants are batches that put a piece of everything into keys and values of a store,
// among random bytes.
func (h *haystack) plants() (batches []core.Batch) {
	noise := func(n int) []byte {
		b := make([]byte, n)
		_, _ = rand.Read(b)
		return b
	}
	pieces := map[string][window]byte{}
	for w, name := range h.windows {
		pieces[name] = w
	}
	b := core.Batch{}
	for _, piece := range pieces {
		p := core.Put{Table: 9, Key: noise(16), Value: slices.Concat(noise(50), piece[:], noise(50)), Version: core.NewVersion()}
		if len(b.Puts)%2 == 0 {
			p.Key, p.Value = append(p.Key, piece[:]...), noise(9)
		}
		b.Puts = append(b.Puts, p)
		if len(b.Puts) == 100 {
			batches, b = append(batches, b), core.Batch{}
		}
	}
	return append(batches, b)
}

// A keyHole sees every key and secret that the cryptography makes.
type keyHole struct {
	mu sync.Mutex
	h  map[string][]byte
	n  int
}

func (k *keyHole) saw(kind string, secret []byte) {
	if len(secret) < 16 || bytes.Equal(secret, make([]byte, len(secret))) {
		return // no secret: a nonce, a zero to begin with
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.n++
	k.h[fmt.Sprintf("%s %d", kind, k.n)] = bytes.Clone(secret)
}

func (k *keyHole) sawKey(kind string, key core.PrivateKey, err error) {
	if err != nil {
		return
	}
	k.saw("public "+kind, key.Public())
	if s, ok := key.(core.SoftwareKey); ok {
		k.saw("secret "+kind, s.Material().Bytes())
	}
}

// show moves what was seen into the haystack's list.
func (k *keyHole) show(t *testing.T, h *haystack) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, secret := range k.h {
		h.need(t, name, secret)
	}
	if len(k.h) < 100 {
		t.Errorf("saw only %d keys and secrets", len(k.h))
	}
}

type openSuites struct {
	core.SuiteSource
	k *keyHole
}

type openSuite struct {
	core.Suite
	k *keyHole
}

type openProvider struct {
	core.CryptoProvider
	k *keyHole
}

type openWrapper struct {
	core.KeyWrapper
	k *keyHole
}

func (k *keyHole) suites(s core.SuiteSource) core.SuiteSource         { return openSuites{s, k} }
func (k *keyHole) provider(p core.CryptoProvider) core.CryptoProvider { return openProvider{p, k} }
func (k *keyHole) wrapper(w core.KeyWrapper) core.KeyWrapper          { return openWrapper{w, k} }

func (s openSuites) Suite(id core.SuiteID) (core.Suite, error) {
	suite, err := s.SuiteSource.Suite(id)
	return openSuite{suite, s.k}, err
}

func (s openSuite) Extract(salt, ikm core.Secret) core.Secret {
	out := s.Suite.Extract(salt, ikm)
	s.k.saw("secret extracted", out.Bytes())
	return out
}

func (s openSuite) Expand(prk core.Secret, info []byte, length int) (core.Secret, error) {
	out, err := s.Suite.Expand(prk, info, length)
	if err == nil {
		s.k.saw("secret expanded", out.Bytes())
	}
	return out, err
}

func (s openSuite) GenerateKeyPair() (core.SoftwareKey, error) {
	key, err := s.Suite.GenerateKeyPair()
	s.k.sawKey("HPKE key", key, err)
	return key, err
}

func (s openSuite) DeriveKeyPair(ikm core.Secret) (core.SoftwareKey, error) {
	key, err := s.Suite.DeriveKeyPair(ikm)
	s.k.sawKey("HPKE key", key, err)
	return key, err
}

func (p openProvider) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	key, err := p.CryptoProvider.GenerateKey(ctx, spec)
	p.k.sawKey("signature key", key, err)
	return key, err
}

func (w openWrapper) Wrap(ctx context.Context, dek core.Secret, aad []byte) ([]byte, error) {
	w.k.saw("secret data key", dek.Bytes())
	return w.KeyWrapper.Wrap(ctx, dek, aad)
}
