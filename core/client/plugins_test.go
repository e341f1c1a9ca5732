// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/plugins/host"
	"github.com/conclave-mls/conclave/plugins/sdk"
	"github.com/conclave-mls/conclave/providers/basic"
	"github.com/conclave-mls/conclave/providers/localca"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// The parts of a client of the tests are plugins, each a process: this program again, in a
// role. What a plugin keeps, and what is known of it, is in files of a folder whose names
// begin with the role.
const (
	roleVariable   = "CONCLAVE_CLIENT_TEST_PLUGIN"
	folderVariable = "CONCLAVE_CLIENT_TEST_FOLDER"
)

const (
	roleStore   = "store"
	roleKeys    = "keys" // two instances: one keeps its keys, "pure" does not
	roleWrapper = "wrapper"
	roleIssuer  = "issuer" // two instances: a CA, and "basic"
)

// bePlugin is what a plugin does.
func bePlugin(role string) {
	folder := os.Getenv(folderVariable)
	p, err := pluginOf(role, folder)
	if err == nil {
		err = appendLine(filepath.Join(folder, role+".pids"), os.Getpid())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sdk.Serve(p)
}

func appendLine(path string, what any) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, what)
	return errors.Join(err, file.Close())
}

func pluginOf(role, folder string) (p sdk.Plugin, err error) {
	d, err := newDoom(filepath.Join(folder, role))
	if err != nil {
		return p, err
	}
	switch role {
	case roleStore:
		var store core.Keystore
		store, err = sqlite.Open(context.Background(), filepath.Join(folder, "store"))
		p.Keystore = doomedStore{store, d}
	case roleKeys:
		p.CryptoProvider = &cabinet{pure.New(), filepath.Join(folder, cabinetFolder), d}
		p.Instances = map[string]sdk.Plugin{"pure": {CryptoProvider: doomedKeys{pure.New(), d}}}
	case roleWrapper:
		var w core.KeyWrapper
		w, err = seal.RawKey(core.NewSecret(bytes.Repeat([]byte{7}, 32)))
		p.KeyWrapper = doomedWrapper{w, d}
	case roleIssuer:
		var ca core.CredentialIssuer
		ca, err = companyOf(context.Background())
		p.Issuer = doomedIssuer{ca, d}
		p.Instances = map[string]sdk.Plugin{"basic": {Issuer: doomedIssuer{basic.New(), d}}}
	}
	return p, err
}

// A doom counts the calls of a plugin, over all its lives, and ends its process at the one
// that a file says.
type doom struct {
	path  string
	mu    sync.Mutex
	calls *os.File
	n     int
}

// Where in a call a process may die.
const (
	beforeIt = "before" // the plugin has the call
	afterIt  = "after"  // it has done what was asked, and the answer is not sent
)

// undisturbed is a file in the folder of plugins that live as long as they want. They
// count nothing either, and lose no time by it.
const undisturbed = "undisturbed"

func newDoom(path string) (*doom, error) {
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), undisturbed)); err == nil {
		return nil, nil
	}
	all, err := os.ReadFile(path + ".calls")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	calls, err := os.OpenFile(path+".calls", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &doom{path: path, calls: calls, n: bytes.Count(all, []byte("\n"))}, err
}

func (d *doom) pass(n int, where string) {
	if order, _ := os.ReadFile(d.path + ".doom"); string(order) == fmt.Sprint(n, where) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// at makes a call.
func at[T any](d *doom, call string, f func() (T, error)) (T, error) {
	if d == nil {
		return f()
	}
	d.mu.Lock()
	d.n++
	n := d.n
	_, err := fmt.Fprintln(d.calls, call)
	d.mu.Unlock()
	if err != nil {
		panic(err)
	}
	d.pass(n, beforeIt)
	t, err := f()
	d.pass(n, afterIt)
	return t, err
}

type (
	doomedStore struct {
		core.Keystore
		doom *doom
	}
	doomedKeys struct {
		core.CryptoProvider
		doom *doom
	}
	doomedKey struct { // of a software key
		core.Signer
		doom *doom
	}
	doomedWrapper struct {
		core.KeyWrapper
		doom *doom
	}
	doomedIssuer struct {
		core.CredentialIssuer
		doom *doom
	}
)

func (s doomedStore) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	return at(s.doom, "Read", func() ([][]core.Record, error) { return s.Keystore.Read(ctx, queries) })
}

func (s doomedStore) Apply(ctx context.Context, b core.Batch) error {
	_, err := at(s.doom, "Apply", func() (struct{}, error) { return struct{}{}, s.Keystore.Apply(ctx, b) })
	return err
}

func (k doomedKeys) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	key, err := at(k.doom, "GenerateKey", func() (core.PrivateKey, error) { return k.CryptoProvider.GenerateKey(ctx, spec) })
	return k.key(key, err)
}

func (k doomedKeys) OpenKey(ctx context.Context, ref core.KeyRef, material core.Secret) (core.PrivateKey, error) {
	return k.key(k.CryptoProvider.OpenKey(ctx, ref, material)) // comes before each use
}

func (k doomedKeys) key(key core.PrivateKey, err error) (core.PrivateKey, error) {
	if signer, ok := key.(core.Signer); ok {
		return doomedKey{signer, k.doom}, err
	}
	return key, err
}

func (k doomedKey) Material() core.Secret { return k.Signer.(core.SoftwareKey).Material() }

func (k doomedKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return at(k.doom, "Sign", func() ([]byte, error) { return k.Signer.Sign(ctx, message) })
}

func (w doomedWrapper) Wrap(ctx context.Context, dek core.Secret, aad []byte) ([]byte, error) {
	return at(w.doom, "Wrap", func() ([]byte, error) { return w.KeyWrapper.Wrap(ctx, dek, aad) })
}

func (w doomedWrapper) Unwrap(ctx context.Context, blob, aad []byte) (core.Secret, error) {
	return at(w.doom, "Unwrap", func() (core.Secret, error) { return w.KeyWrapper.Unwrap(ctx, blob, aad) })
}

func (i doomedIssuer) Describe(ctx context.Context) (core.IssuerInfo, error) {
	return at(i.doom, "Describe", func() (core.IssuerInfo, error) { return i.CredentialIssuer.Describe(ctx) })
}

func (i doomedIssuer) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	return at(i.doom, "Begin", func() (core.Step, error) { return i.CredentialIssuer.Begin(ctx, req) })
}

func (i doomedIssuer) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	return at(i.doom, "Advance", func() (core.Step, error) { return i.CredentialIssuer.Advance(ctx, state, in) })
}

const cabinetFolder = "cabinet"

// A cabinet is a crypto provider that keeps its signature keys, in files: a line with the
// algorithm, then the material.
type cabinet struct {
	pure   *pure.Provider
	folder string
	doom   *doom
}

type cabinetKey struct {
	signer core.Signer
	ref    core.KeyRef
	doom   *doom
}

func (k cabinetKey) Ref() core.KeyRef             { return k.ref }
func (k cabinetKey) Algorithm() core.KeyAlgorithm { return k.signer.Algorithm() }
func (k cabinetKey) Public() []byte               { return k.signer.Public() }

func (k cabinetKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return at(k.doom, "Sign", func() ([]byte, error) { return k.signer.Sign(ctx, message) })
}

func (c *cabinet) Algorithms(ctx context.Context) ([]core.KeyAlgorithm, error) {
	return c.pure.Algorithms(ctx)
}

func (c *cabinet) file(ref core.KeyRef) (string, error) {
	if id, err := hex.DecodeString(string(ref)); err != nil || len(id) != 16 {
		return "", fmt.Errorf("key %q: %w", ref, core.ErrDenied)
	}
	return filepath.Join(c.folder, string(ref)), nil
}

func (c *cabinet) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	return at(c.doom, "GenerateKey", func() (core.PrivateKey, error) {
		ref := core.KeyRef(hex.EncodeToString(spec.ID[:]))
		file, err := c.file(ref)
		if err != nil {
			return nil, err
		}
		key, err := c.pure.GenerateKey(ctx, spec)
		if err != nil {
			return nil, err
		}
		text := fmt.Appendf(nil, "%s\n%s\n%s", spec.Algorithm, key.Ref(), key.(core.SoftwareKey).Material().Bytes())
		if err := os.MkdirAll(c.folder, 0o700); err != nil {
			return nil, err
		}
		fresh, err := os.CreateTemp(filepath.Dir(c.folder), "key")
		if err != nil {
			return nil, err
		}
		defer func() { _ = os.Remove(fresh.Name()) }()
		_, err = fresh.Write(text)
		if err = errors.Join(err, fresh.Close()); err != nil {
			return nil, err
		}
		if err := os.Link(fresh.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) { // that is the same key
			return nil, err
		}
		return c.OpenKey(ctx, ref, core.Secret{})
	})
}

func (c *cabinet) OpenKey(ctx context.Context, ref core.KeyRef, _ core.Secret) (core.PrivateKey, error) {
	file, err := c.file(ref)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key %q: %w", ref, core.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	fields := bytes.SplitN(text, []byte("\n"), 3)
	key, err := c.pure.OpenKey(ctx, core.KeyRef(fields[1]), core.NewSecret(fields[2]))
	if err != nil {
		return nil, err
	}
	return cabinetKey{key.(core.Signer), ref, c.doom}, nil
}

func (c *cabinet) DeleteKey(_ context.Context, ref core.KeyRef) error {
	_, err := at(c.doom, "DeleteKey", func() (struct{}, error) {
		file, err := c.file(ref)
		if err != nil {
			return struct{}{}, err
		}
		if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
			return struct{}{}, err
		}
		return struct{}{}, nil
	})
	return err
}

// The CA of the tests has a key that everybody knows, so that it is the same in every life
// of its plugin.
var companyKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))

var companyRoot = sync.OnceValue(func() []byte {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Root"}, SubjectKeyId: []byte("root"),
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, companyKey.Public(), companyKey)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
})

func companyOf(ctx context.Context) (core.CredentialIssuer, error) {
	return localca.New(ctx, localca.Config{
		Certificates: companyRoot(), StateKey: core.NewSecret(bytes.Repeat([]byte{8}, localca.StateKeySize)),
		Key: func(context.Context) (crypto.Signer, error) { return companyKey, nil },
	})
}

// A shelf has the plugins of one client.
type shelf struct {
	folder  string
	plugins map[string]*host.Plugin
}

// launchShelf starts plugins, which may have lived before.
func launchShelf(folder string, roles ...string) (*shelf, error) {
	s := &shelf{folder: folder, plugins: map[string]*host.Plugin{}}
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for _, role := range roles {
		p, err := host.Launch(context.Background(), host.Config{
			Name: role, Path: path, Unpinned: true, Env: []string{roleVariable + "=" + role, folderVariable + "=" + folder},
			Logger: slog.New(slog.DiscardHandler), Backoff: time.Millisecond, Restarts: 1000,
		})
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.plugins[role] = p
	}
	return s, nil
}

func newShelf(t testing.TB, folder string, roles ...string) *shelf {
	t.Helper()
	s, err := launchShelf(folder, roles...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *shelf) close() (err error) {
	for _, p := range s.plugins {
		err = errors.Join(err, p.Close())
	}
	return err
}

// part is what a plugin offers, by name.
func part[T any](s *shelf, role, instance string, of func(*host.Plugin, string) (T, error)) T {
	t, err := of(s.plugins[role], instance)
	if err != nil {
		panic(err) // the roles are ours
	}
	return t
}

func (s *shelf) store() core.Keystore {
	return part(s, roleStore, "", (*host.Plugin).Keystore)
}

func (s *shelf) keys(instance string) core.CryptoProvider {
	return part(s, roleKeys, instance, (*host.Plugin).CryptoProvider)
}

func (s *shelf) wrapper() core.KeyWrapper {
	return part(s, roleWrapper, "", (*host.Plugin).KeyWrapper)
}

func (s *shelf) issuer(instance string) core.CredentialIssuer {
	return part(s, roleIssuer, instance, (*host.Plugin).Issuer)
}

// pids are the processes that a plugin was, the last the one that it is.
func (s *shelf) pids(t testing.TB, role string) (list []int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.folder, role+".pids"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, pid)
	}
	return list
}

func (s *shelf) pid(t testing.TB, role string) int {
	t.Helper()
	list := s.pids(t, role)
	return list[len(list)-1]
}

// kill ends the process of a plugin, if it has not ended yet.
func (s *shelf) kill(t testing.TB, role string) {
	t.Helper()
	if err := syscall.Kill(s.pid(t, role), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
}

// calls are those that a plugin has had.
func (s *shelf) calls(t testing.TB, role string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.folder, role+".calls"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// doom has a plugin die in the n-th call from now.
func (s *shelf) doom(t testing.TB, role string, n int, where string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.folder, role+".calls"))
	if err == nil {
		n += bytes.Count(text, []byte("\n"))
		err = os.WriteFile(filepath.Join(s.folder, role+".doom"), fmt.Append(nil, n, where), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// spare undoes doom.
func (s *shelf) spare(t testing.TB, role string) {
	t.Helper()
	if err := os.Remove(filepath.Join(s.folder, role+".doom")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// back waits until all plugins answer.
func (s *shelf) back(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for role := range s.plugins {
		for {
			var err error
			switch role {
			case roleStore:
				_, err = s.store().Read(ctx, nil)
			case roleKeys:
				_, err = s.keys("").Algorithms(ctx)
			case roleWrapper:
				_, err = s.wrapper().Wrap(ctx, core.NewSecret(make([]byte, 32)), nil)
			case roleIssuer:
				_, err = s.issuer("").Describe(ctx)
			}
			if err == nil {
				break
			}
			if !errors.Is(err, core.ErrUnavailable) {
				t.Fatalf("%s does not come back: %v", role, err)
			}
			time.Sleep(time.Millisecond)
		}
	}
}
