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
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
	"github.com/conclave-mls/conclave/core/vectors"
	"github.com/conclave-mls/conclave/providers/pure"
)

func (p *program) vectors() *cobra.Command {
	return &cobra.Command{
		Use:         "vectors [PATH...]",
		Annotations: only("json"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		Short: "Run test vectors through the engines",
		Long: `Run files of test vectors through the engines: a self-test of this very program.
They are those of the MLS working group, and others in the same shapes, and recorded
conversations and stores of Proteus. The type of a file is known by its fields. Of a folder, every *.json in and below it is run, but for
those of drafts that the engine does not have (pq/, targeted-messages.json). Without a
path it is the folders vectors/mls and vectors/proteus in ./shared or else in ../shared.

The exit code is 1 if a case failed or none was run. A case is skipped only for
what the engine does not implement, or if a part of it is proven to be stale while
the rest holds; the reason is printed.

With --json there is a line for each file ("file", "type", "verdict", "passed",
"failed", "skipped", "reasons") and then one with the sums.`,
		Example: "  conclave vectors\n  conclave vectors welcome.json treekem.json\n  conclave vectors test-vectors/",
		RunE: func(cmd *cobra.Command, paths []string) error {
			if len(paths) == 0 {
				if paths = sharedVectors(); len(paths) == 0 {
					return fmt.Errorf("no folder of test vectors in ./shared or ../shared: name one: %w", core.ErrNotFound)
				}
			}
			files, err := p.vectorFiles(paths)
			if err != nil {
				return err
			}
			return p.runVectors(cmd.Context(), files)
		},
	}
}

// A vectorEngine runs the files of one protocol. One of another is core.ErrUnsupported.
type vectorEngine struct {
	folder string // in the shared folder's vectors
	run    func(context.Context, core.SuiteSource, core.CryptoProvider, []byte) (*vectors.Report, error)
}

// vectorEngines are asked in this order what a file is.
var vectorEngines = []vectorEngine{
	{"mls", mls.RunVectors},
	{"proteus", runProteusVectors},
}

// runProteusVectors is for both kinds of files; Proteus brings its own cryptography.
func runProteusVectors(ctx context.Context, _ core.SuiteSource, _ core.CryptoProvider, file []byte) (*vectors.Report, error) {
	report, err := proteus.RunVectors(ctx, file)
	if errors.Is(err, core.ErrUnsupported) {
		return cryptobox.RunVectors(ctx, file)
	}
	return report, err
}

// runVectorFile runs a file through the engine that knows its type.
func runVectorFile(ctx context.Context, engines []vectorEngine, file []byte) (report *vectors.Report, err error) {
	software := pure.New()
	for _, e := range engines {
		if report, err = e.run(ctx, software, software, file); !errors.Is(err, core.ErrUnsupported) {
			return report, err
		}
	}
	return nil, fmt.Errorf("test vectors of unknown type: %w", core.ErrUnsupported)
}

// sharedVectors finds the folders where a checkout has its test data.
func sharedVectors() (folders []string) {
	for _, root := range []string{".", ".."} {
		for _, e := range vectorEngines {
			folder := filepath.Join(root, "shared", "vectors", e.folder)
			if _, err := os.Stat(folder); err == nil {
				folders = append(folders, folder)
			}
		}
		if folders != nil {
			break
		}
	}
	return folders
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
				if err := p.result(vectorFile{File: name, Verdict: "out", Error: reason}, "out   %s: %s\n", name, reason); err != nil {
					return err
				}
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

// vectorFile is what became of a file, for --json.
type vectorFile struct {
	File    string         `json:"file"`
	Type    string         `json:"type,omitempty"`
	Verdict string         `json:"verdict"` // "ok", "FAIL", "skip", "out"
	Error   string         `json:"error,omitempty"`
	Passed  int            `json:"passed"`
	Failed  int            `json:"failed"`
	Skipped int            `json:"skipped"`
	Reasons []vectorReason `json:"reasons,omitempty"`
}

// vectorReason is why cases failed or were skipped.
type vectorReason struct {
	What   string `json:"what"` // "failed" or "skipped"
	Reason string `json:"reason"`
	First  int    `json:"first"` // case
	Count  int    `json:"count"`
}

func (p *program) runVectors(ctx context.Context, files []string) error {
	type outcome struct {
		report *vectors.Report
		err    error
	}
	// All at once, as far as there are cores, and told in their order.
	var done atomic.Int64
	outcomes := make([]chan outcome, len(files))
	cores := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, file := range files {
		outcomes[i] = make(chan outcome, 1)
		go func() {
			cores <- struct{}{}
			defer func() {
				done.Add(1)
				<-cores
			}()
			text, err := os.ReadFile(file)
			if err != nil {
				outcomes[i] <- outcome{nil, err}
				return
			}
			report, err := runVectorFile(ctx, vectorEngines, text)
			outcomes[i] <- outcome{report, err}
		}()
	}
	var passed, failed, skipped int
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for i, file := range files {
		var o outcome
		for waiting := true; waiting; {
			select {
			case o = <-outcomes[i]:
				waiting = false
			case <-tick.C:
				p.progress.at("files of test vectors", int(done.Load()), len(files))
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if o.err != nil {
			failed++
			if err := p.result(vectorFile{File: file, Verdict: "FAIL", Error: o.err.Error()}, "FAIL  %s: %v\n", file, o.err); err != nil {
				return err
			}
			continue
		}
		report, verdict := o.report, "ok"
		switch {
		case len(report.Failed) > 0:
			verdict = "FAIL"
		case report.Passed == 0:
			verdict = "skip"
		}
		told := vectorFile{
			File: file, Type: report.Type, Verdict: verdict,
			Passed: report.Passed, Failed: len(report.Failed), Skipped: len(report.Skipped),
			Reasons: append(reasonsOf("failed", report.Failed), reasonsOf("skipped", report.Skipped)...),
		}
		if err := p.result(told, "%s", told.words()); err != nil {
			return err
		}
		passed, failed, skipped = passed+report.Passed, failed+len(report.Failed), skipped+len(report.Skipped)
	}
	err := p.result(struct {
		Passed  int `json:"passed"`
		Failed  int `json:"failed"`
		Skipped int `json:"skipped"`
	}{passed, failed, skipped}, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if err == nil && (failed > 0 || passed == 0) {
		return errTold
	}
	return err
}

// words are what a person sees of it.
func (v vectorFile) words() string {
	s := fmt.Sprintf("%-5s %s: %s: %d passed, %d failed, %d skipped\n", v.Verdict, v.File, v.Type, v.Passed, v.Failed, v.Skipped)
	for _, r := range v.Reasons {
		s += fmt.Sprintf("      case %d %s: %s", r.First, r.What, r.Reason)
		if r.Count > 1 {
			s += fmt.Sprintf(" (and %d more)", r.Count-1)
		}
		s += "\n"
	}
	return s
}

// reasonsOf tells each reason once, with how many cases and which was the first.
func reasonsOf(what string, outcomes []vectors.Outcome) (reasons []vectorReason) {
	for _, o := range outcomes {
		reason := o.Err.Error()
		i := slices.IndexFunc(reasons, func(r vectorReason) bool { return r.Reason == reason })
		if i < 0 {
			reasons = append(reasons, vectorReason{What: what, Reason: reason, First: o.Case})
			i = len(reasons) - 1
		}
		reasons[i].Count++
	}
	return reasons
}
