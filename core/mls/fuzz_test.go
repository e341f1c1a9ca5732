// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
)

// COD-8, COD-10: in each of these targets nothing panics, what is refused is
// [ErrMalformed], and what is accepted encodes to the same bytes. Seeds are our
// samples, the official vectors where they are at hand, and the corpus in
// testdata/fuzz.
func FuzzMLSMessage(f *testing.F)           { fuzzStructure(f, "MLSMessage") }
func FuzzGroupInfo(f *testing.F)            { fuzzStructure(f, "GroupInfo") }
func FuzzWelcome(f *testing.F)              { fuzzStructure(f, "Welcome") }
func FuzzKeyPackage(f *testing.F)           { fuzzStructure(f, "KeyPackage") }
func FuzzRatchetTree(f *testing.F)          { fuzzStructure(f, "RatchetTree") }
func FuzzProposal(f *testing.F)             { fuzzStructure(f, "Proposal") }
func FuzzCommit(f *testing.F)               { fuzzStructure(f, "Commit") }
func FuzzUpdatePath(f *testing.F)           { fuzzStructure(f, "UpdatePath") }
func FuzzLeafNode(f *testing.F)             { fuzzStructure(f, "LeafNode") }
func FuzzGroupSecrets(f *testing.F)         { fuzzStructure(f, "GroupSecrets") }
func FuzzGroupContext(f *testing.F)         { fuzzStructure(f, "GroupContext") }
func FuzzCredential(f *testing.F)           { fuzzStructure(f, "Credential") }
func FuzzAuthenticatedContent(f *testing.F) { fuzzStructure(f, "AuthenticatedContent") }
func FuzzPreSharedKeyID(f *testing.F)       { fuzzStructure(f, "PreSharedKeyID") }
func FuzzExtensions(f *testing.F)           { fuzzStructure(f, "Extensions") }
func FuzzRequiredCapabilities(f *testing.F) { fuzzStructure(f, "RequiredCapabilities") }
func FuzzExternalSenders(f *testing.F)      { fuzzStructure(f, "ExternalSenders") }
func FuzzExternalPub(f *testing.F)          { fuzzStructure(f, "ExternalPub") }

// FuzzPrivateMessageContent is the one structure that may have something behind
// it: zeros, which are padding (FR-7).
func FuzzPrivateMessageContent(f *testing.F) {
	for _, c := range sampleContents() {
		auth := sampleAuth(c)
		plain := auth.append(c.appendBody(nil), c.ContentType)
		f.Add(plain, byte(c.ContentType))
		f.Add(append(plain, 0, 0, 0), byte(c.ContentType))
		f.Add(append(plain, 0, 1, 0), byte(c.ContentType))
	}
	f.Fuzz(func(t *testing.T, data []byte, contentType byte) {
		m := &PrivateMessage{GroupID: []byte("group"), ContentType: ContentType(contentType)}
		a, err := m.readContent(data, 1)
		if err != nil {
			if !errors.Is(err, core.ErrInvalid) {
				t.Fatalf("%x gives the untyped error %v", data, err)
			}
			return
		}
		again := a.Auth.append(a.Content.appendBody(nil), a.Content.ContentType)
		if len(again) > len(data) || !bytes.Equal(append(again, make([]byte, len(data)-len(again))...), data) {
			t.Fatalf("%x is read and written back as %x and padding", data, again)
		}
	})
}

// FuzzImportTree goes on from the codec to the structure of a tree: what is
// imported is exported the same, and every node has a hash and a resolution.
func FuzzImportTree(f *testing.F) {
	suite := suiteOf(f, core.SuiteX25519AES128Ed25519)
	f.Add(MarshalRatchetTree(sampleTree()[:1]))
	f.Add(MarshalRatchetTree([]Node{sampleTree()[0], sampleTree()[1], sampleTree()[0]}))
	f.Add(MarshalRatchetTree([]Node{{}, {}, sampleTree()[0], {Parent: &ParentNode{UnmergedLeaves: []LeafIndex{1, 2}}}, sampleTree()[0]}))
	for _, seed := range vectorSeeds(f, "RatchetTree", 20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		nodes, err := UnmarshalRatchetTree(data)
		if err != nil {
			return
		}
		tree, err := importTree(suite, nodes)
		if err != nil {
			if !errors.Is(err, core.ErrInvalid) {
				t.Fatalf("%x gives the untyped error %v", data, err)
			}
			return
		}
		for n := range 2*NodeIndex(tree.size()) - 1 {
			if len(tree.nodeHash(n)) != 32 {
				t.Fatalf("%x: node %d has no hash", data, n)
			}
			tree.resolution(n)
		}
		if err := tree.validate(nil, false); err != nil && !errors.Is(err, core.ErrInvalid) {
			t.Fatalf("%x gives the untyped error %v", data, err)
		}
		if again := tree.appendTo(nil); !bytes.Equal(again, data) {
			t.Fatalf("%x is imported and exported as %x", data, again)
		}
	})
}

func fuzzStructure(f *testing.F, name string) {
	s := structureNamed(f, name)
	for _, sample := range s.samples {
		f.Add(sample)
	}
	for _, seed := range vectorSeeds(f, name, 20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkAgain(t, s, data) })
}

func structureNamed(t testing.TB, name string) wireStructure {
	for _, s := range wireStructures() {
		if s.name == name {
			return s
		}
	}
	t.Fatalf("no structure %s", name)
	return wireStructure{}
}

// seedFields says from which field of messages.json a structure is taken, and
// how: as it is, without the header of the MLSMessage, or from its inside.
var seedFields = []struct {
	structure, field string
	cut              func(testing.TB, []byte) []byte
}{
	{"MLSMessage", "mls_welcome", whole},
	{"MLSMessage", "mls_group_info", whole},
	{"MLSMessage", "mls_key_package", whole},
	{"MLSMessage", "public_message_application", whole},
	{"MLSMessage", "public_message_proposal", whole},
	{"MLSMessage", "public_message_commit", whole},
	{"MLSMessage", "private_message", whole},
	{"Welcome", "mls_welcome", unwrapped},
	{"GroupInfo", "mls_group_info", unwrapped},
	{"KeyPackage", "mls_key_package", unwrapped},
	{"RatchetTree", "ratchet_tree", whole},
	{"GroupSecrets", "group_secrets", whole},
	{"Proposal", "add_proposal", typed(ProposalAdd)},
	{"Proposal", "update_proposal", typed(ProposalUpdate)},
	{"Proposal", "remove_proposal", typed(ProposalRemove)},
	{"Proposal", "pre_shared_key_proposal", typed(ProposalPSK)},
	{"Proposal", "re_init_proposal", typed(ProposalReInit)},
	{"Proposal", "external_init_proposal", typed(ProposalExternalInit)},
	{"Proposal", "group_context_extensions_proposal", typed(ProposalGroupContextExtensions)},
	{"LeafNode", "update_proposal", whole},
	{"PreSharedKeyID", "pre_shared_key_proposal", whole},
	{"Extensions", "group_context_extensions_proposal", whole},
	{"Commit", "commit", whole},
	{"UpdatePath", "commit", pathOf},
	{"Credential", "update_proposal", credentialOf},
	{"GroupContext", "mls_group_info", contextOf},
	{"AuthenticatedContent", "public_message_application", contentOf},
	{"AuthenticatedContent", "public_message_proposal", contentOf},
	{"AuthenticatedContent", "public_message_commit", contentOf},
}

func whole(_ testing.TB, b []byte) []byte     { return b }
func unwrapped(_ testing.TB, b []byte) []byte { return b[4:] }

func typed(p ProposalType) func(testing.TB, []byte) []byte {
	return func(_ testing.TB, b []byte) []byte { return append(appendU16(nil, uint16(p)), b...) }
}

func pathOf(t testing.TB, b []byte) []byte {
	commit, err := UnmarshalCommit(b)
	if err != nil || commit.Path == nil {
		t.Fatalf("commit without a path (%v)", err)
	}
	return commit.Path.Marshal()
}

func credentialOf(t testing.TB, b []byte) []byte {
	leaf, err := UnmarshalLeafNode(b)
	if err != nil {
		t.Fatal(err)
	}
	return MarshalCredential(leaf.Credential)
}

func contextOf(t testing.TB, b []byte) []byte {
	m, err := UnmarshalMLSMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	return m.GroupInfo.GroupContext.Marshal()
}

func contentOf(t testing.TB, b []byte) []byte {
	m, err := UnmarshalMLSMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	p := m.PublicMessage
	return (&AuthenticatedContent{WireFormat: WirePublicMessage, Content: p.Content, Auth: p.Auth}).Marshal()
}

// vectorSeeds takes a structure from the first n cases of messages.json; none
// without the shared test data.
func vectorSeeds(t testing.TB, name string, n int) (seeds [][]byte) {
	path, ok := coretest.SharedIfAny(t, "vectors", "mls", "messages.json")
	if !ok {
		return nil
	}
	cases, err := messageVectors(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases[:min(n, len(cases))] {
		for _, s := range seedFields {
			if s.structure == name {
				seeds = append(seeds, s.cut(t, c[s.field]))
			}
		}
	}
	return seeds
}

// messageVectors reads the file once for all targets.
func messageVectors(path string) ([]map[string]hexBytes, error) {
	messagesOnce.Do(func() {
		var data []byte
		if data, messagesErr = os.ReadFile(path); messagesErr == nil {
			messagesErr = json.Unmarshal(data, &messagesCases)
		}
	})
	return messagesCases, messagesErr
}

var (
	messagesOnce  sync.Once
	messagesCases []map[string]hexBytes
	messagesErr   error
)

// The seeds are what their targets accept: else they would fuzz nothing.
func TestVectorSeeds(t *testing.T) {
	t.Parallel()
	coretest.Shared(t, "vectors", "mls", "messages.json")
	for _, field := range seedFields {
		s := structureNamed(t, field.structure)
		seeds := vectorSeeds(t, s.name, 3)
		if len(seeds) == 0 {
			t.Errorf("%s: no seeds", s.name)
		}
		for _, seed := range seeds {
			if _, err := s.again(seed); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
		}
	}
}
