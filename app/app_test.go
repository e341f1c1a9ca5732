// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/fx"
	"go.uber.org/fx/fxtest"
	"go.uber.org/goleak"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/basic"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func nothingKept() config.Config {
	c := config.Default(os.TempDir())
	c.Keystore, c.Key = "memory:", "random:"
	return c
}

func Example() {
	var c *client.Client
	a := app.New(nothingKept(), fx.Populate(&c))
	err := app.Run(context.Background(), a, func(ctx context.Context) error {
		return c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			if err := tx.InitMLS(ctx, "alice", core.SuiteX25519AES128Ed25519); err != nil {
				return err
			}
			id, err := tx.ClientID(ctx)
			fmt.Println(id)
			return err
		})
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: alice
}

// graphs are the configurations that are shipped.
func graphs(t *testing.T) map[string]fx.Option {
	t.Helper()
	files, err := filepath.Glob("config/examples/*.toml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	out := map[string]fx.Option{
		"default":         app.Client(config.Default("/")),
		"default service": app.Service(config.Default("/")),
	}
	for _, f := range files {
		c, err := config.Load(f)
		if err != nil {
			t.Fatal(err)
		}
		out[f] = app.Client(c)
		if filepath.Base(f) == "delivery.toml" {
			out[f] = app.Service(c)
		}
	}
	return out
}

func TestGraphs(t *testing.T) {
	for name, option := range graphs(t) {
		invoke := fx.Options()
		if !strings.Contains(name, "delivery") && !strings.Contains(name, "service") {
			invoke = fx.Options(modules.Messenger(), fx.Invoke(func(*messenger.Messenger) {}))
		}
		if err := fx.ValidateApp(option, invoke); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := fx.ValidateApp(app.Service(config.Default("/")), fx.Invoke(func(*client.Client) {})); err == nil {
		t.Error("a graph that lacks a part is valid")
	}
}

// Every URI of a shipped configuration has a scheme that exists: it is opened, in
// a folder where nothing is, or for lack of what it names fails in another way.
func TestShippedSchemes(t *testing.T) {
	files, err := filepath.Glob("config/examples/*.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		c, err := config.Load(f)
		if err != nil {
			t.Fatal(err)
		}
		c.Folder = t.TempDir()
		a := app.New(c, modules.Messenger(), fx.Invoke(func(*messenger.Messenger) {}))
		if err := app.Run(t.Context(), a, func(context.Context) error { return nil }); errors.Is(err, core.ErrUnsupported) && !errors.Is(err, hsm.ErrNotBuilt) {
			t.Errorf("%s: %v", f, err)
		}
	}
}

func TestUnknownScheme(t *testing.T) {
	var c *client.Client
	for part, change := range map[string]func(*config.Config){
		"keystore": func(c *config.Config) { c.Keystore = "paper:" },
		"key":      func(c *config.Config) { c.Key = "paper:" },
		"crypto":   func(c *config.Config) { c.Crypto = "paper:" },
		"issuer":   func(c *config.Config) { c.Issuer = "paper:" },
		"delivery": func(c *config.Config) { c.Delivery = "paper:" },
	} {
		cfg := nothingKept()
		change(&cfg)
		a := app.New(cfg, fx.Populate(&c), fx.Invoke(func(core.CredentialIssuer) {}))
		err := app.Run(t.Context(), a, func(context.Context) error { return nil })
		if !errors.Is(err, core.ErrUnsupported) || !strings.HasPrefix(err.Error(), part+" \"paper:\"") {
			t.Errorf("%s: %v", part, err)
		}
	}
	cfg := nothingKept()
	cfg.Keystore = "memory:with something"
	if err := app.Run(t.Context(), app.New(cfg, fx.Populate(&c)), nil); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("a URI with too much: %v", err)
	}
}

// A journal remembers in which order parts are closed.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) write(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

type watchedStore struct {
	core.Keystore
	journal *journal
}

func (w *watchedStore) Close() error {
	w.journal.write("keystore")
	return w.Keystore.Close()
}

// watched replaces the keystore by one that tells when it is closed, under a scheme
// of the integrator's own.
func watched(j *journal) fx.Option {
	return modules.Scheme("watched", func(context.Context, config.URI) (core.Keystore, error) {
		return &watchedStore{memory.New(), j}, nil
	})
}

func TestStopOrder(t *testing.T) {
	var j journal
	cfg := nothingKept()
	cfg.Keystore = "watched:"
	var c *client.Client
	a := fxtest.New(t, app.Client(cfg), watched(&j), fx.Populate(&c),
		fx.Decorate(func(w core.KeyWrapper) core.KeyWrapper { return w }),
		fx.Invoke(func(lc fx.Lifecycle, c *client.Client) { // made last, so stopped first
			lc.Append(fx.StopHook(func() error {
				j.write("application")
				_, err := c.Conversations(context.Background())
				return err // the client is still open
			}))
		}))
	a.RequireStart()
	a.RequireStop()
	j.write("end")
	if want := []string{"application", "keystore", "end"}; !slices.Equal(j.lines, want) {
		t.Errorf("closed in the order %v, want %v", j.lines, want)
	}
	if _, err := c.Conversations(t.Context()); !errors.Is(err, core.ErrClosed) {
		t.Errorf("the client is still open: %v", err)
	}
}

// The client goes before the keystore under it: what it has under way may end.
func TestClientClosesBeforeKeystore(t *testing.T) {
	var j journal
	cfg := nothingKept()
	cfg.Keystore = "watched:"
	var c *client.Client
	a := app.New(cfg, watched(&j), fx.Populate(&c))
	begun, finish := make(chan struct{}), make(chan struct{})
	var done error
	err := app.Run(t.Context(), a, func(ctx context.Context) error {
		go func() {
			done = c.Transaction(context.Background(), func(ctx context.Context, tx *client.Transaction) error {
				close(begun)
				time.Sleep(50 * time.Millisecond)
				return tx.SetData(ctx, []byte("late"))
			})
			j.write("transaction")
			close(finish)
		}()
		<-begun
		return nil
	})
	<-finish
	if err != nil || done != nil {
		t.Errorf("stop: %v; transaction: %v", err, done)
	}
	if !slices.Contains(j.lines, "keystore") {
		t.Errorf("closed: %v", j.lines)
	}
}

// The delivery service answers until it is stopped, and its keystore outlives it.
func TestService(t *testing.T) {
	var j journal
	cfg := nothingKept()
	cfg.Keystore, cfg.Listen = "watched:", "127.0.0.1:0"
	var s *modules.Service
	err := app.Run(t.Context(), app.NewService(cfg, watched(&j), fx.Populate(&s)), func(ctx context.Context) error {
		c, err := delivery.Dial(s.Address(), delivery.ClientOptions{})
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Register(ctx, "alice", core.NewSecret(make([]byte, 32))); err != nil {
			return err
		}
		waiting := make(chan error, 1)
		go func() { // answered when the service stops
			_, err := c.Welcomes(context.Background(), time.Minute)
			j.write("poll")
			waiting <- err
		}()
		t.Cleanup(func() {
			if err := <-waiting; err != nil {
				t.Errorf("a poll at the stop: %v", err)
			}
		})
		time.Sleep(20 * time.Millisecond)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(j.lines) == 0 || !slices.Contains(j.lines, "keystore") {
		t.Errorf("closed: %v", j.lines)
	}
}

func TestServiceRefusesOtherMachines(t *testing.T) {
	cfg := nothingKept()
	cfg.Listen = "0.0.0.0:0"
	err := app.Run(t.Context(), app.NewService(cfg), func(context.Context) error {
		t.Error("it has started")
		return nil
	})
	if !errors.Is(err, core.ErrDenied) {
		t.Errorf("without TLS: %v", err)
	}
	cfg.Certificate, cfg.PrivateKey = "none.pem", "none.pem"
	if err := app.Run(t.Context(), app.NewService(cfg), nil); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("with a certificate that is not there: %v", err)
	}
}

// What was opened is closed if a later part cannot be made.
func TestNothingIsLeftOpen(t *testing.T) {
	var j journal
	cfg := nothingKept()
	cfg.Keystore, cfg.Key = "watched:", "passphrase:" // with nobody to ask
	var c *client.Client
	err := app.Run(t.Context(), app.New(cfg, watched(&j), fx.Populate(&c)), nil)
	if !errors.Is(err, core.ErrDenied) || strings.Contains(err.Error(), "fx") {
		t.Errorf("error: %v", err)
	}
	if want := []string{"keystore"}; !slices.Equal(j.lines, want) {
		t.Errorf("closed %v, want %v", j.lines, want)
	}
}

// An integrator's part takes the place of the configuration's.
func TestReplace(t *testing.T) {
	store := memory.New()
	var got core.Keystore
	asked := false
	cfg := nothingKept()
	cfg.Key = "passphrase:"
	var c *client.Client
	a := app.New(cfg, fx.Decorate(func(core.Keystore) core.Keystore { return store }), fx.Populate(&got, &c),
		fx.Replace(modules.Passphrase(func(context.Context) (core.Secret, error) {
			asked = true
			return core.NewSecret([]byte("open sesame")), nil
		})))
	if err := app.Run(t.Context(), a, func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got != store || !asked {
		t.Errorf("keystore %T, passphrase asked for: %v", got, asked)
	}
}

// A keystore that loses its answers does not keep an application from ending.
func TestNoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &coretest.Faulty{Keystore: memory.New(), Plan: func(n int, _ core.Batch) coretest.Fault {
			if n > 2 { // the keys of the client are there
				return coretest.FaultLost
			}
			return coretest.FaultNone
		}}
		b := core.Batch{Puts: []core.Put{core.NewIncarnation()}} // so a client has something to write
		if err := store.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		var c *client.Client
		a := app.New(nothingKept(), fx.Decorate(func(core.Keystore) core.Keystore { return store }), fx.Populate(&c))
		if err := app.Run(t.Context(), a, nil); !errors.Is(err, core.ErrUnknownOutcome) {
			t.Errorf("error: %v", err)
		}
	})
}

// The same parts without a container.
func TestWithoutContainer(t *testing.T) {
	key, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	ks := memory.New()
	store, err := seal.Open(t.Context(), ks, key, "conclave")
	if err != nil {
		t.Fatal(err)
	}
	service, err := delivery.Dial("http://127.0.0.1:1", delivery.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	transport := delivery.NewTransport(service)
	software := pure.New()
	c, err := client.Open(t.Context(), client.Config{Store: store, Suites: software, Keys: software, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	m := messenger.New(messenger.Parts{Client: c, Service: service, Transport: transport, Issuer: basic.New(), Suite: 1})
	if err := m.Register(t.Context(), "alice"); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("register where no service is: %v", err)
	}
	if id, err := m.ID(t.Context()); id != "alice" || err != nil {
		t.Errorf("identity %q, %v", id, err)
	}
	for _, close := range []func() error{func() error { return c.Close(t.Context()) }, ks.Close, service.Close} {
		if err := close(); err != nil {
			t.Error(err)
		}
	}
}
