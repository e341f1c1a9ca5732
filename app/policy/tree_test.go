// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"go/ast"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The folders of the map.
var folders = []string{"core", "providers", "storage", "hsm", "plugins", "app", "softhsm-test"}

// What else may lie at the top: the second line is never committed.
var topFiles = []string{
	".ci", ".gitignore", "Makefile", "OPERATIONS.md", "README.md", "SECURITY.md", "go.mod", "go.sum",
	".git", "bin", "shared",
}

// Names that say nothing about what is in the package.
var emptyNames = []string{
	"base", "common", "errs", "helper", "helpers", "lib", "misc", "models", "shared", "tools", "types", "util", "utils",
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(folders, e.Name()) && !slices.Contains(topFiles, e.Name()) {
			t.Errorf("%s does not belong at the top of the tree", e.Name())
		}
	}
}

func TestPackages(t *testing.T) {
	docs := map[string]int{}
	for _, s := range sources(t) {
		if s.external() {
			continue
		}
		docs[s.dir] += 0
		for _, element := range strings.Split(s.dir, "/") {
			if slices.Contains(emptyNames, element) {
				t.Errorf("%s: a package named %q says nothing; name the concept", s.dir, element)
			}
		}
		if s.doc == "" {
			continue
		}
		docs[s.dir]++
		want := "Package " + s.pkg + " "
		if s.pkg == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(s.doc, want) {
			t.Errorf("%s: the package comment does not begin with %q", s.name, want)
		}
	}
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("%s: %d package comments, want one", dir, n)
		}
	}
}

func TestLicenceLine(t *testing.T) {
	const line = "// SPDX-License-Identifier: Apache-2.0\n"
	for _, s := range sources(t) {
		if !bytes.HasPrefix(s.text, []byte(line)) {
			t.Errorf("%s does not begin with %q", s.name, line)
		}
	}
}

// Registration by side effect makes the parts depend on who imports whom. Protobuf's
// generated code cannot do without.
func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		if ast.IsGenerated(s.ast) {
			continue
		}
		for _, decl := range s.ast.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s has a func init", s.name)
			}
		}
	}
}

// One Go file decides where test data is; anyone else would decide otherwise.
func TestSharedIsReadOnce(t *testing.T) {
	variable := []byte("CONCLAVE" + "_SHARED")
	read := []byte("env(\"" + string(variable)) // Getenv and LookupEnv alike
	var where []string
	for _, s := range sources(t) {
		if bytes.Contains(s.text, read) && s.name != "app/policy/tree_test.go" {
			where = append(where, s.name)
		}
	}
	if want := []string{"core/coretest/shared.go"}; !slices.Equal(where, want) {
		t.Errorf("the variable is read in %v, want %v", where, want)
	}
	for _, name := range []string{"Makefile", ".ci/run"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, variable) {
			t.Errorf("%s does not name the variable", name)
		}
	}
}

// Who reads a file to its end should still know how it began. Tables of test
// cases may be as long as they need.
func TestFileLength(t *testing.T) {
	for _, s := range sources(t) {
		if n := bytes.Count(s.text, []byte("\n")); n > 600 && !s.test && !ast.IsGenerated(s.ast) {
			t.Errorf("%s has %d lines: a file is one idea, under 600", s.name, n)
		}
	}
}
