// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/audit"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

func Example() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "key" { // another each time
				return slog.Attr{}
			}
			return a
		},
	}))
	provider := audit.Keys(pure.New(), log)
	key, err := provider.GenerateKey(context.Background(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := key.(core.Signer).Sign(context.Background(), []byte("hello")); err != nil {
		fmt.Println(err)
	}
	// Output:
	// level=INFO msg=audit audit.operation=generate audit.algorithm=Ed25519 audit.outcome=ok
	// level=INFO msg=audit audit.operation=sign audit.algorithm=Ed25519 audit.outcome=ok
}

// Whoever passes the conformance suites passes them audited.
func TestConformance(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	t.Run("CryptoProvider", func(t *testing.T) {
		coretest.TestCryptoProvider(t, func(*testing.T) core.CryptoProvider { return audit.Keys(pure.New(), quiet) })
	})
	t.Run("KeyWrapper", func(t *testing.T) {
		coretest.TestKeyWrapper(t, func(t *testing.T, key int) core.KeyWrapper {
			w, err := seal.RawKey(core.NewSecret(bytes.Repeat([]byte{byte(key)}, 32)))
			if err != nil {
				t.Fatal(err)
			}
			return audit.KeyWrapper(w, quiet)
		})
	})
}

// A book has the lines that were written.
type book struct{ bytes.Buffer }

func (b *book) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(b, nil)) }

// take returns the groups of the lines since the last call.
func (b *book) take(t *testing.T) (lines []map[string]string) {
	t.Helper()
	for line := range strings.Lines(b.String()) {
		var record struct {
			Level, Msg string
			Audit      map[string]string
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil || record.Level != "INFO" || record.Msg != "audit" {
			t.Fatalf("%q: %v", line, err)
		}
		lines = append(lines, record.Audit)
	}
	b.Reset()
	return lines
}

// keeper keeps its keys: they have no material. Any may fail.
type keeper struct {
	*pure.Provider
	fail error
}

type opaque struct{ core.Signer }

func (k keeper) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	if k.fail != nil {
		return nil, k.fail
	}
	key, err := k.Provider.GenerateKey(ctx, spec)
	if err != nil {
		return nil, err
	}
	return opaque{key.(core.Signer)}, nil
}

func (k keeper) DeleteKey(context.Context, core.KeyRef) error { return k.fail }
func (k keeper) AttestKey(context.Context, core.KeyRef, []byte) ([]byte, error) {
	return []byte("proof"), k.fail
}
func (k keeper) ImportKey(context.Context, core.KeySpec, core.Secret) (core.PrivateKey, error) {
	return nil, k.fail
}

// encapsulated is a key of a KEM that is no Diffie-Hellman.
type encapsulated struct{ core.PrivateKey }

func (encapsulated) Decapsulate(context.Context, []byte) (core.Secret, error) {
	return core.NewSecret([]byte("decapsulated secret")), nil
}

type kem struct{ *pure.Provider }

func (k kem) OpenKey(ctx context.Context, ref core.KeyRef, m core.Secret) (core.PrivateKey, error) {
	key, err := k.Provider.OpenKey(ctx, ref, m)
	return encapsulated{key}, err
}

// Each operation leaves exactly one line, with what it was and how it ended, and
// nothing secret.
func TestOneLineEach(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var b book
	provider := audit.Keys(pure.New(), b.logger())
	secrets := []string{"the message"}
	expect := func(want map[string]string) {
		t.Helper()
		text := b.String()
		for _, s := range secrets {
			for _, form := range []string{s, hex.EncodeToString([]byte(s)), base64.StdEncoding.EncodeToString([]byte(s)), strings.Trim(fmt.Sprint([]byte(s)), "[]")} {
				if strings.Contains(text, form) {
					t.Errorf("a secret is in %q", text)
				}
			}
		}
		lines := b.take(t)
		if len(lines) != 1 {
			t.Fatalf("%d lines for %v: %v", len(lines), want, lines)
		}
		if fmt.Sprint(lines[0]) != fmt.Sprint(want) {
			t.Errorf("got  %v\nwant %v", lines[0], want)
		}
	}
	signing := core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign}
	must := func(key core.PrivateKey, err error) core.PrivateKey {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}

	key := must(provider.GenerateKey(ctx, signing))
	ref, material := string(key.Ref()), key.(core.SoftwareKey).Material()
	secrets = append(secrets, string(material.Bytes()))
	expect(map[string]string{"operation": "generate", "key": ref, "algorithm": "Ed25519", "outcome": "ok"})
	signature, err := key.(core.Signer).Sign(ctx, []byte("the message"))
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, string(signature))
	expect(map[string]string{"operation": "sign", "key": ref, "algorithm": "Ed25519", "outcome": "ok"})
	must(provider.OpenKey(ctx, key.Ref(), material))
	expect(map[string]string{"operation": "open", "key": ref, "algorithm": "Ed25519", "outcome": "ok"})
	if _, err := provider.OpenKey(ctx, "paper:1", material); !errors.Is(err, core.ErrDenied) {
		t.Error(err)
	}
	expect(map[string]string{"operation": "open", "key": "paper:1", "outcome": "denied"})
	imported := must(provider.(core.KeyImporter).ImportKey(ctx, signing, material))
	expect(map[string]string{"operation": "import", "key": string(imported.Ref()), "algorithm": "Ed25519", "outcome": "ok"})
	if _, err := provider.(core.KeyAttester).AttestKey(ctx, key.Ref(), nil); !errors.Is(err, core.ErrUnsupported) {
		t.Error(err)
	}
	expect(map[string]string{"operation": "attest", "key": ref, "outcome": "not supported"})
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := key.(core.Signer).Sign(canceled, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	expect(map[string]string{"operation": "sign", "key": ref, "algorithm": "Ed25519", "outcome": "context canceled"})

	agreement := must(provider.GenerateKey(ctx, core.KeySpec{Algorithm: core.X25519, Use: core.UseDecrypt}))
	b.take(t)
	shared, err := agreement.(core.Agreer).Agree(ctx, agreement.Public())
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, string(shared.Bytes()))
	expect(map[string]string{"operation": "agree", "key": string(agreement.Ref()), "algorithm": "X25519", "outcome": "ok"})
	if _, keeps := provider.(core.KeyDeleter); keeps {
		t.Error("a provider that keeps nothing says that it can delete")
	}
	decapsulating := must(audit.Keys(kem{pure.New()}, b.logger()).OpenKey(ctx, key.Ref(), material))
	b.take(t)
	opened, err := decapsulating.(core.Decapsulator).Decapsulate(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, string(opened.Bytes()))
	expect(map[string]string{"operation": "decapsulate", "key": ref, "algorithm": "Ed25519", "outcome": "ok"})

	// A provider that keeps its keys, behind a router too, and one that fails.
	router := &core.KeyRouter{Default: pure.New(), Providers: map[string]core.CryptoProvider{"keeper": keeper{Provider: pure.New()}}}
	for _, kept := range []core.CryptoProvider{
		audit.Keys(keeper{Provider: pure.New()}, b.logger()),
		core.ProviderOf(audit.Keys(router, b.logger()), "keeper:1"),
		core.ProviderOf(audit.Keys(&core.KeyRouter{Default: keeper{Provider: pure.New()}}, b.logger()), ""),
	} {
		key := must(kept.GenerateKey(ctx, signing))
		if _, soft := key.(core.SoftwareKey); soft {
			t.Error("a key without material has some")
		}
		b.take(t)
		if err := kept.(core.KeyDeleter).DeleteKey(ctx, key.Ref()); err != nil {
			t.Error(err)
		}
		expect(map[string]string{"operation": "delete", "key": string(key.Ref()), "outcome": "ok"})
	}
	fails := audit.Keys(keeper{Provider: pure.New(), fail: fmt.Errorf("PIN the message: %w", core.ErrUnavailable)}, b.logger())
	for operation, f := range map[string]func() error{
		"generate": func() error { _, err := fails.GenerateKey(ctx, signing); return err },
		"import":   func() error { _, err := fails.(core.KeyImporter).ImportKey(ctx, signing, material); return err },
	} {
		if err := f(); !errors.Is(err, core.ErrUnavailable) {
			t.Error(err)
		}
		expect(map[string]string{"operation": operation, "algorithm": "Ed25519", "outcome": "unavailable"})
	}
	if err := fails.(core.KeyDeleter).DeleteKey(ctx, "x:1"); !errors.Is(err, core.ErrUnavailable) {
		t.Error(err)
	}
	expect(map[string]string{"operation": "delete", "key": "x:1", "outcome": "unavailable"})
	if _, err := fails.(core.KeyAttester).AttestKey(ctx, "x:1", nil); !errors.Is(err, core.ErrUnavailable) {
		t.Error(err)
	}
	expect(map[string]string{"operation": "attest", "key": "x:1", "outcome": "unavailable"})
	strange := audit.Keys(keeper{Provider: pure.New(), fail: errors.New("the message")}, b.logger())
	if _, err := strange.GenerateKey(ctx, signing); err == nil {
		t.Error("no error")
	}
	expect(map[string]string{"operation": "generate", "algorithm": "Ed25519", "outcome": "failed"})

	raw, err := seal.RawKey(core.NewSecret(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	w := audit.KeyWrapper(raw, b.logger())
	blob, err := w.Wrap(ctx, core.NewSecret([]byte("a data key of a store")), nil)
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, "a data key of a store")
	expect(map[string]string{"operation": "wrap", "key": raw.ID(), "outcome": "ok"})
	if _, err := w.Unwrap(ctx, blob, nil); err != nil {
		t.Fatal(err)
	}
	expect(map[string]string{"operation": "unwrap", "key": raw.ID(), "outcome": "ok"})
	if _, err := w.Unwrap(ctx, blob, []byte("other")); !errors.Is(err, core.ErrWrongKey) {
		t.Error(err)
	}
	expect(map[string]string{"operation": "unwrap", "key": raw.ID(), "outcome": "wrong key"})
}

// Of a client's life, every use of its signature key is there, with what was signed
// and in which conversation.
func TestClient(t *testing.T) {
	t.Parallel()
	var b book
	p := pure.New()
	service := clienttest.NewService(clienttest.Options{})
	alice := clienttest.NewDevice(t, service, "alice", memory.New(), client.Config{Suites: p, Keys: audit.Keys(p, b.logger())})
	bob := clienttest.NewDevice(t, service, "bob", memory.New(), client.Config{Suites: p, Keys: p})
	alice.Identify(t, core.SuiteX25519AES128Ed25519)
	bob.Identify(t, core.SuiteX25519AES128Ed25519)
	const tea = core.ConversationID("tea")
	clienttest.Group(t, tea, alice, bob)
	b.take(t)
	alice.Say(t, tea, "the message")
	if strings.Contains(b.String(), "tea") || strings.Contains(b.String(), "alice") {
		t.Errorf("a name is in %q", b.String())
	}
	lines := b.take(t)
	if len(lines) != 1 || lines[0]["operation"] != "sign" || lines[0]["signs"] != "FramedContentTBS" || lines[0]["conversation"] != tea.LogValue().String() {
		t.Errorf("a text: %v", lines)
	}
	err := alice.In(t.Context(), tea, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.UpdateKeyMaterial(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	signed := map[string]string{}
	for _, l := range b.take(t) {
		if _, twice := signed[l["signs"]]; twice || l["operation"] != "sign" {
			t.Errorf("a line too much: %v", l)
		}
		signed[l["signs"]] = l["conversation"]
	}
	in := tea.LogValue().String()
	if want := map[string]string{"LeafNodeTBS": "", "FramedContentTBS": in, "GroupInfoTBS": in}; fmt.Sprint(signed) != fmt.Sprint(want) {
		t.Errorf("a commit: %v, want %v", signed, want)
	}
	alice.KeyPackage(t, core.SuiteX25519AES128Ed25519)
	lines = b.take(t)
	if len(lines) != 2 || lines[0]["signs"] != "LeafNodeTBS" || lines[1]["signs"] != "KeyPackageTBS" {
		t.Errorf("a key package: %v", lines)
	}
	if got := bob.Hear(t, tea); len(got) != 1 {
		t.Errorf("bob read %q", got)
	}
}
