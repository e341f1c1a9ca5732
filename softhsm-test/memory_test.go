// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/pure"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

// holdKeys signs with a key of the token and with one in software, until its input ends.
// It writes the software key into the file Store, as it is in memory.
func (p part) holdKeys(ctx context.Context) error {
	token, err := hsm.Open(ctx, hsm.Config{URI: p.Token})
	if err != nil {
		return err
	}
	inToken, err := token.Provider().OpenKey(ctx, p.Memory, core.Secret{})
	if err != nil {
		return err
	}
	inSoftware, err := pure.New().GenerateKey(ctx, core.KeySpec{Algorithm: core.ECDSAP256, Use: core.UseSign})
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.Store, inSoftware.(core.SoftwareKey).Material().Bytes(), 0o600); err != nil {
		return err
	}
	sign := func() error {
		for _, key := range []core.PrivateKey{inToken, inSoftware} {
			if _, err := key.(core.Signer).Sign(ctx, []byte("message")); err != nil {
				return err
			}
		}
		return nil
	}
	for range 50 {
		if err := sign(); err != nil {
			return err
		}
	}
	fmt.Printf("%x\n", inToken.Public())
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	for {
		select {
		case <-ended:
			return token.Close()
		default:
			if err := sign(); err != nil {
				return err
			}
		}
	}
}

// TestMemory: a key whose value we know is imported into a token in another process,
// behind p11-kit. In the memory of a process that signs with it there is no copy of the
// key, in no encoding, while a software key of the same process is found there.
func TestMemory(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs the memory of other processes in /proc")
	}
	k := softhsmtest.P11Kit(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	value, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	file := filepath.Join(folder, "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	local := k.Local()
	local.Run(t, "softhsm2-util", "--module", local.ModulePath, "--import", file, "--token", local.Label, "--pin", local.PIN, "--label", "imported", "--id", "0e0e")

	p := part{Token: k.URI(), Store: filepath.Join(folder, "control"), Memory: core.KeyRef("pkcs11:token=" + strings.ReplaceAll(k.Label, " ", "%20") + ";id=%0E%0E")}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asMember+"="+string(text))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	public, _ := key.PublicKey.Bytes()
	if err != nil || line != hex.EncodeToString(public)+"\n" {
		_ = stdin.Close()
		t.Fatalf("the process signs with %q: %v, %v\n%s", line, err, cmd.Wait(), stderr.String())
	}
	control, err := os.ReadFile(p.Store)
	if err != nil || len(control) != len(value) {
		t.Fatalf("a software key of %d bytes: %v", len(control), err)
	}

	for range 3 { // it goes on signing meanwhile
		found, scanned := scan(t, cmd.Process.Pid, map[string][]byte{"imported": value, "software": control})
		t.Logf("%d bytes of memory, found %q", scanned, found)
		for _, what := range []string{"software, big-endian", "software, little-endian"} {
			if !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, what) }) {
				t.Errorf("%s is not found: the scan proves nothing", what)
			}
		}
		if slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, "imported") }) {
			t.Errorf("the key of the token is in our memory: %q", found)
		}
	}
	if err := stdin.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
}

// forms are what copies of a private key look like: each half of it, in the encodings
// that there are, DER among them, in which it is big-endian.
func forms(value []byte) map[string][]byte {
	out := map[string][]byte{}
	reversed := slices.Clone(value)
	slices.Reverse(reversed)
	for order, v := range map[string][]byte{"big-endian": value, "little-endian": reversed} {
		for i, half := range [][]byte{v[:len(v)/2], v[len(v)/2:]} {
			name := fmt.Sprintf("%s, half %d", order, i+1)
			out[name] = half
			out[name+", hex"] = []byte(hex.EncodeToString(half))
			out[name+", HEX"] = bytes.ToUpper(out[name+", hex"])
		}
	}
	for skip := range 3 { // bytes may begin anywhere in a group of three
		out[fmt.Sprintf("base64 from %d", skip)] = []byte(base64.StdEncoding.EncodeToString(value[skip : skip+18]))
	}
	return out
}

// scan looks for keys in all memory of a process that can be read.
func scan(t *testing.T, pid int, keys map[string][]byte) (found []string, scanned int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	needles := map[string][]byte{}
	for name, value := range keys {
		for form, needle := range forms(value) {
			needles[name+", "+form] = needle
		}
	}
	const step, overlap = 1 << 20, 64 // longer than any needle
	buffer := make([]byte, step+overlap)
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) < 5 || f[1][0] != 'r' || strings.Contains(line, "[v") { // the kernel's own
			continue
		}
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for at := from; at < to; at += step {
			n, err := memory.ReadAt(buffer[:min(int64(len(buffer)), to-at)], at)
			if n == 0 && err != nil {
				continue // unmapped meanwhile
			}
			scanned += min(n, step)
			for name, needle := range needles {
				if bytes.Contains(buffer[:n], needle) {
					found = append(found, name)
				}
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), scanned
}
