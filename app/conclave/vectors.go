// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

func (p *program) vectors() *cobra.Command {
	return &cobra.Command{
		Use:   "vectors [PATH...]",
		Short: "Run MLS test vectors through the engine",
		Long: `Run files of MLS test vectors, in the shapes of the MLS working group, through
the engine: a self-test of this very program. The type of a file is known by its
fields. Of a folder, every *.json in and below it is run, but for those of drafts
that the engine does not have (pq/, targeted-messages.json). Without a path it is
the folder vectors/mls in ./shared or else in ../shared.

The exit code is 1 if a case failed or none was run. A case is skipped only for
what the engine does not implement, or if a part of it is proven to be stale while
the rest holds; the reason is printed.`,
		Example: "  conclave vectors\n  conclave vectors welcome.json treekem.json\n  conclave vectors test-vectors/",
		RunE: func(cmd *cobra.Command, paths []string) error {
			if len(paths) == 0 {
				folder, err := sharedVectors()
				if err != nil {
					return err
				}
				paths = []string{folder}
			}
			files, err := p.vectorFiles(paths)
			if err != nil {
				return err
			}
			return p.runVectors(cmd.Context(), files)
		},
	}
}

// sharedVectors finds the folder where a checkout has its test data.
func sharedVectors() (string, error) {
	for _, root := range []string{".", ".."} {
		folder := filepath.Join(root, "shared", "vectors", "mls")
		if _, err := os.Stat(folder); err == nil {
			return folder, nil
		}
	}
	return "", fmt.Errorf("no folder of test vectors in ./shared or ../shared: name one: %w", core.ErrNotFound)
}

// draftVectors are left out of folders.
var draftVectors = map[string]string{
	"pq":                     "the post-quantum drafts are not implemented",
	"targeted-messages.json": "targeted messages (a draft) are not implemented",
}

// vectorFiles puts the JSON files in and below a folder in its place.
func (p *program) vectorFiles(paths []string) (files []string, err error) {
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if reason, out := draftVectors[entry.Name()]; out && name != path {
				p.printf("out   %s: %s\n", name, reason)
				if entry.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if name == path && !entry.IsDir() || filepath.Ext(name) == ".json" && entry.Type().IsRegular() {
				files = append(files, name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// errVectors: some failed, or there were none.
var errVectors = errors.New("the test vectors did not pass")

func (p *program) runVectors(ctx context.Context, files []string) error {
	type outcome struct {
		report *mls.VectorReport
		err    error
	}
	software := pure.New()
	// All at once, as far as there are cores, and told in their order.
	outcomes := make([]chan outcome, len(files))
	cores := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, file := range files {
		outcomes[i] = make(chan outcome, 1)
		go func() {
			cores <- struct{}{}
			defer func() { <-cores }()
			text, err := os.ReadFile(file)
			if err != nil {
				outcomes[i] <- outcome{nil, err}
				return
			}
			report, err := mls.RunVectors(ctx, software, software, text)
			outcomes[i] <- outcome{report, err}
		}()
	}
	var passed, failed, skipped int
	for i, file := range files {
		o := <-outcomes[i]
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if o.err != nil {
			failed++
			p.printf("FAIL  %s: %v\n", file, o.err)
			continue
		}
		report, verdict := o.report, "ok"
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
