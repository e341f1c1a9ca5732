// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A judge is an Authenticator that writes down what it is asked.
type judge struct {
	asked     []string
	chains    [][][]byte
	refuse    func(c core.Credential, p core.Purpose) bool
	successor func(old, new core.Identity) error
}

func (j *judge) Validate(c core.Credential, key []byte, _ time.Time, p core.Purpose) (core.Identity, error) {
	purpose := map[core.Purpose]string{core.PurposeMember: "member", core.PurposeExternal: "external", core.PurposeIdentify: "predecessor"}[p]
	j.asked = append(j.asked, fmt.Sprintf("%s %s %x", purpose, c.Identity, key))
	j.chains = append(j.chains, c.Certificates)
	if j.refuse != nil && j.refuse(c, p) {
		return core.Identity{}, core.ErrDenied
	}
	return core.Identity{ClientID: core.ClientID(c.Identity)}, nil
}

func (j *judge) Successor(old, new core.Identity) error {
	j.asked = append(j.asked, fmt.Sprintf("successor %s %s", old.ClientID, new.ClientID))
	if j.successor != nil {
		return j.successor(old, new)
	}
	return nil
}

// breaks wants the refusal that names a rule.
func wantBreach(t testing.TB, what, rule string, err error) {
	t.Helper()
	var breached *mls.RuleError
	if !errors.As(err, &breached) || breached.Rule != rule || !errors.Is(err, core.ErrInvalid) {
		t.Errorf("%s: got %v, want %s", what, err, rule)
	}
}

// judged gives all members a judge each.
func (p party) judged() {
	for _, m := range p {
		m.asks = &judge{}
	}
}

// CRD-1, CRD-2: each new credential is handed over once with its key, wherever it
// appears, with the one that it replaces; those known are not asked about again.
func TestEachNewCredentialIsJudgedOnce(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, bob, carol, p := threesome(t, mls.DefaultConfig, nil)
	p.judged()
	expect := func(m *member, what string, want ...string) {
		t.Helper()
		slices.Sort(want)
		slices.Sort(m.asks.asked)
		if !slices.Equal(m.asks.asked, want) {
			t.Errorf("%s, %s: asked %q, want %q", m.name, what, m.asks.asked, want)
		}
		m.asks.asked = nil
	}
	everybody := func(what string, want ...string) {
		t.Helper()
		for _, m := range p {
			expect(m, what, want...)
		}
	}
	asMember := func(m *member) string { return fmt.Sprintf("member %s %x", m.name, m.signer().Public()) }
	replaced := func(m *member, old core.Signer) []string {
		return []string{asMember(m), fmt.Sprintf("predecessor %s %x", m.name, old.Public()), fmt.Sprintf("successor %s %s", m.name, m.name)}
	}
	sent := func(m *member) func([]byte, error) {
		return func(message []byte, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			p.deliver(t, m, message)
		}
	}

	zoe, yves := newMember(t, 1, "zoe", mls.DefaultConfig), newMember(t, 1, "yves", mls.DefaultConfig)
	sent(alice)(alice.propose(&mls.Add{KeyPackage: zoe.keyPackage()}))
	everybody("an Add that is proposed", asMember(zoe))
	zoe.asks, yves.asks = &judge{}, &judge{}
	was := bob.signer()
	sent(bob)(bob.proposeUpdate(mls.LeafParams{SignatureKey: bob.newSigner()}))
	everybody("an Update with a new key", replaced(bob, was)...)
	p = p.commitAll(t, carol, mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: yves.keyPackage()}}}, zoe, yves)
	for _, m := range p[:3] {
		expect(m, "a commit of known proposals and an Add by value", asMember(yves))
	}
	for _, m := range p[3:] {
		expect(m, "a join", asMember(alice), asMember(bob), asMember(carol), asMember(zoe), asMember(yves))
	}

	sent(bob)(bob.proposeUpdate(mls.LeafParams{}))
	everybody("an Update with the same credential and key")
	was = alice.signer()
	p.commitAll(t, alice, mls.CommitParams{Leaf: mls.LeafParams{SignatureKey: alice.newSigner()}})
	everybody("a path with a new key", replaced(alice, was)...)
	p.commitAll(t, alice, mls.CommitParams{ForcePath: true})
	everybody("a path with the same")

	service := newMember(t, 1, "service", mls.DefaultConfig)
	senders := mls.Extensions{mls.ExternalSendersExtension([]mls.ExternalSender{{SignatureKey: service.signer().Public(), Credential: core.BasicCredential("service")}})}
	sender := fmt.Sprintf("external service %x", service.signer().Public())
	sent(bob)(bob.propose(&mls.GroupContextExtensions{Extensions: senders}))
	everybody("an external sender that is proposed", sender)
	p.commitAll(t, alice, mls.CommitParams{})
	everybody("one that is committed")
	sent(bob)(bob.propose(&mls.GroupContextExtensions{Extensions: senders}))
	everybody("one that is there already")

	joiner := newMember(t, 1, "joiner", mls.DefaultConfig)
	joiner.asks = &judge{}
	commit, err := joiner.joinExternal(alice.groupInfo())
	if err != nil {
		t.Fatal(err)
	}
	expect(joiner, "an external join", asMember(joiner), asMember(alice), asMember(bob), asMember(carol), asMember(zoe), asMember(yves), sender)
	p.deliver(t, nil, commit)
	everybody("an external commit", asMember(joiner))
	was = zoe.signer()
	zoe.newSigner()
	if commit, err = zoe.joinExternal(alice.groupInfo()); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(zoe.asks.asked, "successor zoe zoe") { // whose the old leaf is was read with the tree
		t.Errorf("a resync: asked %q", zoe.asks.asked)
	}
	party{alice, bob}.deliver(t, nil, commit)
	expect(bob, "a resync", replaced(zoe, was)...)

	founder := newMember(t, 1, "founder", mls.DefaultConfig)
	founder.asks = &judge{}
	founder.create("another", senders)
	expect(founder, "a new group", asMember(founder), sender)
	if _, err := mls.Observe(founder.env(), infoOf(t, founder.groupInfo()), nil); err != nil {
		t.Fatal(err)
	}
	expect(founder, "a group that is observed", asMember(founder), sender)

	// Whoever the judge does not know does not get in, by any of these ways.
	nobody := &judge{refuse: func(_ core.Credential, p core.Purpose) bool { return p != core.PurposeIdentify }}
	founder.asks = nobody
	if _, err := mls.Observe(founder.env(), infoOf(t, founder.groupInfo()), nil); !errors.Is(err, core.ErrDenied) {
		t.Errorf("observe: %v", err)
	}
	if _, err := newMember(t, 1, "x", mls.DefaultConfig).withJudge(nobody).joinExternal(founder.groupInfo()); !errors.Is(err, core.ErrDenied) {
		t.Errorf("external join: %v", err)
	}
	if _, _, err := mls.Create(ctx, founder.env(), mls.CreateParams{
		Suite: founder.suite, GroupID: []byte("g"), Signer: founder.signer(), Credential: core.BasicCredential("founder"),
		Capabilities: founder.capabilities(), Lifetime: mls.NoLifetime,
	}); !errors.Is(err, core.ErrDenied) {
		t.Errorf("create: %v", err)
	}
}

func (m *member) withJudge(j *judge) *member {
	m.asks = j
	return m
}

func infoOf(t testing.TB, message []byte) *mls.GroupInfo {
	t.Helper()
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	return m.GroupInfo
}

// CRD-1, CRD-2: what the judge refuses is not taken, from whomever it comes, and
// changes nothing: a credential or a successor, in an Add, an Update, a path, an
// external commit, a list of external senders, a tree.
func TestRefusedCredentials(t *testing.T) {
	t.Parallel()
	alice, _, carol, p := threesome(t, mls.DefaultConfig, nil)
	info := alice.groupInfo()
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	service := []mls.ExternalSender{{SignatureKey: zoe.signer().Public(), Credential: core.BasicCredential("service")}}
	changed := core.BasicCredential("carol, married")
	messages := map[string][]byte{}
	made := func(what string, message []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		messages[what] = message
	}
	message, err := carol.propose(&mls.Add{KeyPackage: zoe.keyPackage()})
	made("an Add", message, err)
	carol.asks = &judge{successor: func(_, _ core.Identity) error { return nil }}
	message, err = carol.proposeUpdate(mls.LeafParams{Credential: &changed})
	made("an Update", message, err)
	message, err = carol.propose(&mls.GroupContextExtensions{Extensions: mls.Extensions{mls.ExternalSendersExtension(service)}})
	made("external senders", message, err)
	dave := newMember(t, 1, "dave", mls.DefaultConfig)
	message, err = dave.joinExternal(info)
	made("an external commit", message, err)
	resync := newMember(t, 1, "bob", mls.DefaultConfig)
	message, err = resync.joinExternal(info)
	made("a resync", message, err)

	unknown := func(_ core.Credential, p core.Purpose) bool { return p != core.PurposeIdentify }
	denied := func(_, _ core.Identity) error { return core.ErrDenied }
	for _, m := range p[:2] {
		for what, message := range messages {
			for reason, j := range map[string]*judge{"unknown": {refuse: unknown}, "no successor": {successor: denied}} {
				if reason == "no successor" && what != "an Update" && what != "a resync" {
					continue
				}
				m.asks = j
				before := m.stored.dump()
				if _, err := m.process(message); !errors.Is(err, core.ErrDenied) || m.stored.dump() != before {
					t.Errorf("%s, %s, %s: %v", m.name, what, reason, err)
				}
			}
		}
		m.asks = nil
	}

	// A path: the judge decides with the credential at hand.
	alice, bob, _, _ := threesome(t, mls.DefaultConfig, nil)
	bob.asks = &judge{}
	b, err := bob.commit(mls.CommitParams{Leaf: mls.LeafParams{SignatureKey: bob.newSigner()}})
	if err != nil {
		t.Fatal(err)
	}
	for reason, j := range map[string]*judge{"unknown": {refuse: unknown}, "no successor": {successor: denied}} {
		alice.asks = j
		before := alice.stored.dump()
		if _, err := alice.process(b.Commit); !errors.Is(err, core.ErrDenied) || alice.stored.dump() != before {
			t.Errorf("a path, %s: %v", reason, err)
		}
		// and our own is not even made
		if _, err := alice.commit(mls.CommitParams{Leaf: mls.LeafParams{SignatureKey: alice.newSigner()}}); !errors.Is(err, core.ErrDenied) {
			t.Errorf("our own path, %s: %v", reason, err)
		}
		if _, err := alice.proposeUpdate(mls.LeafParams{SignatureKey: alice.newSigner()}); !errors.Is(err, core.ErrDenied) {
			t.Errorf("our own Update, %s: %v", reason, err)
		}
		if alice.stored.dump() != before {
			t.Errorf("%s: something has changed", reason)
		}
	}
	if _, err := alice.withJudge(&judge{refuse: unknown}).propose(&mls.Add{KeyPackage: zoe.keyPackage()}); !errors.Is(err, core.ErrDenied) {
		t.Errorf("our own Add: %v", err)
	}
	// A tree: whoever is in it.
	for _, name := range []string{alice.name, carol.name} {
		zoe.asks = &judge{refuse: func(c core.Credential, _ core.Purpose) bool { return string(c.Identity) == name }}
		if _, err := zoe.joinExternal(info); !errors.Is(err, core.ErrDenied) || len(zoe.stored) != 0 {
			t.Errorf("a tree with %s: %v", name, err)
		}
	}
}

// CRD-3: a chain of certificates, the signature key and what they are for reach the
// authenticator as they came, and what it refuses is kept out.
func TestChainsReachTheAuthenticator(t *testing.T) {
	t.Parallel()
	chain := [][]byte{[]byte("end entity"), []byte("intermediate"), []byte("root")}
	credential := core.Credential{Type: core.CredentialX509, Certificates: chain}
	alice, bob, _, p := threesome(t, mls.DefaultConfig, nil)
	p.judged()
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig).withJudge(&judge{})
	kp := zoe.keyPackage()
	kp.LeafNode.Credential = credential
	if err := mls.ForgeKeyPackage(t.Context(), zoe.signer(), kp); err != nil {
		t.Fatal(err)
	}
	wants := func(m *member, what, purpose string, key []byte) {
		t.Helper()
		i := slices.Index(m.asks.asked, fmt.Sprintf("%s  %x", purpose, key))
		if i < 0 || !slices.EqualFunc(m.asks.chains[i], chain, slices.Equal) {
			t.Errorf("%s, %s: asked %q %q", m.name, what, m.asks.asked, m.asks.chains)
		}
		m.asks.asked, m.asks.chains = nil, nil
	}
	add := mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: kp}}}
	alice.asks.refuse = func(c core.Credential, _ core.Purpose) bool { return len(c.Certificates) > 0 }
	if _, err := alice.commit(add); !errors.Is(err, core.ErrDenied) {
		t.Errorf("a chain that is refused is committed: %v", err)
	}
	alice.asks = &judge{}
	p = p.commitAll(t, alice, add, zoe)
	for _, m := range p {
		wants(m, "an Add", "member", zoe.signer().Public())
	}
	first := zoe.signer()
	p.commitAll(t, zoe, mls.CommitParams{Leaf: mls.LeafParams{SignatureKey: zoe.newSigner()}})
	for _, m := range p {
		m.asks.asked, m.asks.chains = slices.Clone(m.asks.asked), slices.Clone(m.asks.chains)
		asked, chains := m.asks.asked, m.asks.chains
		wants(m, "a path", "member", zoe.signer().Public())
		m.asks.asked, m.asks.chains = asked, chains
		wants(m, "who was there", "predecessor", first.Public())
	}
	yves := newMember(t, 1, "yves", mls.DefaultConfig).withJudge(&judge{})
	senders := []mls.ExternalSender{{SignatureKey: yves.signer().Public(), Credential: credential}}
	p.commitAll(t, bob, mls.CommitParams{Proposals: []mls.Proposal{&mls.GroupContextExtensions{Extensions: mls.Extensions{mls.ExternalSendersExtension(senders)}}}})
	for _, m := range p {
		wants(m, "an external sender", "external", yves.signer().Public())
	}
	yves.asks.refuse = func(c core.Credential, p core.Purpose) bool {
		return p == core.PurposeMember && len(c.Certificates) > 0
	}
	if _, err := yves.joinExternal(alice.groupInfo()); !errors.Is(err, core.ErrDenied) || len(yves.stored) != 0 {
		t.Errorf("a group with a chain that is refused is joined: %v", err)
	}
	wants(yves, "a tree", "member", zoe.signer().Public())
}

// newcomer is a member whose key package was changed and signed again.
func newcomer(t *testing.T, name string, change func(*mls.LeafNode)) *member {
	t.Helper()
	m := newMember(t, 1, name, mls.DefaultConfig)
	m.grease = false // only what change makes of it
	kp := m.keyPackage()
	change(kp.LeafNode)
	if err := mls.ForgeKeyPackage(t.Context(), m.signer(), kp); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *member) add() *mls.Add { return &mls.Add{KeyPackage: m.bundle.KeyPackage} }

// CRD-4: in the group as it will be, every member supports every credential type in
// use: the newcomer's by those who are there, theirs by the newcomer, each its own.
func TestCredentialTypesOfTheGroup(t *testing.T) {
	t.Parallel()
	const private = core.CredentialType(0xF000)
	withType := func(n *mls.LeafNode, supported ...core.CredentialType) {
		n.Credential = core.Credential{Type: private, Opaque: []byte("somebody")}
		n.Capabilities.Credentials = supported
	}
	for _, c := range []struct {
		what   string
		change func(*mls.LeafNode)
	}{
		{"a type that the members do not support", func(n *mls.LeafNode) { withType(n, core.CredentialBasic, private) }},
		{"no support of the members' type", func(n *mls.LeafNode) {
			n.Credential = core.Credential{Type: core.CredentialX509, Certificates: [][]byte{{1}}}
			n.Capabilities.Credentials = []core.CredentialType{core.CredentialX509}
		}},
		{"no support of its own", func(n *mls.LeafNode) { n.Capabilities.Credentials = []core.CredentialType{core.CredentialX509} }},
	} {
		alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
		zoe := newcomer(t, "zoe", c.change)
		_, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{zoe.add()}})
		wantBreach(t, c.what+", committed", "CRD-4", err)
		message, err := mls.ForgeUncheckedCommit(t.Context(), mallory.env(), mallory.g(), []mls.Proposal{zoe.add()}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, c.what+", received", bob, message, "CRD-4", nil)
		// and in the tree of somebody else's group
		info, err := mls.ForgeGroupInfo(t.Context(), alice.env(), alice.g(), alice.signer(), func(i *mls.GroupInfo) {
			if err := mls.ForgeTree(alice.suite, i, func(nodes []mls.Node) {
				nodes[4].Leaf = zoe.bundle.KeyPackage.LeafNode
			}); err != nil {
				t.Fatal(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = newMember(t, 1, "yves", mls.DefaultConfig).joinExternal(info)
		wantBreach(t, c.what+", joined", "CRD-4", err)
		_, err = mls.Observe(bob.env(), infoOf(t, info), nil)
		wantBreach(t, c.what+", observed", "CRD-4", err)
	}
	// A path may not lose what the group uses, nor bring in what it does not.
	alice, bob, mallory, _ := threesome(t, mls.DefaultConfig, nil)
	for what, change := range map[string]func(*mls.LeafNode){
		"a new type in a path": func(n *mls.LeafNode) { withType(n, core.CredentialBasic, private) },
		"less in a path": func(n *mls.LeafNode) {
			n.Credential = core.Credential{Type: core.CredentialX509}
			n.Capabilities.Credentials = []core.CredentialType{core.CredentialX509}
		},
		"not its own": func(n *mls.LeafNode) { n.Capabilities.Credentials = nil },
	} {
		bob.asks = &judge{}
		message, err := mls.ForgeUncheckedCommit(t.Context(), mallory.env(), mallory.g(), nil, change, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, what, bob, message, "CRD-4", nil)
	}
	// The three agree to begin with: nothing but the types was wrong.
	message, err := mls.ForgeUncheckedCommit(t.Context(), mallory.env(), mallory.g(), []mls.Proposal{newcomer(t, "zoe", func(*mls.LeafNode) {}).add()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	party{alice, bob}.deliver(t, nil, message)
}

// CRD-5: a credential of a type that nobody here knows is kept as it is, by members,
// joiners and across a reload, where all say that they support it.
func TestUnknownCredentialsInAGroup(t *testing.T) {
	t.Parallel()
	const private = core.CredentialType(0xF000)
	credential := core.Credential{Type: private, Opaque: []byte("opaque\x00\xff")}
	supports := func(n *mls.LeafNode) { n.Capabilities.Credentials = append(n.Capabilities.Credentials, private) }
	alice := newMember(t, 1, "alice", mls.DefaultConfig)
	alice.create("group", nil)
	capabilities := alice.capabilities()
	capabilities.Credentials = append(capabilities.Credentials, private)
	p := party{alice}.commitAll(t, alice, mls.CommitParams{Leaf: mls.LeafParams{Capabilities: &capabilities}})
	bob := newcomer(t, "bob", supports)
	zoe := newcomer(t, "zoe", func(n *mls.LeafNode) { supports(n); n.Credential = credential })
	p = p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{bob.add(), zoe.add()}}, bob, zoe)
	p = p.commitAll(t, zoe, mls.CommitParams{ForcePath: true})
	text, err := zoe.send("hello")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range p[:2] {
		got, err := m.process(text)
		if err != nil {
			t.Fatal(err)
		}
		c := got.(*mls.ApplicationMessage).Sender.Credential
		if c.Type != private || string(c.Opaque) != string(credential.Opaque) || len(c.Identity)+len(c.Certificates) > 0 {
			t.Errorf("%s sees %+v", m.name, c)
		}
	}
}

// CRD-6: who somebody is has nothing to do with an application_id, which several
// may share and nobody needs.
func TestApplicationIDIsNobody(t *testing.T) {
	t.Parallel()
	alice, bob, carol, p := threesome(t, mls.DefaultConfig, nil)
	id := &mls.Extensions{{Type: mls.ExtensionApplicationID, Data: []byte("\x04same")}}
	p.commitAll(t, bob, mls.CommitParams{Leaf: mls.LeafParams{Extensions: id}})
	p.commitAll(t, carol, mls.CommitParams{Leaf: mls.LeafParams{Extensions: id}})
	zoe := newcomer(t, "zoe", func(n *mls.LeafNode) { n.Extensions = *id })
	yves := newcomer(t, "yves", func(n *mls.LeafNode) { n.Extensions = *id })
	p = p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{zoe.add(), yves.add()}}, zoe, yves)
	p = p.commitAll(t, carol, mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: bob.g().OwnLeaf()}}})
	p.talk(t)
	// The same client under another application_id is still the same client.
	again := newcomer(t, "zoe", func(n *mls.LeafNode) {
		n.Extensions = mls.Extensions{{Type: mls.ExtensionApplicationID, Data: []byte("\x05other")}}
	})
	_, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{again.add()}})
	wantBreach(t, "another application_id", "PRP-3", err)
	leaf, err := zoe.g().OwnLeafNode(t.Context(), zoe.env())
	if err != nil {
		t.Fatal(err)
	}
	if data, ok := leaf.Extensions.Find(mls.ExtensionApplicationID); !ok || string(data) != "\x04same" {
		t.Errorf("application_id %q", data)
	}
}

// CRD-7, mls-rs#361, openmls#1691, openmls#1944: a late message is from who was at
// its leaf in its epoch, whoever is there now and however the epochs were loaded.
func TestLateMessageOfWhoIsGone(t *testing.T) {
	t.Parallel()
	for _, reload := range []bool{true, false} {
		alice, bob, carol, p := threesome(t, mls.DefaultConfig, nil)
		alice.reload, carol.reload = reload, reload
		if bob.g().OwnLeaf() != 1 {
			t.Fatal("bob is not at leaf 1")
		}
		send := func(text string) []byte {
			message, err := bob.send(text)
			if err != nil {
				t.Fatal(err)
			}
			return message
		}
		first, second, third := send("first"), send("second"), send("third")
		zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
		check := func(m *member, message []byte, text string) {
			t.Helper()
			got, err := m.process(message)
			if err != nil {
				t.Errorf("%s: %v", m.name, err)
				return
			}
			a := got.(*mls.ApplicationMessage)
			if string(a.Data) != text || a.Sender.Leaf != 1 || string(a.Sender.Credential.Identity) != "bob" || !slices.Equal(a.Sender.SignatureKey, bob.signer().Public()) {
				t.Errorf("%s: %q is from %s at leaf %d", m.name, a.Data, a.Sender.Credential.Identity, a.Sender.Leaf)
			}
		}
		check(alice, first, "first")
		p = p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{&mls.Remove{Removed: 1}, &mls.Add{KeyPackage: zoe.keyPackage()}}}, zoe)
		if zoe.g().OwnLeaf() != 1 {
			t.Fatal("zoe is not at leaf 1")
		}
		check(carol, first, "first")
		check(alice, second, "second")
		p.talk(t) // zoe is heard as zoe
		p = p.commitAll(t, zoe, mls.CommitParams{Leaf: mls.LeafParams{SignatureKey: zoe.newSigner()}})
		p.talk(t)
		for _, m := range p[:2] {
			check(m, third, "third")
		}
	}
}
