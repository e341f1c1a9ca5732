// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"
	"testing"
)

// The parts and what each may import besides its own subtree. An import of
// "storage/*" is any package below storage; a part "storage/*" is each folder
// there on its own, so that siblings do not see one another.
var arrows = []struct {
	part string
	may  []string
}{
	{"core/vlbytes", []string{"core"}},
	{"core/internal/parallel", nil},
	{"core/seal", []string{"core", "core/vlbytes", "core/internal/parallel"}},
	{"core/record", []string{"core"}},
	{"core/vectors", nil},
	{"core/mls", []string{"core", "core/vlbytes", "core/record", "core/vectors"}},
	{"core/proteus", []string{"core", "core/vlbytes", "core/record", "core/vectors"}},
	{"core/e2ei/e2eitest", []string{"core", "core/*"}},
	{"core/e2ei", []string{"core", "core/vlbytes"}},
	{"core/client/clienttest", []string{"core", "core/*"}},
	{"core/client", []string{"core", "core/vlbytes", "core/record", "core/seal", "core/mls", "core/proteus", "core/proteus/*", "core/e2ei", "core/internal/parallel"}},
	{"core/coretest", []string{"core", "core/vlbytes", "core/seal"}},
	{"core", nil},
	{"providers/*", []string{"core", "core/*"}},
	{"storage/postgres/pgtest", []string{"core/coretest"}},
	{"storage/*", []string{"core", "core/*"}},
	{"hsm", []string{"core", "core/*"}},
	{"plugins/examples/*", []string{"core", "core/*", "providers/*", "storage/*", "hsm", "plugins/*"}},
	{"plugins", []string{"core", "core/*"}},
	{"app", []string{"core", "core/*", "providers/*", "storage/*", "hsm", "plugins/*"}},
	{"softhsm-test", []string{"core", "core/*", "providers/*", "storage/*", "hsm", "plugins/*", "app/*", "app"}},
}

// Packages that import testing: for tests, and for those who bring tests.
var forTests = []string{"core/coretest", "core/client/clienttest", "core/e2ei/e2eitest", "storage/postgres/pgtest", "softhsm-test"}

// The command line brings the conformance suites to those who write plugins, with or without
// Go: this file has them, and they are of use outside of tests nowhere else.
const testsForAll = "app/conclave/plugin_kit.go"

// Where a module may be imported, directly, tests included.
var placement = []struct {
	path string
	in   []string
}{
	{"C", []string{"hsm", "softhsm-test"}},
	{"connectrpc.com/connect", []string{"app"}},
	{"database/sql", []string{"storage"}},
	{"github.com/BurntSushi/toml", []string{"app"}},
	{"github.com/ThalesGroup/crypto11", []string{"hsm", "softhsm-test"}},
	{"github.com/ThalesIgnite/crypto11", []string{"hsm", "softhsm-test"}},
	{"github.com/cloudflare/circl", []string{"providers"}},
	{"github.com/go-jose/go-jose", []string{"core/e2ei", "providers/acme"}},
	{"github.com/hashicorp/go-plugin", []string{"plugins"}},
	{"github.com/jackc/pgx", []string{"storage"}},
	{"github.com/miekg/pkcs11", []string{"hsm", "softhsm-test"}},
	{"github.com/spf13/cobra", []string{"app"}},
	{"go.uber.org/fx", []string{"app"}},
	{"google.golang.org/grpc", []string{"plugins", "app"}},
	{"google.golang.org/protobuf", []string{"plugins", "app"}},
	{"modernc.org/sqlite", []string{"storage"}},
}

// What core may import besides the standard library; everything below it is
// shown to nobody else.
var coreThirdParty = []struct{ path, in string }{
	{"golang.org/x/crypto", "core"},
	{"github.com/fxamacker/cbor", "core/proteus"},
	{"filippo.io/edwards25519", "core/proteus"},
	{"github.com/go-jose/go-jose", "core/e2ei"},
}

// Modules that only tests may import.
var testOnly = []string{
	"github.com/google/go-cmp",
	"github.com/rogpeppe/go-internal",
	"go.etcd.io/bbolt",
	"go.uber.org/goleak",
	"pgregory.net/rapid",
}

// match says that p is the pattern, or with a final star below it.
func match(pattern, p string) bool {
	if base, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(p, base+"/")
	}
	return pattern == p
}

// partOf finds the part of a package: its root folder and what it may import.
func partOf(dir string) (part string, may []string, ok bool) {
	for _, a := range arrows {
		part = a.part
		if base, ok := strings.CutSuffix(a.part, "/*"); ok {
			if !strings.HasPrefix(dir, base+"/") {
				continue
			}
			name, _, _ := strings.Cut(dir[len(base)+1:], "/")
			part = base + "/" + name
		}
		if dir == part || part != "core" && strings.HasPrefix(dir, part+"/") {
			return part, a.may, true
		}
	}
	return "", nil, false
}

// wrongArrow returns what is wrong with an import inside the module, or "".
func wrongArrow(s *source, to string) string {
	part, may, ok := partOf(s.dir)
	if !ok {
		return "the folder is on no map: add it to the arrows with its reason"
	}
	if _, _, ok := partOf(to); !ok {
		return "imports a folder that is on no map"
	}
	tests := s.test || slices.Contains(forTests, part)
	if slices.Contains(forTests, to) && !tests {
		if s.name == testsForAll && to == "core/coretest" {
			return ""
		}
		return "imports a package for tests"
	}
	switch {
	case under(to, part) && (part != "core" || to == "core"):
		return ""
	case s.external() && to != "softhsm-test" && !under(to, "app"):
		return ""
	case s.test && slices.Contains(forTests[:3], to):
		return ""
	}
	for _, pattern := range may {
		if match(pattern, to) {
			return ""
		}
	}
	return "wrong arrow"
}

// misplaced returns what is wrong with an import from outside, or "".
func misplaced(s *source, p string) string {
	in := func(dirs ...string) bool {
		return slices.ContainsFunc(dirs, func(dir string) bool { return under(s.dir, dir) })
	}
	tests := s.test || in(forTests...)
	if under(p, "testing") && !tests {
		return "only for tests"
	}
	if i := slices.IndexFunc(testOnly, func(m string) bool { return under(p, m) }); i >= 0 {
		if !tests {
			return "only for tests"
		}
		return ""
	}
	for _, rule := range placement {
		if under(p, rule.path) && !in(rule.in...) {
			return "only in " + strings.Join(rule.in, " and ")
		}
	}
	if in("core") && !standard(p) && !slices.ContainsFunc(coreThirdParty, func(m struct{ path, in string }) bool {
		return under(p, m.path) && in(m.in)
	}) {
		return "core stands on the standard library and x/crypto"
	}
	return ""
}

func standard(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	return p != "C" && !strings.Contains(first, ".")
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		for _, p := range s.imports {
			var wrong string
			if to, ok := strings.CutPrefix(p, module+"/"); ok {
				wrong = wrongArrow(s, to)
			} else {
				wrong = misplaced(s, p)
			}
			if wrong != "" {
				t.Errorf("%s imports %s: %s", s.name, p, wrong)
			}
		}
	}
}

// The rules are only as good as what they refuse.
func TestImportRules(t *testing.T) {
	for _, c := range []struct {
		dir, pkg string
		test     bool
		path     string
		ok       bool
	}{
		{"core", "core", false, module + "/core/mls", false},
		{"core/mls", "mls", false, module + "/core", true},
		{"core/mls", "mls", false, module + "/core/mls/internal/x", true},
		{"core/mls", "mls", false, module + "/core/record", true},
		{"core/record", "record", false, module + "/core/seal", false},
		{"core/mls", "mls", false, module + "/core/vectors", true},
		{"core/vectors", "vectors", false, module + "/core/mls", false},
		{"core/mls", "mls", false, module + "/core/seal", false},
		{"core/mls", "mls", false, module + "/core/proteus", false},
		{"core/mls", "mls", false, module + "/providers/pure", false},
		{"core/mls", "mls", true, module + "/providers/pure", false},
		{"core/mls", "mls_test", true, module + "/providers/pure", true},
		{"core/mls", "mls_test", true, module + "/app/delivery", false},
		{"core/mls", "mls", true, module + "/core/coretest", true},
		{"core/mls", "mls", false, module + "/core/coretest", false},
		{"core/client", "client", false, module + "/core/mls", true},
		{"core/client", "client", false, module + "/core/client/clienttest", false},
		{"core/client", "client", false, module + "/storage/sqlite", false},
		{"core/unheard", "unheard", false, module + "/core", false},
		{"storage/sqlite", "sqlite", false, module + "/storage/memory", false},
		{"storage/sqlite", "sqlite_test", true, module + "/storage/memory", true},
		{"storage/sqlite", "sqlite", false, module + "/core/seal", true},
		{"storage/sqlite", "sqlite", false, module + "/hsm", false},
		{"plugins/examples/store", "main", false, module + "/storage/memory", true},
		{"plugins/examples/store", "main", false, module + "/app", false},
		{"plugins/host", "host", false, module + "/plugins/internal/wire", true},
		{"app/modules", "modules", false, module + "/storage/sqlite", true},
		{"app", "app", false, module + "/softhsm-test", false},
		{"softhsm-test", "softhsmtest", false, module + "/app", true},

		{"core/mls", "mls", false, "golang.org/x/crypto/cryptobyte", true},
		{"core/mls", "mls", false, "golang.org/x/sync/errgroup", false},
		{"core/mls", "mls", false, "crypto/hpke", true},
		{"core/mls", "mls_test", true, "pgregory.net/rapid", true},
		{"core/mls", "mls", false, "pgregory.net/rapid", false},
		{"core/mls", "mls", false, "testing", false},
		{"core/mls", "mls", true, "testing/cryptotest", true},
		{"core/coretest", "coretest", false, "testing", true},
		{"core/mls", "mls", false, "github.com/cloudflare/circl/dh/x448", false},
		{"core/mls", "mls_test", true, "github.com/cloudflare/circl/dh/x448", false},
		{"core/mls", "mls", false, "github.com/fxamacker/cbor/v2", false},
		{"core/proteus", "proteus", false, "github.com/fxamacker/cbor/v2", true},
		{"providers/pure", "pure", false, "github.com/cloudflare/circl/dh/x448", true},
		{"providers/pure", "pure", false, "C", false},
		{"providers/pure", "pure", false, "github.com/go-jose/go-jose/v4", false},
		{"providers/acme", "acme", false, "github.com/go-jose/go-jose/v4/jwt", true},
		{"providers/acme", "acme", false, module + "/core/e2ei", true},
		{"providers/acme", "acme", false, module + "/providers/pure", false},
		{"hsm", "hsm", false, "C", true},
		{"storage/sqlite", "sqlite", false, "go.uber.org/fx", false},
		{"app/modules", "modules", false, "go.uber.org/fx", true},
		{"app/modules", "modules", false, "modernc.org/sqlite", false},
		{"storage/sqlite", "sqlite", false, "modernc.org/sqlite/lib", true},
	} {
		s := &source{dir: c.dir, pkg: c.pkg, test: c.test}
		var wrong string
		if to, ok := strings.CutPrefix(c.path, module+"/"); ok {
			wrong = wrongArrow(s, to)
		} else {
			wrong = misplaced(s, c.path)
		}
		if (wrong == "") != c.ok {
			t.Errorf("%s (package %s, test %v) imports %s: got %q, want ok=%v", c.dir, c.pkg, c.test, c.path, wrong, c.ok)
		}
	}
}
