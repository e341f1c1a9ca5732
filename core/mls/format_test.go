// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// A gallery holds values of the engine's types as they are in a living group.
type gallery struct {
	values []reflect.Value
	types  map[string]bool
	seen   map[uintptr]bool
	of     map[reflect.Type]int
}

// enough are the values of one type that are looked at.
const enough = 16

func (g *gallery) hang(v reflect.Value) {
	if g.of[v.Type()]++; g.of[v.Type()] <= enough {
		g.values = append(g.values, v)
	}
}

// add walks through what can be reached by exported fields.
func (g *gallery) add(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || g.seen[v.Pointer()] {
			return
		}
		g.seen[v.Pointer()] = true
		g.hang(v)
		g.add(v.Elem())
	case reflect.Interface:
		if !v.IsNil() {
			g.add(v.Elem())
		}
	case reflect.Slice:
		for i := range min(v.Len(), 3) {
			g.add(v.Index(i))
		}
	case reflect.Struct:
		if p := v.Type().PkgPath(); strings.HasSuffix(p, "core/mls") || strings.HasSuffix(p, "core/record") {
			g.types[v.Type().Name()] = true
			g.hang(v)
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				g.add(v.Field(i))
			}
		}
	}
}

// exportedStructs are the names of the struct types that this package exports.
func exportedStructs(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, s := range g.Specs {
				spec := s.(*ast.TypeSpec)
				if _, ok := spec.Type.(*ast.StructType); ok && spec.Name.IsExported() {
					names = append(names, spec.Name.Name)
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

// A lookout finds one of many strings, of eight bytes or more: by those eight.
type lookout map[[8]byte][]string

func (l lookout) add(look string) {
	if len(look) >= 8 {
		key := [8]byte([]byte(look[:8]))
		l[key] = append(l[key], look)
	}
}

func (l lookout) in(text string) (at int, look string) {
	for at := range len(text) - 7 {
		for _, look := range l[[8]byte([]byte(text[at:at+8]))] {
			if strings.HasPrefix(text[at:], look) {
				return at, look
			}
		}
	}
	return 0, ""
}

// FS-11, mls-rs#318, openmls#2146: no value of any type of the engine shows a byte of
// a secret, whatever it is formatted with.
func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	g, known := livingGroup(t)
	for _, name := range exportedStructs(t) {
		if !g.types[name] && !slices.Contains(withoutSecrets, name) {
			t.Errorf("the test has no %s from a living group", name)
		}
	}
	for _, name := range withoutSecrets {
		if g.types[name] {
			t.Errorf("the test has a %s: it need not be listed", name)
		}
	}
	var formats []string
	all := []string{"", "+", "#", " "}
	if testing.Short() {
		all = all[:1]
	}
	for _, flags := range all {
		for _, verb := range "vsqxXdcteUTp" {
			formats = append(formats, "%"+flags+string(verb))
		}
	}
	// How eight bytes of a secret look.
	looks := lookout{}
	for _, secret := range known {
		for _, part := range [][]byte{secret[:8], secret[len(secret)-8:]} {
			for _, format := range []string{"%v", "%d", "%x", "%X", "% x", "% X", "%s", "%q", "%+q", "%#v", "%c", "%U"} {
				looks.add(strings.Trim(strings.TrimPrefix(fmt.Sprintf(format, part), "[]byte"), "[]{}\""))
			}
			encoded, err := json.Marshal(secret[:9]) // base64 of whole groups
			if err != nil {
				t.Fatal(err)
			}
			looks.add(strings.Trim(string(encoded), "\""))
		}
	}
	check := func(how string, v reflect.Value, text string) {
		if at, look := looks.in(text); look != "" {
			t.Fatalf("%s of a %v shows %q of a secret: %q", how, v.Type(), look, text[max(0, at-100):min(len(text), at+100)])
		}
	}
	for _, v := range g.values {
		var all strings.Builder
		for _, format := range formats {
			// Of what is no pointer %p calls no method, and vet refuses it.
			if name := v.Type().Name(); strings.HasSuffix(format, "p") && (name == "WriteSet" || name == "Record") {
				continue
			}
			fmt.Fprintf(&all, format, v.Interface())
			all.WriteByte('\n')
		}
		check("formatting", v, all.String())
		if encoded, err := json.Marshal(v.Interface()); err == nil {
			check("JSON", v, string(encoded))
		}
	}
	if len(g.values) < 60 || len(looks) < 1000 {
		t.Errorf("only %d values, %d looks", len(g.values), len(looks))
	}
}

// withoutSecrets are types that hold nothing which the engine has made or opened:
// what callers ask for.
var withoutSecrets = []string{
	"Custom", "CustomProposal", "EpochError", "ExternalParams", "ExternalProposalParams", "ExternalSender", "Floor", "GroupInfoParams",
	"RequiredCapabilities", "RuleError", "SuccessorParams",
}

// livingGroup returns values of a group in which everything happens, and the secrets
// that the member who shows them has known.
func livingGroup(t *testing.T) (*gallery, [][]byte) {
	t.Helper()
	ctx := t.Context()
	config := mls.DefaultConfig
	config.Handshake, config.SendWithProposals = mls.HandshakePrivate, true
	alice, r := recorded(t, 1, "alice", config)
	bob, zoe := newMember(t, 1, "bob", config), newMember(t, 1, "zoe", config)
	alice.reload = false
	alice.psks["psk"], bob.psks["psk"], zoe.psks["psk"] = []byte("an external key"), []byte("an external key"), []byte("an external key")
	g := &gallery{types: map[string]bool{}, seen: map[uintptr]bool{}, of: map[reflect.Type]int{}}
	show := func(values ...any) {
		for _, v := range values {
			g.add(reflect.ValueOf(v))
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	created := mls.CreateParams{
		Suite: alice.suite, GroupID: []byte("group"), Signer: alice.signer(), Credential: core.BasicCredential("alice"),
		Capabilities: alice.capabilities(), Lifetime: mls.NoLifetime, Config: config,
	}
	group, ws, err := mls.Create(ctx, alice.env(), created)
	must(err)
	show(created, group, *ws)
	alice.set(group, ws)
	psk := alice.g().NewExternalPSK([]byte("psk"))
	params := mls.CommitParams{Proposals: []mls.Proposal{
		&mls.Add{KeyPackage: bob.keyPackage()}, psk, &mls.GroupContextExtensions{Extensions: mls.Extensions{mls.RequiredCapabilities{}.Extension()}},
	}, ForcePath: true}
	group, pending, ws, err := alice.g().Commit(ctx, alice.env(), params)
	must(err)
	show(params, group, pending, *ws)
	alice.set(group, ws)
	b, err := pending.Bundle(ctx, alice.env(), group)
	must(err)
	show(b)
	group, received, ws, err := group.Merge(ctx, alice.env(), pending)
	must(err)
	show(group, received, *ws)
	alice.set(group, ws)
	must(bob.join(b.Welcome))
	welcome, err := mls.UnmarshalMLSMessage(b.Welcome)
	must(err)
	show(welcome)

	// alice's own key package, and another group that she joins
	kp := mls.KeyPackageParams{Suite: alice.suite, Signer: alice.signer(), Credential: core.BasicCredential("alice"), Capabilities: alice.capabilities(), Lifetime: mls.NoLifetime}
	bundle, err := mls.NewKeyPackage(ctx, kp)
	must(err)
	show(kp, bundle)
	zoe.create("zoe's", nil)
	invitation, err := zoe.commit(mls.CommitParams{ForcePath: true, Proposals: []mls.Proposal{&mls.Add{KeyPackage: bundle.KeyPackage}, zoe.g().NewExternalPSK([]byte("psk"))}})
	must(err)
	welcome, err = mls.UnmarshalMLSMessage(invitation.Welcome)
	must(err)
	secrets, err := mls.OpenWelcome(ctx, alice.suite, bundle, welcome.Welcome)
	must(err)
	show(secrets, &mls.PSK{ID: psk.PSK, Secret: core.NewSecret([]byte("an external key"))})
	join := mls.JoinParams{Welcome: welcome.Welcome, Config: config, KeyPackage: func(context.Context, []byte) (*mls.KeyPackageBundle, error) { return bundle, nil }}
	env := alice.env()
	guest, joined, ws, err := mls.Join(ctx, env, join)
	must(err)
	env.Suites = provider // the recorder is none of the engine's
	show(join, env, guest, joined, *ws)

	// messages of all kinds
	for range 3 {
		text, err := bob.send("text")
		must(err)
		m, err := mls.UnmarshalMLSMessage(text)
		must(err)
		group, got, ws, err := alice.g().Process(ctx, alice.env(), m)
		must(err)
		show(m, group, got, *ws)
		alice.set(group, ws)
	}
	leaf := mls.LeafParams{SignatureKey: alice.newSigner()}
	group, sent, ws, err := alice.g().ProposeUpdate(ctx, alice.env(), leaf, nil)
	must(err)
	show(leaf, group, sent, *ws)
	alice.set(group, ws)
	group, text, ws, err := alice.g().Protect(ctx, alice.env(), []byte("text"), nil)
	must(err)
	show(group, text, *ws)
	alice.set(group, ws)
	_, err = bob.process(sent.Message)
	must(err)
	proposal, err := bob.propose(&mls.Remove{Removed: 0})
	must(err)
	m, err := mls.UnmarshalMLSMessage(proposal)
	must(err)
	group, got, ws, err := alice.g().Process(ctx, alice.env(), m)
	must(err)
	show(got, group)
	alice.set(group, ws)
	commit, err := bob.commit(mls.CommitParams{})
	must(err)
	m, err = mls.UnmarshalMLSMessage(commit.Commit)
	must(err)
	group, got, ws, err = alice.g().Process(ctx, alice.env(), m)
	must(err)
	show(m, got, group, *ws)
	info, err := mls.UnmarshalMLSMessage(b.GroupInfo)
	must(err)
	observer, err := mls.Observe(alice.env(), info.GroupInfo, nil)
	must(err)
	content := pending.Content()
	show(info, observer, &content, &mls.Update{LeafNode: bundle.KeyPackage.LeafNode}, &mls.ReInit{}, &mls.ExternalInit{}, &mls.PublicMessage{Content: content.Content, Auth: content.Auth})
	nodes, err := mls.UnmarshalRatchetTree(mustTree(t, bob))
	must(err)
	show(nodes, record.Range{Kind: mls.RecordPage})

	known := map[string]bool{}
	perLabel := map[string]int{}
	for _, k := range r.known {
		if k.label == "sealed" && len(k.value) > 32 || k.label == "opened" && len(k.value) > 32 {
			continue // group secrets, beside which names and nonces of PSKs stand
		}
		if len(k.value) >= 16 && perLabel[k.label] < 12 {
			perLabel[k.label]++
			known[string(k.value)] = true
		}
	}
	var list [][]byte
	for k := range known {
		list = append(list, []byte(k))
	}
	return g, list
}

func mustTree(t *testing.T, m *member) []byte {
	t.Helper()
	data, err := m.g().RatchetTree(t.Context(), m.env())
	if err != nil {
		t.Fatal(err)
	}
	return data
}
