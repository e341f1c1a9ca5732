// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// declared are the functions, types, methods and fields of a package: "F", "T",
// "T.M".
func declared(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				names[receiver(d)+d.Name.Name] = true
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if v, ok := s.(*ast.ValueSpec); ok {
						for _, n := range v.Names {
							names[n.Name] = true
						}
					}
					s, ok := s.(*ast.TypeSpec)
					if !ok {
						continue
					}
					names[s.Name.Name] = true
					if fields, ok := s.Type.(*ast.StructType); ok {
						for _, f := range fields.Fields.List {
							for _, n := range f.Names {
								names[s.Name.Name+"."+n.Name] = true
							}
						}
					}
				}
			}
		}
	}
	return names
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	of := d.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	if name, ok := of.(*ast.Ident); ok {
		return name.Name + "."
	}
	return "."
}

// What the README names of the library is there.
func TestReadmeNamesTheLibrary(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	there := declared(t, "../../core/client")
	for name := range declared(t, "../../core") {
		there["core."+name] = true
	}
	found := 0
	for _, m := range regexp.MustCompile("`((?:core\\.|client\\.)?[A-Z][A-Za-z]+(?:\\.[A-Z][A-Za-z]+)?)`").FindAllSubmatch(readme, -1) {
		name := strings.TrimPrefix(string(m[1]), "client.")
		if strings.ToUpper(name) == name {
			continue // PATH
		}
		found++
		if !there[name] {
			t.Errorf("%s is not there", name)
		}
	}
	if found < 12 {
		t.Errorf("only %d names", found)
	}
}
