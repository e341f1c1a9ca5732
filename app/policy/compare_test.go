// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"go/ast"
	"go/token"
	"go/types"
	"regexp"
	"testing"
)

// secretName is what tags and secrets are called. An id or a public value of that
// name is told by what stands around it.
var (
	secretName = regexp.MustCompile(`(?i)tag\b|tag\(|secret|\bmac\b|MAC\(|material|priv(ate)?key`)
	publicName = regexp.MustCompile(`(?i)len\(|\.is|nil|encrypted`)
)

// CS-8, mls-rs#320, libcrux/gcm-tag: nothing outside the tests compares a tag or a
// secret in a time that depends on where they differ, and no AEAD is written here:
// those of the standard library and of x/crypto compare their tags themselves.
func TestTagsAreComparedInConstantTime(t *testing.T) {
	constant := 0
	for _, s := range sources(t) {
		if s.test || s.dir != "core" && s.dir != "core/mls" && s.dir != "core/seal" && !under(s.dir, "providers") {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv != nil && n.Name.Name == "Overhead" {
					t.Errorf("%s has an AEAD of its own", s.name)
				}
			case *ast.CallExpr:
				name := types.ExprString(n.Fun)
				if name == "subtle.ConstantTimeCompare" || name == "hmac.Equal" {
					constant++
				}
				if name != "bytes.Equal" && name != "bytes.Compare" && name != "slices.Equal" && name != "bytes.HasPrefix" {
					break
				}
				for _, arg := range n.Args {
					if text := types.ExprString(arg); secretName.MatchString(text) && !publicName.MatchString(text) {
						t.Errorf("%s compares %s with %s", s.name, text, name)
					}
				}
			case *ast.BinaryExpr:
				if n.Op != token.EQL && n.Op != token.NEQ {
					break
				}
				x, y := types.ExprString(n.X), types.ExprString(n.Y)
				if call, ok := n.X.(*ast.CallExpr); ok && types.ExprString(call.Fun) == "string" && secretName.MatchString(x+y) {
					t.Errorf("%s compares %s as strings", s.name, x)
				}
			}
			return true
		})
	}
	if constant < 3 {
		t.Errorf("only %d comparisons in constant time found", constant)
	}
}
