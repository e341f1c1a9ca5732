// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/plugins/sdk"
	"github.com/conclave-mls/conclave/providers/localca"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

var (
	demoSeed = flag.Uint64("demo-seed", 1, "of the lives of the plugins in TestDemoWithPlugins")
	demoRuns = flag.Uint64("demo-runs", 1, "how many runs TestDemoWithPlugins has, each with the seed after")
)

// demoRole is the variable of a plugin that TestDemoWithPlugins has: this program again.
const demoRole = "CONCLAVE_TEST_PLUGIN"

// beDemoPlugin is a plugin that one time in six is killed soon.
func beDemoPlugin(role string) {
	p, err := demoPlugin(role)
	if err == nil {
		err = fate(role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sdk.Serve(p)
}

func demoPlugin(role string) (p sdk.Plugin, err error) {
	switch role {
	case "store":
		p.Keystore, err = sqlite.Open(context.Background(), "store.db")
	case "keys":
		p.CryptoProvider = pure.New()
	case "wrapper":
		p.KeyWrapper, err = seal.RawKey(core.NewSecret(bytes.Repeat([]byte{7}, 32)))
	case "issuer":
		p.Issuer, err = localca.New(context.Background(), localca.Config{
			Certificates: demoRoot(), StateKey: core.NewSecret(bytes.Repeat([]byte{8}, localca.StateKeySize)),
			Key: func(context.Context) (crypto.Signer, error) { return demoCA, nil },
		})
	}
	return p, err
}

// The CA is the same in every life of its plugin.
var demoCA = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))

func demoRoot() []byte {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Root"}, SubjectKeyId: []byte("root"),
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, demoCA.Public(), demoCA)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// fate decides what becomes of this life of a plugin. The working directory, which is the
// home of a member, has a file with a byte for each.
func fate(role string) error {
	note := func(path string) (int64, error) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		defer func() { _ = f.Close() }()
		if _, err := f.WriteString("x"); err != nil {
			return 0, err
		}
		info, err := f.Stat()
		return info.Size(), err
	}
	life, err := note(role + ".lives")
	if err != nil {
		return err
	}
	home, err := os.Getwd()
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		return err
	}
	of := uint64(life)
	for _, b := range []byte(role + filepath.Base(home)) {
		of = of*31 + uint64(b)
	}
	rng := rand.New(rand.NewPCG(seed, of))
	if rng.IntN(6) == 0 {
		time.AfterFunc(time.Duration(rng.Int64N(int64(200*time.Millisecond))), func() {
			_, _ = note(os.Getenv("KILLS"))
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		})
	}
	return nil
}

// TestDemoWithPlugins is the demonstration with the store, the keys, the key wrapper and
// the issuer of each member in a plugin of its own. One life in six of a plugin is short:
// it is killed after a random time.
func TestDemoWithPlugins(t *testing.T) {
	t.Parallel()
	for seed := *demoSeed; seed < *demoSeed+*demoRuns; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { demoWithPlugins(t, seed) })
	}
}

func demoWithPlugins(t *testing.T, seed uint64) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	kills := filepath.Join(folder, "kills")
	text := `keystore = "plugin:store"
key = "plugin:wrapper"
crypto = "plugin:keys"
issuer = "plugin:issuer"
`
	for _, role := range []string{"store", "wrapper", "keys", "issuer"} {
		text += fmt.Sprintf("\n[plugin.%s]\npath = %q\nunpinned = true\nenv = { %s = %q, SEED = \"%d\", KILLS = %q }\n",
			role, self, demoRole, role, seed, kills)
	}
	file, tmp := filepath.Join(folder, "plugins.toml"), filepath.Join(folder, "tmp")
	root := filepath.Join(folder, "ca.pem")
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.WriteFile(root, demoRoot(), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := real(ctx, t, "demo", "--config", file, "--trust", root)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, out)
	}
	for _, want := range []string{"killed with SIGKILL", "All members agreed after every step"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("nothing of %q in\n%s", want, out)
		}
	}
	killed, err := os.ReadFile(kills)
	if err != nil || len(killed) < 3 {
		t.Errorf("%d plugins were killed, %v", len(killed), err)
	}
	t.Logf("seed %d: %d plugins were killed in\n%s", seed, len(killed), out)
	left, err := os.ReadDir(tmp)
	left = slices.DeleteFunc(left, func(e os.DirEntry) bool { // of a plugin that was killed together with its host
		return strings.HasPrefix(e.Name(), "conclave-plugin-")
	})
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
