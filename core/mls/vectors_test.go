// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

// Every file of the working group passes whole, with nothing skipped.
func TestVectors(t *testing.T) {
	t.Parallel()
	folder := coretest.Shared(t, "vectors", "mls")
	for name, report := range vectorReports(t, folder, "crypto-basics", "deserialization", "messages", "psk_secret") {
		if len(report.Skipped) != 0 {
			t.Errorf("%s: %d cases skipped", name, len(report.Skipped))
		}
	}
}

// vectorReports runs files of a folder, each as a test of its own, and returns
// the reports by name.
func vectorReports(t *testing.T, folder string, files ...string) map[string]*mls.VectorReport {
	t.Helper()
	reports := make(map[string]*mls.VectorReport)
	for _, name := range files {
		file := filepath.Join(folder, name+".json")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := pure.New()
			report, err := mls.RunVectors(context.Background(), p, p, data)
			if err != nil {
				t.Fatal(err)
			}
			for i, failure := range report.Failed {
				if i == 5 {
					t.Errorf("and %d more", len(report.Failed)-i)
					break
				}
				if !slices.Contains(wrongVectors[name], failure.Case) {
					t.Errorf("case %d: %v", failure.Case, failure.Err)
				}
			}
			if len(report.Failed) < len(wrongVectors[name]) {
				t.Error("a case that is listed as wrong passed")
			}
			if report.Passed+len(report.Skipped) == 0 {
				t.Error("nothing ran")
			}
			t.Logf("%s: %d passed, %d failed, %d skipped", report.Type, report.Passed, len(report.Failed), len(report.Skipped))
			reports[name] = report
		})
	}
	return reports
}

// Files from elsewhere, in the same shapes.
func TestExtraVectors(t *testing.T) {
	t.Parallel()
	folder := coretest.Shared(t, "vectors", "mls", "extra")
	for name, report := range vectorReports(t, folder, "crypto-basics-2", "key-package-ref", "messages-2", "path-secret", "proposal-ref", "psk-secret-2") {
		if len(report.Skipped) != 0 {
			t.Errorf("%s: %d cases skipped", name, len(report.Skipped))
		}
	}
}

// wrongVectors are the cases that contradict RFC 9420.
var wrongVectors = map[string][]int{
	// Suites 5 and 7 signed with SHA-256; section 17.1 has SHA-512 and SHA-384.
	"crypto-basics-2": {2, 3},
}

// What is no file of vectors says so; a case that is wrong fails alone, and one
// of a suite that is not there is skipped with the reason.
func TestRunVectorsReports(t *testing.T) {
	t.Parallel()
	ctx, p := context.Background(), pure.New()
	for file, want := range map[string]error{
		``:                   core.ErrInvalid,
		`{}`:                 core.ErrInvalid,
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
