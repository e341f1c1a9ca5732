// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/vectors"
	"github.com/conclave-mls/conclave/providers/pure"
)

// KS-1, TREE-1, TREE-6, TREE-8, TREE-9, PATH-1, PATH-4, PATH-8: every file of the
// working group passes whole, in all seven suites, with nothing skipped.
func TestVectors(t *testing.T) { testVectors(t, "vectors", "mls") }

// Files from elsewhere, in the same shapes.
func TestExtraVectors(t *testing.T)       { testVectors(t, "vectors", "mls", "extra") }
func TestPostQuantumVectors(t *testing.T) { testVectors(t, "vectors", "mls", "pq") }

// LEAF-10, KP-9, KS-9, PATH-7: groups recorded from live runs of several implementations,
// whose leaves and key packages say much that nobody knows.
func TestInteropVectors(t *testing.T) { testVectors(t, "vectors", "mls", "passive-interop") }

// testVectors runs all files of a folder, each as a test of its own. Nothing fails,
// and what is skipped is exactly what is listed.
func testVectors(t *testing.T, folder ...string) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(coretest.Shared(t, folder...), "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors (%v)", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := pure.New()
			report, err := mls.RunVectors(t.Context(), p, p, data)
			if err != nil {
				t.Fatal(err)
			}
			for i, failure := range report.Failed {
				if i == 5 {
					t.Errorf("and %d more", len(report.Failed)-i)
					break
				}
				t.Errorf("case %d: %v", failure.Case, failure.Err)
			}
			if want := skippedVectors[filepath.Base(file)]; len(report.Skipped) != want {
				t.Errorf("%d cases skipped, not %d", len(report.Skipped), want)
			}
			if report.Passed+len(report.Skipped) == 0 {
				t.Error("nothing ran")
			}
			t.Logf("%s: %d passed, %d failed, %d skipped", report.Type, report.Passed, len(report.Failed), len(report.Skipped))
		})
	}
}

// skippedVectors are the cases for which the engine has nothing yet: the report
// gives the reason.
var skippedVectors = map[string]int{
	"targeted-messages.json": 3,
	"crypto-basics-2.json":   2, // see TestStaleVectors
	"hpke-pq.json":           7,
	"xwing-kem.json":         2,
}

// What is no file of vectors says so; a case that is wrong fails alone, and one
// of a suite that is not there is skipped with the reason.
func TestRunVectorsReports(t *testing.T) {
	t.Parallel()
	ctx, p := context.Background(), pure.New()
	for file, want := range map[string]error{
		``:                   core.ErrInvalid,
		`[{]`:                core.ErrInvalid,
		`{}`:                 core.ErrUnsupported, // as those of Proteus are
		`[]`:                 core.ErrInvalid,
		`[1]`:                core.ErrUnsupported,
		`[{"something": 1}]`: core.ErrUnsupported,
	} {
		if report, err := mls.RunVectors(ctx, p, p, []byte(file)); !errors.Is(err, want) || report != nil {
			t.Errorf("%s: %v, %v", file, report, err)
		}
	}
	report, err := mls.RunVectors(ctx, p, p, []byte(`[
		{"vlbytes_header": "00", "length": 0},
		{"vlbytes_header": "00", "length": 1},
		{"vlbytes_header": "zz", "length": 0},
		{"length": 0}]`))
	if err != nil || report.Type != "deserialization" || report.Passed != 1 || len(report.Skipped) != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	for i, failure := range report.Failed {
		if failure.Case != i+1 || failure.Err == nil {
			t.Errorf("failure %d is %+v", i, failure)
		}
	}
	if len(report.Failed) != 3 {
		t.Errorf("%d failures", len(report.Failed))
	}
	report, err = mls.RunVectors(ctx, p, p, []byte(`[{"cipher_suite": 65535, "generations": ["00", "00"]}]`))
	if err != nil || len(report.Skipped) != 1 || report.Skipped[0].Err.Error() != "cipher suite 0xFFFF is not supported" {
		t.Errorf("%+v, %v", report, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := mls.RunVectors(cancelled, p, p, []byte(`[{"vlbytes_header": "00"}]`)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Cases 2 and 3 of a file from elsewhere, of suites 5 and 7, are signed with SHA-256;
// RFC 9420 section 17.1 has SHA-512 and SHA-384. All else of them is run: whatever is
// changed in them makes them fail.
func TestStaleVectors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(coretest.Shared(t, "vectors", "mls", "extra", "crypto-basics-2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []any
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	p := pure.New()
	for i, hash := range map[int]string{2: "SHA-512", 3: "SHA-384"} {
		run := func() *vectors.Report {
			one, err := json.Marshal(cases[i : i+1])
			if err != nil {
				t.Fatal(err)
			}
			report, err := mls.RunVectors(t.Context(), p, p, one)
			if err != nil {
				t.Fatal(err)
			}
			return report
		}
		want := "the file is stale: its signature is made with SHA-256, where RFC 9420 section 17.1 has " + hash + "; all else of the case holds"
		if r := run(); len(r.Skipped) != 1 || r.Skipped[0].Err.Error() != want {
			t.Errorf("case %d: %+v", i, r)
		}
		n := changeEach("", cases[i], func(any) {}, func(path string) {
			if r := run(); len(r.Failed) != 1 && path != ".cipher_suite" {
				t.Errorf("case %d: %s was changed: %+v", i, path, r)
			}
		})
		if n < 20 {
			t.Errorf("only %d fields", n)
		}
	}
}

// A vector that was changed fails: what a file says is compared, not only read.
func TestRunVectorsCatchesChanges(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"crypto-basics", "deserialization", "key-schedule", "message-protection", "messages", "passive-client-handling-commit",
		"passive-client-welcome", "psk_secret", "secret-tree", "transcript-hashes", "tree-math", "tree-operations",
		"tree-validation", "treekem", "welcome", "extra/key-package-ref", "extra/path-secret", "extra/proposal-ref",
		"extra/sender-data", "extra/tree-hash",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(coretest.Shared(t, "vectors", "mls", filepath.FromSlash(name)+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var cases []any
			if err := json.Unmarshal(data, &cases); err != nil {
				t.Fatal(err)
			}
			p := pure.New()
			one := cases[1] // the first is often the empty one
			each := func(path string) {
				changed, err := json.Marshal([]any{one})
				if err != nil {
					t.Fatal(err)
				}
				report, err := mls.RunVectors(t.Context(), p, p, changed)
				if err == nil && report.Passed != 0 && !slices.Contains(idleFields, path) {
					t.Errorf("%s was changed and the case passes", path)
				}
			}
			if n := changeEach("", one, func(any) {}, each); n < 2 {
				t.Errorf("only %d fields", n)
			}
		})
	}
}

// idleFields decide nothing: the sender of an Add, and four bytes that are a leaf
// index whatever they are.
var idleFields = []string{".proposal_sender", ".remove_proposal"}

// changeEach changes one leaf of a JSON value at a time, calls each and puts it
// back. Of a list the first and the last elements are changed.
func changeEach(path string, v any, set func(any), each func(path string)) (n int) {
	switch v := v.(type) {
	case map[string]any:
		for key, field := range v {
			n += changeEach(path+"."+key, field, func(x any) { v[key] = x }, each)
		}
		return n
	case []any:
		for i, element := range v {
			if i == 0 || i == len(v)-1 {
				n += changeEach(path, element, func(x any) { v[i] = x }, each)
			}
		}
		return n
	case string:
		if v == "" {
			return 0
		}
		first := "8"
		if v[:1] == first {
			first = "0"
		}
		set(first + v[1:])
	case float64:
		set(v + 4) // another hash, if it is a suite
	default:
		return 0
	}
	each(path)
	set(v)
	return 1
}
