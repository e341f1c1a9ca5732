// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// sampleLeaf has every field filled, whether that makes sense or not.
func sampleLeaf(source LeafNodeSource) *LeafNode {
	n := &LeafNode{
		EncryptionKey: []byte("encryption key"),
		SignatureKey:  []byte("signature key"),
		Credential:    core.BasicCredential("alice"),
		Capabilities: Capabilities{
			Versions:    []ProtocolVersion{MLS10},
			Suites:      []core.SuiteID{1, 0x0A0A},
			Extensions:  []ExtensionType{0xF001},
			Proposals:   []ProposalType{0x0A0A},
			Credentials: []core.CredentialType{core.CredentialBasic},
		},
		Source:     source,
		Extensions: Extensions{{Type: 0xF001, Data: []byte("later")}, {Type: ExtensionApplicationID, Data: []byte("id")}},
		Signature:  []byte("signature"),
	}
	switch source {
	case LeafKeyPackage:
		n.Lifetime = Lifetime{NotBefore: 1, NotAfter: 1<<64 - 1}
	case LeafCommit:
		n.ParentHash = []byte("parent hash")
	}
	return n
}

func sampleKeyPackage() *KeyPackage {
	return &KeyPackage{
		Version:    MLS10,
		Suite:      1,
		InitKey:    []byte("init key"),
		LeafNode:   sampleLeaf(LeafKeyPackage),
		Extensions: Extensions{{Type: ExtensionLastResort}},
		Signature:  []byte("signature"),
	}
}

func samplePSKs() []PreSharedKeyID {
	return []PreSharedKeyID{
		{Type: PSKExternal, ID: []byte("id"), Nonce: []byte("nonce")},
		{Type: PSKResumption, Usage: ResumptionBranch, GroupID: []byte("group"), Epoch: 1 << 40, Nonce: []byte("nonce")},
	}
}

func sampleCommit() *Commit {
	return &Commit{
		Proposals: []ProposalOrRef{
			{Proposal: &Add{sampleKeyPackage()}},
			{Reference: []byte("reference")},
			{Proposal: &Update{sampleLeaf(LeafUpdate)}},
			{Proposal: &Remove{7}},
			{Proposal: &PreSharedKey{samplePSKs()[0]}},
			{Proposal: &PreSharedKey{samplePSKs()[1]}},
			{Proposal: &ReInit{GroupID: []byte("next"), Version: 2, Suite: 3, Extensions: Extensions{{Type: 9}}}},
			{Proposal: &ExternalInit{[]byte("kem output")}},
			{Proposal: &GroupContextExtensions{Extensions{{Type: 4, Data: []byte("x")}}}},
			{Proposal: &Custom{ProposalType: 0xF000, Body: []byte("whatever")}},
		},
		Path: &UpdatePath{
			LeafNode: sampleLeaf(LeafCommit),
			Nodes: []UpdatePathNode{
				{EncryptionKey: []byte("key"), Secrets: []core.HPKECiphertext{{KEMOutput: []byte("kem"), Ciphertext: []byte("ct")}}},
				{EncryptionKey: []byte("no recipients")},
			},
		},
	}
}

func sampleGroupInfo() *GroupInfo {
	return &GroupInfo{
		GroupContext: GroupContext{
			Version: MLS10, Suite: 1, GroupID: []byte("group"), Epoch: 1<<63 + 1,
			TreeHash: []byte("tree"), ConfirmedTranscriptHash: []byte("transcript"),
			Extensions: Extensions{RequiredCapabilities{Extensions: []ExtensionType{0xF001}}.Extension()},
		},
		Extensions:      Extensions{{Type: ExtensionRatchetTree, Data: MarshalRatchetTree(sampleTree())}},
		ConfirmationTag: []byte("tag"),
		Signer:          3,
		Signature:       []byte("signature"),
	}
}

func sampleTree() []Node {
	return []Node{
		{Leaf: sampleLeaf(LeafKeyPackage)},
		{Parent: &ParentNode{EncryptionKey: []byte("key"), ParentHash: []byte("hash"), UnmergedLeaves: []LeafIndex{0, 1<<32 - 1}}},
		{},
	}
}

func sampleWelcome() *Welcome {
	return &Welcome{
		Suite:              1,
		Secrets:            []EncryptedGroupSecrets{{NewMember: []byte("ref"), Secrets: core.HPKECiphertext{KEMOutput: []byte("kem"), Ciphertext: []byte("ct")}}},
		EncryptedGroupInfo: []byte("info"),
	}
}

func sampleGroupSecrets() *GroupSecrets {
	return &GroupSecrets{
		JoinerSecret: core.NewSecret([]byte("joiner")),
		PathSecret:   core.NewSecret([]byte("path")),
		PSKs:         samplePSKs(),
	}
}

// sampleContents are all legal and illegal pairs of sender and content.
func sampleContents() (all []*FramedContent) {
	for _, sender := range []Sender{
		{Type: SenderMember, Leaf: 1}, {Type: SenderExternal, Index: 2}, {Type: SenderNewMemberProposal}, {Type: SenderNewMemberCommit},
	} {
		c := FramedContent{GroupID: []byte("group"), Epoch: 5, Sender: sender, AuthenticatedData: []byte("aad")}
		application, proposal, commit := c, c, c
		application.ContentType, application.Application = ContentApplication, []byte("hello")
		proposal.ContentType, proposal.Proposal = ContentProposal, &Remove{1}
		commit.ContentType, commit.Commit = ContentCommit, sampleCommit()
		all = append(all, &application, &proposal, &commit)
	}
	return all
}

func sampleAuth(c *FramedContent) FramedContentAuthData {
	auth := FramedContentAuthData{Signature: []byte("signature")}
	if c.ContentType == ContentCommit {
		auth.ConfirmationTag = []byte("tag")
	}
	return auth
}

func samplePublicMessages() (all []*PublicMessage) {
	for _, c := range sampleContents() {
		m := &PublicMessage{Content: c, Auth: sampleAuth(c)}
		if c.Sender.Type == SenderMember {
			m.MembershipTag = []byte("membership")
		}
		all = append(all, m)
	}
	return all
}

// A wireStructure is one thing that is decoded on its own.
type wireStructure struct {
	name    string
	samples [][]byte
	again   func([]byte) ([]byte, error) // decode and encode
}

// wireStructures lists them all; the fuzz targets are the same list.
func wireStructures() []wireStructure {
	messages := [][]byte{
		(&MLSMessage{PrivateMessage: &PrivateMessage{
			GroupID: []byte("group"), Epoch: 5, ContentType: ContentCommit, AuthenticatedData: []byte("aad"),
			EncryptedSenderData: []byte("sender"), Ciphertext: []byte("ciphertext"),
		}}).Marshal(),
		(&MLSMessage{Welcome: sampleWelcome()}).Marshal(),
		(&MLSMessage{GroupInfo: sampleGroupInfo()}).Marshal(),
		(&MLSMessage{KeyPackage: sampleKeyPackage()}).Marshal(),
	}
	for _, m := range samplePublicMessages() {
		messages = append(messages, (&MLSMessage{PublicMessage: m}).Marshal())
	}
	var contents, proposals [][]byte
	for _, c := range sampleContents() {
		contents = append(contents, (&AuthenticatedContent{WireFormat: WirePrivateMessage, Content: c, Auth: sampleAuth(c)}).Marshal())
	}
	for _, p := range sampleCommit().Proposals {
		if p.Proposal != nil {
			proposals = append(proposals, MarshalProposal(p.Proposal))
		}
	}
	return []wireStructure{
		{"MLSMessage", messages, structureAgain(UnmarshalMLSMessage)},
		{"GroupInfo", [][]byte{sampleGroupInfo().Marshal()}, structureAgain(UnmarshalGroupInfo)},
		{"Welcome", [][]byte{sampleWelcome().Marshal()}, structureAgain(func(data []byte) (*Welcome, error) {
			return decode("Welcome", data, readWelcome)
		})},
		{"KeyPackage", [][]byte{sampleKeyPackage().Marshal()}, structureAgain(UnmarshalKeyPackage)},
		{"RatchetTree", [][]byte{MarshalRatchetTree(sampleTree())}, func(data []byte) ([]byte, error) {
			nodes, err := UnmarshalRatchetTree(data)
			return MarshalRatchetTree(nodes), err
		}},
		{"Proposal", proposals, func(data []byte) ([]byte, error) {
			p, err := UnmarshalProposal(data)
			if err != nil {
				return nil, err
			}
			return MarshalProposal(p), nil
		}},
		{"Commit", [][]byte{sampleCommit().Marshal(), (&Commit{}).Marshal()}, structureAgain(UnmarshalCommit)},
		{"UpdatePath", [][]byte{sampleCommit().Path.Marshal()}, structureAgain(UnmarshalUpdatePath)},
		{"LeafNode", [][]byte{sampleLeaf(LeafKeyPackage).Marshal(), sampleLeaf(LeafUpdate).Marshal(), sampleLeaf(LeafCommit).Marshal()}, structureAgain(UnmarshalLeafNode)},
		{"GroupSecrets", [][]byte{sampleGroupSecrets().Marshal(), (&GroupSecrets{}).Marshal()}, structureAgain(UnmarshalGroupSecrets)},
		{"GroupContext", [][]byte{marshal(&sampleGroupInfo().GroupContext)}, structureAgain(func(data []byte) (*GroupContext, error) {
			c, err := decode("GroupContext", data, readGroupContext)
			return &c, err
		})},
		{"Credential", [][]byte{
			MarshalCredential(core.BasicCredential("alice")),
			MarshalCredential(core.Credential{Type: core.CredentialX509, Certificates: [][]byte{[]byte("leaf"), []byte("root")}}),
			MarshalCredential(core.Credential{Type: 0xF000, Opaque: []byte("opaque")}), // CRD-5
		}, func(data []byte) ([]byte, error) {
			c, err := UnmarshalCredential(data)
			return MarshalCredential(c), err
		}},
		{"AuthenticatedContent", contents, structureAgain(UnmarshalAuthenticatedContent)},
		{"PreSharedKeyID", [][]byte{samplePSKs()[0].append(nil), samplePSKs()[1].append(nil)}, func(data []byte) ([]byte, error) {
			p, err := decode("PreSharedKeyID", data, readPreSharedKeyID)
			return p.append(nil), err
		}},
		{"Extensions", [][]byte{Extensions{{Type: 9, Data: []byte("x")}, {Type: 1}}.append(nil)}, func(data []byte) ([]byte, error) {
			l, err := decode("Extensions", data, readExtensions)
			return l.append(nil), err
		}},
		{"RequiredCapabilities", [][]byte{
			RequiredCapabilities{Extensions: []ExtensionType{1}, Proposals: []ProposalType{8, 9}, Credentials: []core.CredentialType{2}}.Extension().Data,
		}, func(data []byte) ([]byte, error) {
			c, err := Extensions{{Type: ExtensionRequiredCapabilities, Data: data}}.requiredCapabilities()
			return c.Extension().Data, err
		}},
		{"ExternalSenders", [][]byte{
			ExternalSendersExtension([]ExternalSender{{SignatureKey: []byte("key"), Credential: core.BasicCredential("service")}}).Data,
		}, func(data []byte) ([]byte, error) {
			senders, err := Extensions{{Type: ExtensionExternalSenders, Data: data}}.ExternalSenders()
			return ExternalSendersExtension(senders).Data, err
		}},
		{"ExternalPub", [][]byte{vlbytes.Append(nil, []byte("key"))}, func(data []byte) ([]byte, error) {
			key, _, err := Extensions{{Type: ExtensionExternalPub, Data: data}}.externalPub()
			return vlbytes.Append(nil, key), err
		}},
	}
}

// COD-5, COD-8, COD-10, GHSA-rrmv-c79f-cf5r, tls_codec#2414: a structure encodes to what it was decoded from; no
// proper prefix of it, and nothing longer, is that structure.
func TestStructures(t *testing.T) {
	t.Parallel()
	for _, s := range wireStructures() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for i, sample := range s.samples {
				again, err := s.again(sample)
				if err != nil || !bytes.Equal(again, sample) {
					t.Errorf("sample %d: %x is read and written back as %x (%v)", i, sample, again, err)
				}
				for n := range sample {
					if _, err := s.again(sample[:n]); !errors.Is(err, ErrMalformed) || !errors.Is(err, core.ErrInvalid) {
						t.Errorf("sample %d: the first %d of %d bytes give %v", i, n, len(sample), err)
					}
				}
				for _, more := range []byte{0, 1, 0xFF} {
					if _, err := s.again(append(slices.Clip(sample), more)); !errors.Is(err, ErrMalformed) {
						t.Errorf("sample %d: a trailing %#x gives %v", i, more, err)
					}
				}
			}
		})
	}
}

// COD-8, COD-10: whatever one byte is changed to, a structure that is accepted
// encodes to the same bytes again.
func TestStructuresChanged(t *testing.T) {
	t.Parallel()
	for _, s := range wireStructures() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, sample := range s.samples {
				for i, was := range sample {
					changed := bytes.Clone(sample)
					for _, mask := range []byte{1, 2, 3, 4, 0x40, 0x80, 0xC0, was, ^was} {
						changed[i] = was ^ mask
						checkAgain(t, s, changed)
					}
				}
			}
		})
	}
}

// checkAgain is what every fuzz target checks.
func checkAgain(t *testing.T, s wireStructure, data []byte) {
	t.Helper()
	before := bytes.Clone(data)
	again, err := s.again(data)
	switch {
	case !bytes.Equal(before, data):
		t.Fatalf("%s: decoding changed its input %x", s.name, before)
	case err != nil && !errors.Is(err, ErrMalformed):
		t.Fatalf("%s: %x gives the untyped error %v", s.name, data, err)
	case err == nil && !bytes.Equal(again, data):
		t.Fatalf("%s: %x is read and written back as %x", s.name, data, again)
	}
}

// COD-4, COD-6, COD-11, COD-12: each discriminator refuses what it does not know.
func TestDiscriminators(t *testing.T) {
	t.Parallel()
	structures := make(map[string]wireStructure)
	for _, s := range wireStructures() {
		structures[s.name] = s
	}
	message := func(m *MLSMessage) []byte { return m.Marshal() }
	keyPackage := message(&MLSMessage{KeyPackage: sampleKeyPackage()})
	leaf := sampleLeaf(LeafUpdate)
	unknown := []uint16{0x0A0A, 0xF000, 0xFFFF} // proposals that are a <V> (COD-6)
	for v := range uint16(301 - 8) {
		unknown = append(unknown, 8+v)
	}
	content := func(sender, contentType byte) []byte {
		b := appendU64(appendOpaque(appendU16(nil, uint16(WirePublicMessage)), []byte("group")), 5)
		b = append(b, sender)
		if sender == byte(SenderMember) || sender == byte(SenderExternal) {
			b = appendU32(b, 0)
		}
		b = appendOpaque(appendOpaque(append(appendOpaque(b, nil), contentType), []byte("x")), []byte("signature"))
		return b
	}
	for _, c := range []struct {
		name, structure string
		accepted        []uint16
		all             uint16 // codes are tried from 0 to this one, and 0xFF.. ones
		encode          func(code uint16) []byte
	}{
		{"version", "MLSMessage", []uint16{1}, 300, func(v uint16) []byte {
			return append(appendU16(nil, v), keyPackage[2:]...)
		}},
		{"version of a key package", "MLSMessage", []uint16{1}, 300, func(v uint16) []byte {
			b := bytes.Clone(keyPackage)
			return append(appendU16(b[:4:4], v), b[6:]...)
		}},
		{"version of a bare key package", "KeyPackage", []uint16{1}, 300, func(v uint16) []byte {
			b := sampleKeyPackage().Marshal()
			return append(appendU16(nil, v), b[2:]...)
		}},
		{"version of a group context", "GroupContext", []uint16{1}, 300, func(v uint16) []byte {
			b := marshal(&sampleGroupInfo().GroupContext)
			return append(appendU16(nil, v), b[2:]...)
		}},
		{"wire format", "MLSMessage", []uint16{uint16(WireKeyPackage)}, 300, func(v uint16) []byte {
			return append(appendU16(appendU16(nil, 1), v), keyPackage[4:]...)
		}},
		{"wire format of content", "AuthenticatedContent", []uint16{1, 2}, 300, func(v uint16) []byte {
			return append(appendU16(nil, v), content(1, 1)[2:]...)
		}},
		{"sender type", "AuthenticatedContent", []uint16{1, 2, 3, 4}, 255, func(v uint16) []byte {
			return content(byte(v), 1)
		}},
		{"content type", "AuthenticatedContent", []uint16{1}, 255, func(v uint16) []byte {
			return content(1, byte(v))
		}},
		{"content type of a private message", "MLSMessage", []uint16{1, 2, 3}, 255, func(v uint16) []byte {
			return message(&MLSMessage{PrivateMessage: &PrivateMessage{ContentType: ContentType(v)}})
		}},
		{"leaf source", "LeafNode", []uint16{2}, 255, func(v uint16) []byte {
			leaf := *leaf
			b := leaf.appendUnsigned(nil)
			b[len(b)-len(leaf.Extensions.append(nil))-1] = byte(v)
			return appendOpaque(b, leaf.Signature)
		}},
		{"presence", "RatchetTree", []uint16{0}, 255, func(v uint16) []byte {
			return appendOpaque(nil, []byte{byte(v)})
		}},
		{"presence of a path", "Commit", []uint16{0}, 255, func(v uint16) []byte {
			return []byte{0, byte(v)}
		}},
		{"presence of a path secret", "GroupSecrets", []uint16{0}, 255, func(v uint16) []byte {
			return []byte{1, 'j', byte(v), 0}
		}},
		{"node type", "RatchetTree", []uint16{2}, 255, func(v uint16) []byte {
			return appendOpaque(nil, (&ParentNode{}).append([]byte{1, byte(v)}))
		}},
		{"proposal type", "Proposal", append(unknown, 6), 300, func(v uint16) []byte {
			return append(appendU16(nil, v), 9, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i')
		}},
		{"ProposalOrRef", "Commit", []uint16{2}, 255, func(v uint16) []byte {
			return append(appendOpaque(nil, []byte{byte(v), 1, 'r'}), 0)
		}},
		{"PSK type", "PreSharedKeyID", []uint16{1}, 255, func(v uint16) []byte {
			return []byte{byte(v), 0, 0}
		}},
		{"resumption usage", "PreSharedKeyID", []uint16{1, 2, 3}, 255, func(v uint16) []byte {
			return append([]byte{2, byte(v), 0}, make([]byte, 9)...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			codes := []uint16{0x0A0A, 0xF000, 0xFFFF}
			if c.all == 255 {
				codes = nil // one byte
			}
			for v := range c.all + 1 {
				codes = append(codes, v)
			}
			for _, code := range codes {
				data := c.encode(code)
				_, err := structures[c.structure].again(data)
				if accepted := slices.Contains(c.accepted, code); accepted != (err == nil) {
					t.Errorf("%d: %v", code, err)
				}
				checkAgain(t, structures[c.structure], data)
			}
		})
	}
}

// COD-6: codes that decide nothing are kept, whatever they are.
func TestUnknownCodesAreKept(t *testing.T) {
	t.Parallel()
	k := sampleKeyPackage()
	k.Suite = 0xFFFF
	k.LeafNode.Credential = core.Credential{Type: 0x0A0A, Opaque: []byte("grease")}
	k.LeafNode.Capabilities = Capabilities{
		Versions: []ProtocolVersion{2, 0}, Suites: []core.SuiteID{0x0A0A}, Extensions: []ExtensionType{0xEAEA, 0},
		Proposals: []ProposalType{0xFFFF}, Credentials: []core.CredentialType{0x1A1A},
	}
	k.Extensions = Extensions{{Type: 0xEAEA, Data: []byte("grease")}, {Type: 0}, {Type: 1}}
	data := k.Marshal()
	again, err := UnmarshalKeyPackage(data)
	if err != nil || !bytes.Equal(again.Marshal(), data) {
		t.Fatalf("%v", err)
	}
	if !again.Extensions.equal(k.Extensions) || !slices.Equal(again.LeafNode.Capabilities.Extensions, k.LeafNode.Capabilities.Extensions) {
		t.Error("the order of a list changed")
	}
}

// COD-5: opaque fields whose content has a known type are decoded exactly too.
func TestTrailingBytesInExtensions(t *testing.T) {
	t.Parallel()
	required := RequiredCapabilities{}.Extension()
	senders := ExternalSendersExtension([]ExternalSender{{Credential: core.BasicCredential("service")}})
	pub := Extension{Type: ExtensionExternalPub, Data: []byte{1, 'k'}}
	read := func(e Extension) error {
		l := Extensions{e}
		_, err1 := l.requiredCapabilities()
		_, err2 := l.ExternalSenders()
		_, _, err3 := l.externalPub()
		return errors.Join(err1, err2, err3)
	}
	for _, e := range []Extension{required, senders, pub} {
		if err := read(e); err != nil {
			t.Errorf("0x%04X: %v", uint16(e.Type), err)
		}
		e.Data = append(slices.Clip(e.Data), 0)
		if err := read(e); !errors.Is(err, ErrMalformed) {
			t.Errorf("0x%04X: a trailing byte gives %v", uint16(e.Type), err)
		}
	}
}

// COD-7: lengths beyond the input are refused before anything is made for them.
func TestLengthsClaimNothing(t *testing.T) {
	structures := wireStructures()
	claim := append([]byte{0xBF, 0xFF, 0xFF, 0xFF}, make([]byte, 10)...) // 1 GiB over ten bytes
	for _, s := range structures {
		for _, sample := range s.samples {
			for i := range sample {
				data := append(bytes.Clone(sample[:i]), claim...)
				if i > 200 {
					break
				}
				if n := allocated(func() { checkAgain(t, s, data) }); n > 64<<10 {
					t.Fatalf("%s: %d bytes allocated for a claim at %d", s.name, n, i)
				}
			}
		}
	}
}

// Decoding takes memory in proportion to its input, whatever the elements.
func TestListsAreBounded(t *testing.T) {
	const n = 1 << 20
	zeros := make([]byte, n)
	for _, c := range []struct {
		name string
		data []byte
		read func([]byte) error
	}{
		{"blank nodes", appendOpaque(nil, zeros), func(b []byte) error { _, err := UnmarshalRatchetTree(b); return err }},
		{"empty certificates", appendOpaque(appendU16(nil, 2), zeros), func(b []byte) error { _, err := UnmarshalCredential(b); return err }},
		{"empty references", append(appendOpaque(nil, bytes.Repeat([]byte{2, 0}, n/2)), 0), func(b []byte) error { _, err := UnmarshalCommit(b); return err }},
	} {
		if used := allocated(func() {
			if err := c.read(c.data); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}); used > 150*n {
			t.Errorf("%s: %d bytes for an input of %d", c.name, used, n)
		}
	}
}

// allocated counts the bytes that f allocates; nothing else may run meanwhile.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// COD-9, openmls#2174: 30 000 extensions are decoded and found to be distinct at once.
func TestManyExtensions(t *testing.T) {
	t.Parallel()
	var l Extensions
	for i := range 30_000 {
		l = append(l, Extension{Type: ExtensionType(i + 1)})
	}
	data := l.append(nil)
	start := time.Now()
	got, err := decode("Extensions", data, readExtensions)
	if err != nil || len(got) != len(l) {
		t.Fatalf("%d extensions, %v", len(got), err)
	}
	if err := got.checkUnique(); err != nil {
		t.Error(err)
	}
	got[len(got)-1].Type = got[0].Type
	var rule *RuleError
	if err := got.checkUnique(); !errors.As(err, &rule) || rule.Rule != "GRE-4" || !errors.Is(err, core.ErrInvalid) {
		t.Errorf("a type that occurs twice gives %v", err)
	}
	// A comparison of all pairs would be 900 million steps, some seconds.
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

// COD-9: nor does a leaf with long lists take long to check, against itself, the
// group and what others use.
func TestManyCapabilities(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	key, err := suite.GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := Pure.GenerateKey(t.Context(), core.KeySpec{Algorithm: core.Ed25519, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	leaf := sampleLeaf(LeafKeyPackage)
	leaf.EncryptionKey, leaf.SignatureKey = key.Public(), signer.Public()
	leaf.Extensions, leaf.Capabilities.Extensions = nil, nil
	var required RequiredCapabilities
	for i := range 30_000 {
		code := uint16(i + 0x100)
		leaf.Extensions = append(leaf.Extensions, Extension{Type: ExtensionType(code)})
		leaf.Capabilities.Extensions = append(leaf.Capabilities.Extensions, ExtensionType(code))
		leaf.Capabilities.Proposals = append(leaf.Capabilities.Proposals, ProposalType(code))
		leaf.Capabilities.Credentials = append(leaf.Capabilities.Credentials, core.CredentialType(code))
	}
	required.Extensions = slices.Clone(leaf.Capabilities.Extensions)
	required.Proposals = slices.Clone(leaf.Capabilities.Proposals)
	required.Credentials = slices.Clone(leaf.Capabilities.Credentials)
	slices.Reverse(required.Extensions)
	gc := &GroupContext{Version: MLS10, Suite: 1, Extensions: append(Extensions{required.Extension()}, leaf.Extensions...)}
	tree := newTree(suite)
	tree.addLeaf(leaf)
	start := time.Now()
	if err := errors.Join(leaf.checkContent(suite), leaf.checkFits(gc), checkCredentialTypes(tree)); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("took %v", took)
	}
	for rule, change := range map[string]func(*LeafNode){
		"LEAF-5": func(n *LeafNode) { n.Capabilities.Extensions = n.Capabilities.Extensions[1:] },
		"LEAF-7": func(n *LeafNode) { n.Capabilities.Proposals = n.Capabilities.Proposals[:20_000] },
		"CRD-4":  func(n *LeafNode) { n.Capabilities.Credentials = n.Capabilities.Credentials[1:] },
	} {
		other := *leaf
		change(&other)
		err := errors.Join(other.checkContent(suite), other.checkFits(gc))
		var breached *RuleError
		if !errors.As(err, &breached) || breached.Rule != rule {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

// COD-3, openmls#2147: content at the boundaries of the length's widths, also when nested.
func TestNestedBoundaries(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 0x3E, 0x3F, 0x40, 0x3FFE, 0x3FFF, 0x4000} {
		k := sampleKeyPackage()
		k.Extensions = Extensions{{Type: 9, Data: make([]byte, n)}}
		k.LeafNode.Extensions = Extensions{{Type: 9, Data: make([]byte, max(n-3, 0))}, {Type: 10, Data: make([]byte, max(n-5, 0))}}
		k.LeafNode.Credential.Identity = make([]byte, n)
		g := sampleGroupInfo()
		g.Extensions = Extensions{{Type: ExtensionRatchetTree, Data: MarshalRatchetTree([]Node{{Leaf: k.LeafNode}})}}
		for _, m := range []*MLSMessage{{KeyPackage: k}, {GroupInfo: g}} {
			data := m.Marshal()
			again, err := UnmarshalMLSMessage(data)
			if err != nil || !bytes.Equal(again.Marshal(), data) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
}

// What is decoded keeps nothing of the input, and its fields do not overlap.
func TestDecodedIsIndependent(t *testing.T) {
	t.Parallel()
	sample := sampleKeyPackage().Marshal()
	input := bytes.Clone(sample)
	k, err := UnmarshalKeyPackage(input)
	if err != nil {
		t.Fatal(err)
	}
	clear(input)
	_ = append(k.InitKey, "growth into the leaf"...)
	_ = append(k.LeafNode.Credential.Identity, "growth into the capabilities"...)
	_ = append(k.LeafNode.Extensions[0].Data, "growth into the next one"...)
	if !bytes.Equal(k.Marshal(), sample) {
		t.Error("a decoded structure changed with its input or its neighbour")
	}
}

// A decoder that fails returns nothing that could be taken for a result.
func TestNothingBesideAnError(t *testing.T) {
	t.Parallel()
	bad := append(sampleKeyPackage().Marshal(), 0)
	if k, err := UnmarshalKeyPackage(bad); k != nil || err == nil {
		t.Error("KeyPackage")
	}
	bad = append(sampleLeaf(LeafUpdate).Marshal(), 0)
	if n, err := UnmarshalLeafNode(bad); n != nil || err == nil {
		t.Error("LeafNode")
	}
	if p, err := UnmarshalProposal([]byte{0, 3, 0}); p != nil || err == nil {
		t.Error("Proposal")
	}
	if m, err := UnmarshalMLSMessage(bad); m != nil || err == nil {
		t.Error("MLSMessage")
	}
	if g, err := UnmarshalGroupSecrets(nil); g != nil || err == nil {
		t.Error("GroupSecrets")
	}
}

// An empty path secret cannot be told from none once it is decoded.
func TestEmptyPathSecret(t *testing.T) {
	t.Parallel()
	if _, err := UnmarshalGroupSecrets([]byte{1, 'j', 1, 0, 0}); !errors.Is(err, ErrMalformed) {
		t.Errorf("%v", err)
	}
}

// LEAF-9: lifetimes do not overflow at either end.
func TestLifetime(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000, 0)
	for _, c := range []struct {
		l    Lifetime
		t    time.Time
		want bool
	}{
		{NoLifetime, now, true},
		{NoLifetime, time.Unix(-5, 0), true},
		{NoLifetime, time.Unix(1<<62, 0), true},
		{Lifetime{1_000, 1_000}, now, true},
		{Lifetime{1_001, 1<<64 - 1}, now, false},
		{Lifetime{0, 999}, now, false},
		{Lifetime{2_000, 1}, now, false},
		{Lifetime{1, 10}, time.Unix(-5, 0), false},
	} {
		if got := c.l.Contains(c.t); got != c.want {
			t.Errorf("%v contains %v: %v", c.l, c.t, got)
		}
	}
}
