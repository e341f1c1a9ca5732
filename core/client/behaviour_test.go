// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bufio"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/mls"
)

// A point is one line of the specification of this package: a method of its list, a
// quirk of the reference that is to be done better, or a danger. Its name begins with
// its number. The three tables of points are held against testdata/behaviour.txt, so
// that none goes missing.
type point struct {
	name  string
	holds func(t *testing.T)
}

func walk(t *testing.T, table []point) {
	for _, p := range table {
		t.Run(p.name, p.holds)
	}
}

// together is for a point that several tests prove together.
func together(tests ...func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		for i, f := range tests {
			t.Run(strconv.Itoa(i+1), f)
		}
	}
}

// each has a point hold with both handshake policies.
func each(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	bothPolicies(t, func(t *testing.T, policy mls.Config) {
		w := newWorld(t, clienttest.Options{})
		w.policy = policy
		f(t, w)
	})
}

// A listed line of testdata/behaviour.txt.
type listed struct {
	name string
	left string // to which issue, or part of it; empty: nothing
}

// listedPoints reads the list: a table, a name and, behind a bar, what is left to
// another issue. "partly" says that the point is in the table all the same.
func listedPoints(t *testing.T) map[string][]listed {
	t.Helper()
	file, err := os.Open("testdata/behaviour.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	tables := map[string][]listed{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		table, rest, _ := strings.Cut(line, " ")
		name, left, _ := strings.Cut(rest, " | ")
		tables[table] = append(tables[table], listed{name, left})
	}
	return tables
}

// here are the names of those that are not left to another issue as a whole.
func here(list []listed) (names []string) {
	for _, l := range list {
		if l.left == "" || strings.HasPrefix(l.left, "partly") {
			names = append(names, l.name)
		}
	}
	return names
}

func names(table []point) (names []string) {
	for _, p := range table {
		names = append(names, p.name)
	}
	return names
}

// number is what a name begins with; 0 if that is no number.
func number(name string) int {
	first, _, _ := strings.Cut(name, " ")
	n, _ := strconv.Atoi(first)
	return n
}

// TestBehaviourIsComplete: what is listed is in the tables and nothing else, in the
// order of the list; no number is missing in the list.
func TestBehaviourIsComplete(t *testing.T) {
	t.Parallel()
	list := listedPoints(t)
	for table, points := range map[string][]point{"method": methods, "quirk": quirks, "danger": dangers} {
		if got, want := names(points), here(list[table]); !slices.Equal(got, want) {
			t.Errorf("%s: in the table %d points, in the list %d:\n%s", table, len(got), len(want), firstDifference(got, want))
		}
	}
	for table, last := range map[string]int{"method": 72, "danger": 36} {
		next := 1
		for _, l := range list[table] {
			if n := number(l.name); n != 0 && n != next {
				t.Errorf("%s %d comes where %d is due", table, n, next)
			} else if n != 0 {
				next++
			}
		}
		if next != last+1 {
			t.Errorf("%s: the list ends at %d, want %d", table, next-1, last)
		}
	}
}

func firstDifference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			return "table: " + g + "\nlist:  " + w
		}
	}
	return ""
}

// TestEveryQuirkIsListed: each mark in sections 1 to 7 of the specification has a
// point of its section.
func TestEveryQuirkIsListed(t *testing.T) {
	t.Parallel()
	spec, err := os.ReadFile(coretest.Shared(t, "spec", "core-crypto.md"))
	if err != nil {
		t.Fatal(err)
	}
	heading := regexp.MustCompile(`^###? (\d+(\.\d+)?)\b`)
	marks, section := map[string]int{}, ""
	for line := range strings.Lines(string(spec)) {
		if m := heading.FindStringSubmatch(line); m != nil {
			section = m[1]
		}
		marks[section] += strings.Count(line, "Quirk *fix*")
	}
	points := map[string]int{}
	for _, l := range listedPoints(t)["quirk"] {
		points[regexp.MustCompile(`^\d+(\.\d+)?`).FindString(l.name)]++
	}
	total := 0
	for section, n := range marks {
		if section == "" || !strings.Contains("1234567", section[:1]) {
			continue
		}
		total += n
		if points[section] < n {
			t.Errorf("section %s has %d quirks to fix and %d points", section, n, points[section])
		}
	}
	if total == 0 {
		t.Error("no quirk is marked in the specification")
	}
}
