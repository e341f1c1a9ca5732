// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

func (p *program) vectors() *cobra.Command {
	return &cobra.Command{
		Use:   "vectors PATH...",
		Short: "Run MLS test vectors through the engine",
		Long: `Run files of MLS test vectors, in the shapes of the MLS working group, through
the engine: a self-test of this very program. The type of a file is known by its
fields. Of a folder, every *.json directly in it is run.

The exit code is 1 if a case failed or none was run. A case is skipped only for
what the engine does not implement, and the reason is printed.`,
		Example: "  conclave vectors welcome.json treekem.json\n  conclave vectors test-vectors/",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			files, err := vectorFiles(paths)
			if err != nil {
				return err
			}
			return p.runVectors(cmd.Context(), files)
		},
	}
}

// vectorFiles puts the JSON files of a folder in its place.
func vectorFiles(paths []string) (files []string, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		inside, err := filepath.Glob(filepath.Join(path, "*.json"))
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", path, core.ErrInvalid, err)
		}
		files = append(files, inside...)
	}
	return files, nil
}

// errVectors: some failed, or there were none.
var errVectors = errors.New("the test vectors did not pass")

func (p *program) runVectors(ctx context.Context, files []string) error {
	var passed, failed, skipped int
	software := pure.New()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		report, err := mls.RunVectors(ctx, software, software, text)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed++
			p.printf("FAIL  %s: %v\n", file, err)
			continue
		}
		verdict := "ok"
		switch {
		case len(report.Failed) > 0:
			verdict = "FAIL"
		case report.Passed == 0:
			verdict = "skip"
		}
		p.printf("%-5s %s: %s: %d passed, %d failed, %d skipped\n",
			verdict, file, report.Type, report.Passed, len(report.Failed), len(report.Skipped))
		p.printOutcomes("failed", report.Failed)
		p.printOutcomes("skipped", report.Skipped)
		passed, failed, skipped = passed+report.Passed, failed+len(report.Failed), skipped+len(report.Skipped)
	}
	p.printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if failed > 0 || passed == 0 {
		return errVectors
	}
	return nil
}

// printOutcomes tells each reason once, with how many cases and which was the first.
func (p *program) printOutcomes(what string, outcomes []mls.VectorOutcome) {
	var reasons []string
	first, count := map[string]int{}, map[string]int{}
	for _, o := range outcomes {
		reason := o.Err.Error()
		if !slices.Contains(reasons, reason) {
			reasons, first[reason] = append(reasons, reason), o.Case
		}
		count[reason]++
	}
	for _, reason := range reasons {
		p.printf("      case %d %s: %s", first[reason], what, reason)
		if n := count[reason] - 1; n > 0 {
			p.printf(" (and %d more)", n)
		}
		p.printf("\n")
	}
}
