// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

var update = flag.Bool("update", false, "write the tables of testdata")

// TestProbe: what the tokens can do is what is known of them.
func TestProbe(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			k := softhsmtest.Spy(t, kind.make(t))
			token := open(t, k.URI())
			report, err := token.Probe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if report.Token != k.Label || report.Serial == "" {
				t.Errorf("the token is %q, %q", report.Token, report.Serial)
			}
			text, err := json.Marshal(report)
			if err != nil {
				t.Fatal(err)
			}
			var again hsm.Report
			if err := json.Unmarshal(text, &again); err != nil || again.String() != report.String() {
				t.Errorf("as JSON it is another: %v, %s", err, text)
			}

			calls := len(k.Calls(t, "C_GenerateKey", "C_GenerateKeyPair"))
			want := report.String()
			for range 2 {
				report.Keys[0].Name = "changed" // by a caller
				if report, err = token.Probe(t.Context()); err != nil || report.String() != want {
					t.Errorf("again it is %v\n%s", err, report)
				}
			}
			algorithms, err := token.Provider().Algorithms(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			works := 0
			for _, a := range report.Keys {
				if a.State == hsm.Works {
					works++
				}
			}
			if len(algorithms) != works {
				t.Errorf("the provider has %v", algorithms)
			}
			// The TPM's module says CKR_GENERAL_ERROR of ECDH, which may be otherwise next time.
			if again := len(k.Calls(t, "C_GenerateKey", "C_GenerateKeyPair")) - calls; again > 0 != (kind.name == "tpm") {
				t.Errorf("what was tried is tried again: %d keys are made", again)
			}

			report.Token, report.Serial = "(token)", "(number)"
			golden(t, k.Kind, report.String())

			b := bare{}
			if kind.name == "p11-kit" {
				b = login(t, k.Local().Local())
			} else {
				b = attach(t, k)
			}
			for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_SECRET_KEY} {
				if left := b.find(t, class); left != 0 {
					t.Errorf("%d objects of class %d are left over", left, class)
				}
			}
		})
	}
}

// golden compares with a table of the version of the library that the first line names.
func golden(t testing.TB, kind, text string) {
	t.Helper()
	library, _, _ := strings.Cut(text, "\n")
	path := filepath.Join("testdata", kind+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Fatal("there is no table; -update makes one")
	}
	if err != nil {
		t.Fatal(err)
	}
	if known, _, _ := strings.Cut(string(want), "\n"); known != library {
		coretest.Lacking(t, "the table is of "+known+", and here is "+library)
	}
	if string(want) != text {
		t.Errorf("%s is\n%s\nand is no more\n%s", path, text, want)
	}
}
