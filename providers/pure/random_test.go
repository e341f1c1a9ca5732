// SPDX-License-Identifier: Apache-2.0

package pure_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/pure"
)

// dead is a random source that fails.
type dead struct{}

func (dead) Read([]byte) (int, error) { return 0, errors.New("no randomness") }

// CS-7, libcrux/random: where there is no randomness there is no key. What reads the
// process's source ends the process when it fails; what has the standard library's
// own does not depend on it. Nobody goes on with zeros.
func TestNoKeysWithoutRandomness(t *testing.T) {
	t.Parallel()
	p := pure.New()
	algorithms, err := p.Algorithms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if which := os.Getenv("CONCLAVE_TEST_KEY"); which != "" { // the child
		spec := core.KeySpec{Algorithm: core.KeyAlgorithm(which), Use: core.UseDecrypt}
		if strings.HasPrefix(which, "Ed") || strings.HasPrefix(which, "ECDSA") {
			spec.Use = core.UseSign
		}
		rand.Reader = dead{}
		key, err := p.GenerateKey(t.Context(), spec)
		if err != nil {
			os.Exit(3)
		}
		fmt.Printf("key %x\n", key.(core.SoftwareKey).Material().Bytes())
		os.Exit(0)
	}
	for _, a := range algorithms {
		seen := map[string]bool{}
		for range 2 {
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoKeysWithoutRandomness$")
			child.Env = append(os.Environ(), "CONCLAVE_TEST_KEY="+string(a))
			out, err := child.CombinedOutput()
			if err != nil {
				if !strings.Contains(string(out), "failed to read random data") && child.ProcessState.ExitCode() != 3 {
					t.Errorf("%s: %v: %s", a, err, out)
				}
				break
			}
			key := strings.TrimSpace(strings.TrimPrefix(string(out), "key "))
			if len(key) < 64 || strings.Trim(key, "0") == "" || seen[key] {
				t.Errorf("%s: without randomness the key is %q", a, key)
			}
			seen[key] = true
		}
	}
}
