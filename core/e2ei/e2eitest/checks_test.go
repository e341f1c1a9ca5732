// SPDX-License-Identifier: Apache-2.0

package e2eitest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core/coretest"
)

// What the proof reports only when it cannot go on, or measures.
var notChecks = []string{"directory", "bench", "bench, 8 at a time"}

// Each check of the proof has a twin, and each twin a check.
func TestChecksAreThoseOfTheProof(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), coretest.Shared(t, "e2ei-peer", "cmd", "e2ei-probe", "main.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	proof, schemes := map[string]bool{}, 0
	ast.Inspect(file, func(n ast.Node) bool {
		if assigned, ok := n.(*ast.AssignStmt); ok {
			if name, ok := assigned.Lhs[0].(*ast.Ident); ok && name.Name == "algs" {
				schemes = len(assigned.Rhs[0].(*ast.CompositeLit).Elts)
			}
		}
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if f, ok := call.Fun.(*ast.Ident); ok && (f.Name == "try" || f.Name == "report") {
			if name := checkName(call.Args[0]); name != "" {
				proof[name] = true
			}
		}
		return true
	})
	for _, name := range notChecks {
		if !proof[name] {
			t.Errorf("the proof has no %q any more", name)
		}
		delete(proof, name)
	}
	if n := len(proof) - 1 + schemes; n != 46 {
		t.Errorf("the proof has %d checks", n)
	}
	var twins []string
	for _, c := range checks {
		for _, name := range c.names {
			if !proof[name] {
				t.Errorf("the proof has no check %q", name)
			}
			if slices.Contains(twins, name) {
				t.Errorf("two twins of %q", name)
			}
			twins = append(twins, name)
		}
	}
	for name := range proof {
		if !slices.Contains(twins, name) {
			t.Errorf("no twin of %q", name)
		}
	}
}

// checkName is what is always there of the first argument: text, text + x or
// fmt.Sprintf("text (...%...", ...). A name that is passed on is none.
func checkName(argument ast.Expr) string {
	switch x := argument.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(x.Value)
		return text
	case *ast.BinaryExpr:
		return strings.TrimSpace(checkName(x.X))
	case *ast.CallExpr:
		text, _, _ := strings.Cut(checkName(x.Args[0]), " (")
		return text
	}
	return ""
}
