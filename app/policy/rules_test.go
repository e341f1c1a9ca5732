// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	rulesFile = "core/mls/testdata/rules.txt"
	bugsFile  = "core/mls/testdata/bugs.txt"
	rulesPage = "core/mls/CONFORMANCE.md"
)

// An entry is a line of rulesFile or bugsFile.
type entry struct {
	key      string // a rule's number, a bug's token
	second   string // the RFC's sections, the rules that a bug breached
	text     string
	required bool // a test has to name it
}

// A chapter is what stands below one heading.
type chapter struct {
	title    string
	required bool
	entries  []*entry
}

// ruleNumber is what errors and comments name.
var ruleNumber = regexp.MustCompile(`\b(?:COD|CS|CRD|LEAF|KP|TREE|PATH|KS|PSK|FS|FR|PRP|COM|WEL|EXT|RE|XS|GRE|PQ|ENG)-[0-9]+\b`)

func readEntries(t *testing.T, name string) []*chapter {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	var chapters []*chapter
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if title, later := strings.CutPrefix(line, "##? "); later {
			chapters = append(chapters, &chapter{title: title})
		} else if title, now := strings.CutPrefix(line, "## "); now {
			chapters = append(chapters, &chapter{title: title, required: true})
		} else if line != "" && line[0] != '#' {
			f := strings.Split(line, " | ")
			if len(f) != 3 || len(chapters) == 0 || seen[f[0]] {
				t.Fatalf("%s: cannot read %q, or it is there twice", name, line)
			}
			seen[f[0]] = true
			c := chapters[len(chapters)-1]
			c.entries = append(c.entries, &entry{f[0], f[1], f[2], c.required})
		}
	}
	return chapters
}

func byKey(lists ...[]*chapter) map[string]*entry {
	all := map[string]*entry{}
	for _, chapters := range lists {
		for _, c := range chapters {
			for _, e := range c.entries {
				all[e.key] = e
			}
		}
	}
	return all
}

// claims are the numbers and tokens at the head of a test's comment: "LEAF-3,
// mls-rs#361: what is checked". A comment that begins with a number and is not of
// this form is an error.
func claims(doc string, known map[string]*entry) ([]string, error) {
	doc = strings.Join(strings.Fields(doc), " ")
	head, _, colon := strings.Cut(doc, ": ")
	list := strings.Split(head, ", ")
	first, _, _ := strings.Cut(strings.TrimSuffix(list[0], ":"), " ")
	if !ruleNumber.MatchString(first) && known[first] == nil && !strings.ContainsAny(first, "#@") {
		return nil, nil
	}
	for _, key := range list {
		if !colon || known[key] == nil {
			return nil, fmt.Errorf("the comment begins with %q, which is no list of rules or bugs with a colon behind it", head)
		}
	}
	return list, nil
}

// testsOf tells which tests prove what.
func testsOf(t *testing.T, known map[string]*entry) map[string][]string {
	t.Helper()
	proofs := map[string][]string{}
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		for _, decl := range s.ast.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil {
				continue
			}
			keys, err := claims(f.Doc.Text(), known)
			if err != nil {
				t.Errorf("%s, %s: %v", s.name, f.Name.Name, err)
			}
			if !strings.HasPrefix(f.Name.Name, "Test") && !strings.HasPrefix(f.Name.Name, "Fuzz") {
				continue
			}
			for _, key := range keys {
				proofs[key] = append(proofs[key], s.dir+" "+f.Name.Name)
			}
		}
	}
	for key, tests := range proofs {
		slices.Sort(tests)
		proofs[key] = slices.Compact(tests) // two packages of one folder
	}
	return proofs
}

// Every rule and every past bug has a test that names it, and the page shows which.
func TestRulesHaveTests(t *testing.T) {
	rules, bugs := readEntries(t, rulesFile), readEntries(t, bugsFile)
	known := byKey(rules, bugs)
	proofs := testsOf(t, known)
	for _, c := range bugs {
		for _, bug := range c.entries {
			for _, rule := range strings.Split(bug.second, ", ") {
				if known[rule] == nil && rule != "-" {
					t.Errorf("%s breaches %q, which is not a rule", bug.key, rule)
				}
			}
		}
	}

	for _, c := range slices.Concat(rules, bugs) {
		for _, e := range c.entries {
			if e.required && len(proofs[e.key]) == 0 {
				t.Errorf("%s has no test: %s", e.key, e.text)
			}
		}
	}

	page := conformancePage(rules, bugs, proofs)
	file := filepath.Join(root, rulesPage)
	if *update {
		if err := os.WriteFile(file, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, page) {
		t.Errorf("%s is stale: go test ./app/policy -update (%v)", rulesPage, err)
	}
}

// What code outside the tests says of a rule is of one that exists.
func TestRulesOfTheCode(t *testing.T) {
	known := byKey(readEntries(t, rulesFile))
	named := 0
	for _, s := range sources(t) {
		if s.test || !under(s.dir, "core") {
			continue
		}
		for _, number := range ruleNumber.FindAllString(string(s.text), -1) {
			if known[number] == nil {
				t.Errorf("%s names %s, which is not a rule", s.name, number)
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "breach" || s.dir != "core/mls" {
				return true
			}
			rule, ok := call.Args[0].(*ast.BasicLit) // or a variable, whose value was seen above
			if ok && known[strings.Trim(rule.Value, `"`)] == nil {
				t.Errorf("%s calls breach with %s, which is not a rule", s.name, rule.Value)
			}
			named++
			return true
		})
	}
	if named < 50 {
		t.Errorf("only %d calls of breach found", named)
	}
}

const pageHead = `<!-- Made from testdata/rules.txt and testdata/bugs.txt by go test ./app/policy -update. Do not edit. -->
# Conformance

Every rule of RFC 9420 that the engine keeps, and the tests that fail if it is
broken. The numbers are those of errors ([mls.RuleError](errors.go)) and comments;
"section" is that of RFC 9420. A test that names no rule here may still prove one.
To run those of a rule: go test ./core/mls -run 'TestKeysAreUnique|TestForgedPathKeys'

Not built:

- Post-quantum suites: the rules PQ are listed, and not asked for yet.
- The drafts beside RFC 9420 (SelfRemove, application data, safe extensions, targeted messages).
- Checks inside an X.509 chain: the chain is carried and handed to the authenticator (CRD-3), and none that
  validates chains is here yet.
- The engine properties (ENG) are goals of the whole framework; a test is named where there is one.
`

func conformancePage(rules, bugs []*chapter, proofs map[string][]string) []byte {
	var b bytes.Buffer
	b.WriteString(pageHead)
	tests := func(key string) string {
		var cells []string
		for _, test := range proofs[key] {
			dir, name, _ := strings.Cut(test, " ")
			if dir == "core/mls" {
				test = name // most of them
			}
			cells = append(cells, strings.ReplaceAll(test, " ", "."))
		}
		return strings.Join(cells, ", ")
	}
	b.WriteString("\nTests without a folder are in core/mls.\n")
	table := func(chapters []*chapter, second, what string) {
		for _, c := range chapters {
			fmt.Fprintf(&b, "\n## %s\n\n| number | %s | %s | tests |\n| --- | --- | --- | --- |\n", c.title, second, what)
			for _, e := range c.entries {
				fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", e.key, e.second, e.text, tests(e.key))
			}
		}
	}
	table(rules, "section", "rule")
	table(bugs, "rules", "bug")
	return b.Bytes()
}
