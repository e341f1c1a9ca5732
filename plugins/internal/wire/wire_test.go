// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-mls/conclave/core"
)

// Every sentinel of core has a code, and every code of the protocol a sentinel.
func TestTableIsWhole(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../../core/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "Err") {
			names++
		}
		return true
	})
	of, kinds := map[ErrorCode]error{}, 0
	for _, c := range table {
		if of[c.code] != nil {
			t.Errorf("%s is there twice", c.code)
		}
		of[c.code] = c.sentinel
		if core.Kind(c.sentinel) == c.sentinel {
			kinds++
		}
	}
	if kinds != names || names == 0 {
		t.Errorf("%d of the %d sentinels of core have a code", kinds, names)
	}
	for n := range ErrorCode_name {
		if code := ErrorCode(n); (of[code] == nil) != (code == ErrorCode_ERROR_CODE_UNSPECIFIED) {
			t.Errorf("%s stands for %v", code, of[code])
		}
	}
	// By name, so that two of them cannot have been exchanged.
	for _, c := range table[:kinds] {
		words := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(c.code.String(), "ERROR_CODE_")), "_", " ")
		text := strings.NewReplacer("not supported", "unsupported", "state was ", "", "stored data is ", "").Replace(c.sentinel.Error())
		if words != text {
			t.Errorf("%s stands for %v", c.code, c.sentinel)
		}
	}
}

func TestErrorsGoThere(t *testing.T) {
	for _, c := range table {
		m := ToError(fmt.Errorf("apply: %w", c.sentinel))
		if len(m.Codes) != 1 || m.Codes[0] != c.code {
			t.Errorf("%v becomes %v", c.sentinel, m.Codes)
		}
	}
	m := ToError(fmt.Errorf("%w, %w", core.ErrConflict, context.Canceled))
	if len(m.Codes) != 2 {
		t.Errorf("two sentinels become %v", m.Codes)
	}
	if ToError(nil) != nil || FromError(nil) != nil {
		t.Error("no error is one")
	}
	if m := ToError(errors.New("odd")); len(m.Codes) != 0 || m.Text != "odd" {
		t.Errorf("an error without a sentinel becomes %v", m)
	}
}

func TestErrorsComeBack(t *testing.T) {
	for _, c := range table {
		err := FromError(&Error{Codes: []ErrorCode{c.code, 1000}, Text: "a text"})
		for _, other := range table {
			if errors.Is(err, other.sentinel) != (c.code == other.code) {
				t.Errorf("%s: is %v: %v", c.code, other.sentinel, c.code != other.code)
			}
		}
		if err.Error() != "a text" {
			t.Errorf("%s: text %q", c.code, err)
		}
	}
	if err := FromError(&Error{}); err == nil || core.Kind(err) != nil || err.Error() == "" {
		t.Errorf("an empty error is %v", err)
	}
}

func TestErrorText(t *testing.T) {
	long := strings.Repeat("é", 5000)
	for text, want := range map[string]string{
		"a\nb\x1b[31m\xffc": "a b [31m c",
		long:                strings.Repeat("é", maxErrorText/2),
		"x" + long:          "x" + strings.Repeat("é", maxErrorText/2-1),
	} {
		for _, got := range []string{ToError(errors.New(text)).Text, FromError(&Error{Text: text}).Error()} {
			if got != want || !utf8.ValidString(got) {
				t.Errorf("%.20q becomes %.20q of %d bytes", text, got, len(got))
			}
		}
	}
}

func TestIsName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "kms-2": true, "0": true, strings.Repeat("a", MaxName): true,
		"": false, "-a": false, "A": false, "a/b": false, "..": false, "a_b": false, "é": false, "a\n": false,
		strings.Repeat("a", MaxName+1): false,
	} {
		if IsName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

// sent is what a message is when it has gone over.
func sent[M proto.Message](t *testing.T, m, into M) M {
	t.Helper()
	b, err := proto.Marshal(m)
	if err == nil {
		err = proto.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
	return into
}
