// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/conclave-mls/conclave/core"
)

// page is what an author of a plugin in another language has, without the blocks of code.
func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile("(?s)\n```.*?\n```\n").ReplaceAllString(string(text), "\n")
}

// rows are the rows of the table that has this head, without the line below it.
func rows(t *testing.T, page, head string) (all [][]string) {
	t.Helper()
	_, rest, found := strings.Cut(page, "\n| "+head+" |\n")
	if !found {
		t.Fatalf("PROTOCOL.md has no table %q", head)
	}
	table, _, _ := strings.Cut(rest, "\n\n")
	for line := range strings.SplitSeq(strings.TrimSpace(table), "\n") {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		all = append(all, cells)
	}
	return all[1:]
}

var mark = regexp.MustCompile("`([^`]+)`")

// marked is what a text has as code.
func marked(text string) (all []string) {
	for _, m := range mark.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

func TestPageHasAllServices(t *testing.T) {
	page := page(t)
	var want, got []string
	for i := range File_plugin_proto.Services().Len() {
		s := File_plugin_proto.Services().Get(i)
		for j := range s.Methods().Len() {
			want = append(want, string(s.Name()+"."+s.Methods().Get(j).Name()))
		}
	}
	for _, row := range rows(t, page, "service | methods | for") {
		for _, method := range marked(row[1]) {
			got = append(got, marked(row[0])[0]+"."+method)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("PROTOCOL.md has the methods %q, plugin.proto %q", got, want)
	}
}

func TestPageHasAllErrors(t *testing.T) {
	var got []string
	for _, row := range rows(t, page(t), "code | when | changed") {
		got = append(got, "ERROR_CODE_"+marked(row[0])[0])
		if changed := row[2] != "nothing"; changed != slices.Contains([]string{"ERROR_CODE_UNAVAILABLE", "ERROR_CODE_UNKNOWN_OUTCOME"}, got[len(got)-1]) {
			t.Errorf("%s changes %q", row[0], row[2])
		}
	}
	var want []string
	for _, c := range table {
		want = append(want, c.code.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("PROTOCOL.md has the codes %q, the table %q", got, want)
	}
}

// All that an enumeration has is named, and the fields of a few messages.
func TestPageNamesAll(t *testing.T) {
	page := page(t)
	named := marked(page)
	values := func(d protoreflect.EnumDescriptor, prefix string) {
		for i := 1; i < d.Values().Len(); i++ { // 0 is none of them
			if name := strings.TrimPrefix(string(d.Values().Get(i).Name()), prefix); !slices.Contains(named, name) {
				t.Errorf("PROTOCOL.md has no %s", name)
			}
		}
	}
	values(Part(0).Descriptor(), "")
	values(Feature(0).Descriptor(), "")
	values(Ability(0).Descriptor(), "ABILITY_")

	var needs []string
	for _, row := range rows(t, page, "need | what the host does | input that answers it") {
		needs = append(needs, marked(row[0])...)
	}
	oneof := (&Step{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields()
	for i := range oneof.Len() {
		if name := string(oneof.Get(i).Name()); i >= len(needs) || needs[i] != name {
			t.Errorf("PROTOCOL.md has the needs %q: %s is missing, or not in its place", needs, name)
		}
	}
	inputs := (&Input{}).ProtoReflect().Descriptor().Fields()
	for i := range inputs.Len() {
		if name := string(inputs.Get(i).Name()); !slices.Contains(named, name) {
			t.Errorf("PROTOCOL.md has no input %s", name)
		}
	}
	for _, alg := range []core.KeyAlgorithm{
		core.Ed25519, core.Ed448, core.ECDSAP256, core.ECDSAP384, core.ECDSAP521,
		core.X25519, core.X448, core.ECDHP256, core.ECDHP384, core.ECDHP521,
	} {
		if !slices.Contains(named, string(alg)) {
			t.Errorf("PROTOCOL.md has no algorithm %s", alg)
		}
	}
}

func TestPageHasTheLimits(t *testing.T) {
	size := func(n int) string {
		var parts []string
		for _, unit := range []struct {
			shift int
			name  string
		}{{20, "MiB"}, {10, "KiB"}, {0, "bytes"}} {
			if n>>unit.shift > 0 {
				parts = append(parts, fmt.Sprint(n>>unit.shift, " ", unit.name))
			}
			n %= 1 << unit.shift
		}
		return strings.Join(parts, " and ")
	}
	limits := map[string]string{}
	for _, row := range rows(t, page(t), "what | limit") {
		limits[row[0]] = row[1]
	}
	for what, want := range map[string]string{
		"a message to the plugin":                           size(MaxToPlugin),
		"a message from the plugin":                         size(MaxFromPlugin),
		"a message of an answer to `Read`":                  size(MaxOfRead),
		"an answer to `Plugin.Describe`":                    size(MaxOfDescribe),
		"offers, and algorithms of a provider or an issuer": strconv.Itoa(MaxOffers),
		"a name of a plugin or an instance":                 size(MaxName),
		"a key, a prefix, `after`":                          size(core.MaxKey),
		"a value":                                           size(core.MaxValue),
		"the keys, prefixes and values of a batch; the keys and values of an answer to `Read`": size(core.MaxBatch),
		"the name of an algorithm":                                     size(MaxAlgorithm),
		"the reference of a key, the ID of a wrapping key":             size(MaxID),
		"a public key, material, and what else is answered as `bytes`": size(MaxPublic),
		"the text of an error":                                         size(maxErrorText),
	} {
		if got := limits[what]; got != want && !strings.HasPrefix(got, want+":") && !strings.HasPrefix(got, want+";") && !strings.HasPrefix(got, want+" of ") {
			t.Errorf("PROTOCOL.md has %q for %s, want %s", got, what, want)
		}
	}
}

func TestPageStartsAPlugin(t *testing.T) {
	page := page(t)
	env := map[string]string{}
	for _, row := range rows(t, page, "variable | value") {
		env[marked(row[0])[0]] = row[1]
	}
	if got := env[Handshake.MagicCookieKey]; got != "`"+Handshake.MagicCookieValue+"`" {
		t.Errorf("PROTOCOL.md has %s for %s", got, Handshake.MagicCookieKey)
	}
	highest := slices.Max(slices.Collect(maps.Keys(Versions(nil))))
	if !strings.HasPrefix(page, fmt.Sprintf("# The plugin protocol, version %d\n", highest)) {
		t.Errorf("PROTOCOL.md is not about version %d", highest)
	}
	for _, m := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join("../..", m[1])); err != nil {
			t.Error(err)
		}
	}
}
