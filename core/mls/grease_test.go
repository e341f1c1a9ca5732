// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/cryptotest"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// greased counts the GREASE values of a list.
func greased[T ~uint16](list []T) (n int) {
	for _, code := range list {
		if code&0x0F0F == 0x0A0A && code>>8 == code&0xFF && code != 0xFAFA {
			n++
		}
	}
	return n
}

func typesOf(l mls.Extensions) (types []mls.ExtensionType) {
	for _, e := range l {
		types = append(types, e.Type)
	}
	return types
}

// wantGreased checks a leaf: one value in each list that may have them, as many as
// there are extensions in the list of those, and nowhere else.
func wantGreased(t *testing.T, what string, leaf *mls.LeafNode, suites, extensions, listed int) {
	t.Helper()
	c := leaf.Capabilities
	got := []int{greased(c.Suites), greased(c.Proposals), greased(c.Credentials), greased(typesOf(leaf.Extensions)), greased(c.Extensions)}
	if want := []int{suites, suites, suites, extensions, listed}; !slices.Equal(got, want) {
		t.Errorf("%s: %v GREASE values, want %v", what, got, want)
	}
	if greased(c.Versions) != 0 || greased([]core.CredentialType{leaf.Credential.Type}) != 0 {
		t.Errorf("%s: GREASE where none may be", what)
	}
	for _, e := range typesOf(leaf.Extensions) {
		if !slices.Contains(c.Extensions, e) {
			t.Errorf("%s: extension 0x%04X is not listed", what, e)
		}
	}
}

// GRE-1, GRE-2, KP-9: what we make carries GREASE in all places that are named for
// it and in no other, however many leaves follow one another; it can be switched off.
func TestGreaseIsSent(t *testing.T) {
	t.Parallel()
	leafOf := func(m *member) *mls.LeafNode {
		leaf, err := m.g().OwnLeafNode(t.Context(), m.env())
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	for _, on := range []bool{true, false} {
		n := 0
		if on {
			n = 1
		}
		alice, bob, carol := newMember(t, 1, "alice", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig), newMember(t, 1, "carol", mls.DefaultConfig)
		for _, m := range []*member{alice, bob, carol} {
			m.grease = on
		}
		alice.create("group", mls.Extensions{mls.RequiredCapabilities{Credentials: []core.CredentialType{1}}.Extension()})
		wantGreased(t, "creator", leafOf(alice), n, n, n)
		k := bob.keyPackage()
		wantGreased(t, "key package", k.LeafNode, n, n, len(slices.Compact(slices.Sorted(slices.Values(slices.Concat(typesOf(k.Extensions), typesOf(k.LeafNode.Extensions)))))))
		if greased(typesOf(k.Extensions)) != n {
			t.Errorf("key package: %v", k.Extensions)
		}
		for _, e := range k.Extensions {
			if !slices.Contains(k.LeafNode.Capabilities.Extensions, e.Type) {
				t.Errorf("KP-9: extension 0x%04X is not listed", e.Type)
			}
		}
		p := party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: k}}}, bob)
		for range 20 { // more often than there are values
			p = p.commitAll(t, bob, mls.CommitParams{ForcePath: true})
		}
		wantGreased(t, "path", leafOf(bob), n, n, n)
		g, update, ws, err := alice.g().ProposeUpdate(t.Context(), alice.env(), mls.LeafParams{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		alice.set(g, ws)
		p.deliver(t, alice, update.Message)
		p = p.commitAll(t, bob, mls.CommitParams{})
		wantGreased(t, "update", leafOf(alice), n, n, n)
		g, update, ws, err = alice.g().ProposeUpdate(t.Context(), alice.env(), mls.LeafParams{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		alice.set(g, ws)
		p.deliver(t, alice, update.Message)
		p = p.commitAll(t, alice, mls.CommitParams{}) // takes the own update over
		wantGreased(t, "adopted update", leafOf(alice), n, n, n)

		for _, omit := range []bool{false, true} {
			info, err := alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{OmitExternalPub: omit})
			if err != nil {
				t.Fatal(err)
			}
			m, err := mls.UnmarshalMLSMessage(info)
			if err != nil {
				t.Fatal(err)
			}
			if greased(typesOf(m.GroupInfo.Extensions)) != n || greased(typesOf(m.GroupInfo.GroupContext.Extensions)) != 0 {
				t.Errorf("GroupInfo: %v", m.GroupInfo.Extensions)
			}
			if omit {
				continue
			}
			commit, err := carol.joinExternal(info)
			if err != nil {
				t.Fatal(err)
			}
			p.deliver(t, nil, commit)
			wantGreased(t, "external join", leafOf(carol), n, n, n)
		}
		bundle, err := carol.commit(mls.CommitParams{}) // harness: the same after a reload
		if err != nil {
			t.Fatal(err)
		}
		m, err := mls.UnmarshalMLSMessage(bundle.GroupInfo)
		if err != nil {
			t.Fatal(err)
		}
		if greased(typesOf(m.GroupInfo.Extensions)) != n {
			t.Errorf("GroupInfo of a commit: %v", m.GroupInfo.Extensions)
		}
	}
}

// GRE-1: two runs from one seed choose the same values, other seeds others.
func TestGreaseIsDeterministic(t *testing.T) {
	make := func(seed uint64) *mls.KeyPackage {
		cryptotest.SetGlobalRandom(t, seed)
		return newMember(t, 1, "alice", mls.DefaultConfig).keyPackage()
	}
	first, again := make(1).Marshal(), make(1).Marshal()
	if !bytes.Equal(first, again) {
		t.Error("one seed gives two key packages")
	}
	seen := map[mls.ExtensionType]bool{}
	for seed := range uint64(100) {
		seen[make(seed).Extensions[0].Type] = true
	}
	if len(seen) != 15 {
		t.Errorf("100 seeds gave %d of 15 values", len(seen))
	}
}

// allGrease are capabilities that an application made of every GREASE value.
func allGrease() *mls.Capabilities {
	c := mls.DefaultCapabilities(provider.Suites())
	for i := range 15 {
		code := 0x0A0A + 0x1010*i
		c.Extensions = append(c.Extensions, mls.ExtensionType(code))
		c.Proposals = append(c.Proposals, mls.ProposalType(code))
		c.Credentials = append(c.Credentials, core.CredentialType(code))
	}
	return &c
}

// GRE-2, GRE-3, CRD-4: a value that our own leaf lists is still unknown to us: no group that
// has or requires one can be made, joined or become ours.
func TestGreaseIsNoSupport(t *testing.T) {
	t.Parallel()
	wantRule := func(what, rule string, err error) {
		t.Helper()
		var breached *mls.RuleError
		if !errors.As(err, &breached) || breached.Rule != rule {
			t.Errorf("%s: %v, want %s", what, err, rule)
		}
	}
	alice, bob := newMember(t, 1, "alice", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig)
	alice.able, bob.able = allGrease(), allGrease()
	alice.create("group", nil)
	party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}}, bob)
	for _, c := range []struct {
		rule string
		mls.Extension
	}{
		{"LEAF-8", mls.Extension{Type: 0x2A2A}},
		{"LEAF-7", mls.RequiredCapabilities{Extensions: []mls.ExtensionType{0x2A2A}}.Extension()},
		{"LEAF-7", mls.RequiredCapabilities{Proposals: []mls.ProposalType{0xEAEA}}.Extension()},
		{"LEAF-7", mls.RequiredCapabilities{Credentials: []core.CredentialType{0x0A0A}}.Extension()},
	} {
		l := mls.Extensions{c.Extension}
		_, _, err := mls.Create(t.Context(), alice.env(), mls.CreateParams{
			Suite: alice.suite, GroupID: []byte("other"), Signer: alice.signer(), Credential: core.BasicCredential("alice"),
			Capabilities: alice.capabilities(), Lifetime: mls.NoLifetime, Extensions: l, Config: alice.config,
		})
		wantRule("create", c.rule, err)
		_, err = alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.GroupContextExtensions{Extensions: l}}})
		wantRule("commit", c.rule, err)
		wantRule("receive", c.rule, mls.CheckNewContext(t.Context(), bob.env(), bob.g(), l))

		change := func(info *mls.GroupInfo) { info.GroupContext.Extensions = l }
		info, err := mls.ForgeGroupInfo(t.Context(), alice.env(), alice.g(), alice.signer(), change)
		if err != nil {
			t.Fatal(err)
		}
		carol := newMember(t, 1, "carol", mls.DefaultConfig)
		carol.able = allGrease()
		_, err = carol.joinExternal(info)
		wantRule("join from outside", c.rule, err)

		if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: carol.keyPackage()}}}); err != nil {
			t.Fatal(err)
		}
		welcome, err := mls.ForgeWelcome(t.Context(), alice.env(), alice.g(), alice.pending, alice.signer(), change,
			func(secrets []byte) []byte { return secrets })
		if err != nil {
			t.Fatal(err)
		}
		wantRule("join", c.rule, carol.join(welcome))
	}
	dave := newMember(t, 1, "dave", mls.DefaultConfig)
	dave.able = allGrease()
	k := keyPackageWith(t, dave, core.Credential{Type: 0x3A3A, Opaque: []byte("dave")})
	_, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: k}}})
	wantRule("credential", "CRD-4", err)
}

// GRE-4, mls-rs#313: no list of extensions has a type twice, whoever makes it.
func TestDuplicateExtensions(t *testing.T) {
	t.Parallel()
	alice, bob, _, _ := threesome(t, mls.DefaultConfig, nil)
	able := mls.DefaultCapabilities(provider.Suites())
	able.Extensions = []mls.ExtensionType{0xF001, mls.ExtensionLastResort}
	twice := mls.Extensions{{Type: 0xF001}, {Type: 0xF001, Data: []byte{1}}}
	want := func(what string, err error) {
		t.Helper()
		var breached *mls.RuleError
		if !errors.As(err, &breached) || breached.Rule != "GRE-4" {
			t.Errorf("%s: %v", what, err)
		}
	}
	params := mls.KeyPackageParams{
		Suite: alice.suite, Signer: alice.signer(), Credential: core.BasicCredential("alice"),
		Capabilities: able, Lifetime: mls.NoLifetime, LeafExtensions: twice,
	}
	_, err := mls.NewKeyPackage(t.Context(), params)
	want("new key package", err)
	create := mls.CreateParams{
		Suite: alice.suite, GroupID: []byte("other"), Signer: alice.signer(), Credential: core.BasicCredential("alice"),
		Capabilities: able, Lifetime: mls.NoLifetime, LeafExtensions: twice, Config: alice.config,
	}
	_, _, err = mls.Create(t.Context(), alice.env(), create)
	want("create, leaf", err)
	create.LeafExtensions, create.Extensions = nil, twice
	_, _, err = mls.Create(t.Context(), alice.env(), create)
	want("create, context", err)
	leaf := mls.LeafParams{Capabilities: &able, Extensions: &twice}
	_, err = alice.commit(mls.CommitParams{Leaf: leaf})
	want("commit", err)
	_, _, _, err = alice.g().ProposeUpdate(t.Context(), alice.env(), leaf, nil)
	want("update", err)
	_, err = alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.GroupContextExtensions{Extensions: twice}}})
	want("new context", err)
	_, err = alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: 1, Extensions: twice}}})
	want("reinit", err)

	// what somebody else made
	dave := newMember(t, 1, "dave", mls.DefaultConfig)
	dave.able = &able
	for what, change := range map[string]func(*mls.KeyPackage){
		"key package":           func(k *mls.KeyPackage) { k.Extensions = twice },
		"leaf of a key package": func(k *mls.KeyPackage) { k.LeafNode.Extensions = twice },
		"last resort, twice":    func(k *mls.KeyPackage) { k.Extensions = mls.Extensions{{Type: 10}, {Type: 10}} },
		"application id, and same": func(k *mls.KeyPackage) {
			k.LeafNode.Extensions = mls.Extensions{{Type: 1, Data: []byte{0}}, {Type: 1, Data: []byte{0}}}
		},
	} {
		k := dave.keyPackage()
		change(k)
		if err := mls.ForgeKeyPackage(t.Context(), dave.signer(), k); err != nil {
			t.Fatal(err)
		}
		message, err := mls.ForgeMessage(t.Context(), alice.env(), alice.g(), mls.WirePublicMessage,
			mls.Sender{Type: mls.SenderMember, Leaf: alice.g().OwnLeaf()}, alice.signer(), &mls.Add{KeyPackage: k}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, what, bob, message, "GRE-4", nil)
	}
	for what, change := range map[string]func(*mls.GroupInfo){
		"GroupInfo":    func(i *mls.GroupInfo) { i.Extensions = append(i.Extensions, twice...) },
		"GroupContext": func(i *mls.GroupInfo) { i.GroupContext.Extensions = twice },
		"tree, twice":  func(i *mls.GroupInfo) { i.Extensions = append(i.Extensions, i.Extensions[0]) },
	} {
		info, err := mls.ForgeGroupInfo(t.Context(), alice.env(), alice.g(), alice.signer(), change)
		if err != nil {
			t.Fatal(err)
		}
		_, err = dave.joinExternal(info)
		want(what, err)
	}
}

// GRE-5: what nobody knows is kept as it is in a leaf, a key package and a GroupInfo;
// in a group only if everybody declares to support it.
func TestUnknownExtensions(t *testing.T) {
	t.Parallel()
	able := mls.DefaultCapabilities(provider.Suites())
	able.Extensions = []mls.ExtensionType{0xF001, 0xF002}
	alice, bob, carol := newMember(t, 1, "alice", mls.DefaultConfig), newMember(t, 1, "bob", mls.DefaultConfig), newMember(t, 1, "carol", mls.DefaultConfig)
	alice.able, bob.able = &able, &able
	group := mls.Extensions{{Type: 0xF002, Data: []byte("of the group")}}
	alice.create("group", group)
	if !slices.EqualFunc(alice.g().Extensions(), group, func(a, b mls.Extension) bool { return a.Type == b.Type && bytes.Equal(a.Data, b.Data) }) {
		t.Errorf("context: %v", alice.g().Extensions())
	}
	// in a leaf and, not even listed, in a key package
	b, err := mls.NewKeyPackage(t.Context(), mls.KeyPackageParams{
		Suite: bob.suite, Signer: bob.signer(), Credential: core.BasicCredential("bob"), Capabilities: able,
		Lifetime: mls.NoLifetime, LeafExtensions: mls.Extensions{{Type: 0xF001, Data: []byte("of bob")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.KeyPackage.Extensions = mls.Extensions{{Type: 0xF003, Data: []byte("of the package")}}
	if err := mls.ForgeKeyPackage(t.Context(), bob.signer(), b.KeyPackage); err != nil {
		t.Fatal(err)
	}
	bob.bundle = b
	p := party{alice}.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: b.KeyPackage}}}, bob)
	tree, err := alice.g().RatchetTree(t.Context(), alice.env())
	if err != nil || !bytes.Contains(tree, b.KeyPackage.LeafNode.Marshal()) {
		t.Errorf("the leaf is not in the tree as it was (%v)", err)
	}
	p = p.commitAll(t, bob, mls.CommitParams{ForcePath: true})
	leaf, err := bob.g().OwnLeafNode(t.Context(), bob.env())
	if err != nil {
		t.Fatal(err)
	}
	if data, ok := leaf.Extensions.Find(0xF001); !ok || string(data) != "of bob" {
		t.Errorf("the next leaf: %v", leaf.Extensions)
	}
	// in a GroupInfo
	info, err := mls.ForgeGroupInfo(t.Context(), alice.env(), alice.g(), alice.signer(), func(i *mls.GroupInfo) {
		i.Extensions = append(i.Extensions, mls.Extension{Type: 0xF004, Data: []byte("of the GroupInfo")})
	})
	if err != nil {
		t.Fatal(err)
	}
	dave := newMember(t, 1, "dave", mls.DefaultConfig)
	dave.able = &able
	commit, err := dave.joinExternal(info)
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(t, nil, commit)
	append(p, dave).agree(t)

	// carol does not support the group's
	wantUnable := func(what string, err error) {
		t.Helper()
		var breached *mls.RuleError
		if !errors.As(err, &breached) || breached.Rule != "LEAF-8" {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: carol.keyPackage()}}})
	wantUnable("add", err)
	if info, err = alice.g().GroupInfo(t.Context(), alice.env(), mls.GroupInfoParams{}); err != nil {
		t.Fatal(err)
	}
	_, err = carol.joinExternal(info)
	wantUnable("join", err)
	_, _, err = mls.Create(t.Context(), carol.env(), mls.CreateParams{
		Suite: carol.suite, GroupID: []byte("other"), Signer: carol.signer(), Credential: core.BasicCredential("carol"),
		Capabilities: carol.capabilities(), Lifetime: mls.NoLifetime, Extensions: group, Config: carol.config,
	})
	wantUnable("create", err)
}
