// SPDX-License-Identifier: Apache-2.0

// Package vectors is how an engine tells what became of a file of test vectors. Each
// engine has a function that runs a file and returns a [Report]: it calls
// [Report.Add] once for each case, with nil, with why the case failed, or with a
// [Skip]. A file of another engine is core.ErrUnsupported, so that whoever has
// several engines can ask one after another; `conclave vectors` does.
package vectors

import "errors"

// A Report tells how the cases of one file fared.
type Report struct {
	Type    string // what kind of file it is
	Passed  int
	Failed  []Outcome
	Skipped []Outcome
}

// An Outcome is why a case failed or was skipped.
type Outcome struct {
	Case int // index in the file, or in the order in which the cases were added
	Err  error
}

// A Skip is the reason why a case was not run, or not all of it. It is for what the
// engine or the suites do not have, and for a part that is proven to be stale, if the
// rest of the case holds.
type Skip string

// Error is the reason.
func (s Skip) Error() string { return string(s) }

// Add counts the next case: it has passed if err is nil, it was skipped if there is a
// [Skip] in its chain, else it has failed.
func (r *Report) Add(err error) {
	o := Outcome{Case: r.Passed + len(r.Failed) + len(r.Skipped), Err: err}
	var skip Skip
	switch {
	case err == nil:
		r.Passed++
	case errors.As(err, &skip):
		r.Skipped = append(r.Skipped, o)
	default:
		r.Failed = append(r.Failed, o)
	}
}
