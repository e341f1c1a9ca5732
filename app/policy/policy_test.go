// SPDX-License-Identifier: Apache-2.0

// Package policy holds the house rules as tests: who may import whom, where a
// third-party module may appear, what lies at the top of the tree. It has no
// code of its own.
//
// A failing rule is a question to a reviewer. Do not edit a table here, or run
// with -update, only to make a build pass: the tables are the design, and a
// change of one belongs in the same review as its reason.
package policy

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../.." // the module root, seen from this folder
	module = "github.com/conclave-mls/conclave"
)

var update = flag.Bool("update", false, "rewrite the lists in testdata")

// A source is one Go file, whatever its build constraints.
type source struct {
	name    string // from the module root, with slashes
	dir     string // of the package
	pkg     string // the package clause
	imports []string
	doc     string // the package comment, if it is here
	test    bool   // _test.go
	ast     *ast.File
	text    []byte
}

// external says that the file belongs to a package of black-box tests.
func (s *source) external() bool { return s.test && strings.HasSuffix(s.pkg, "_test") }

// sources parses every Go file below the top-level folders.
func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	for _, top := range folders {
		err := filepath.WalkDir(filepath.Join(root, top), func(file string, entry fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil // not every folder of the map exists yet
			}
			if err != nil {
				return err
			}
			if entry.IsDir() && entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			if entry.IsDir() || filepath.Ext(file) != ".go" {
				return nil
			}
			s, err := parse(file)
			all = append(all, s)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d Go files found: the rules would hold for nothing", len(all))
	}
	return all
}

func parse(file string) (*source, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	f, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(root, file)
	if err != nil {
		return nil, err
	}
	s := &source{
		name: filepath.ToSlash(rel),
		pkg:  f.Name.Name,
		test: strings.HasSuffix(file, "_test.go"),
		doc:  f.Doc.Text(),
		ast:  f,
		text: text,
	}
	s.dir = path.Dir(s.name)
	for _, spec := range f.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		s.imports = append(s.imports, p)
	}
	return s, nil
}

// under says that p is dir or lies below it.
func under(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
