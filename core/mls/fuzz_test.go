// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/conclave-mls/conclave/core/coretest"
)

// Each target: nothing panics, what is refused is [ErrMalformed], and what is
// accepted encodes to the same bytes (COD-8, COD-10). Seeds are our samples, the
// official vectors where they are at hand, and the corpus in testdata/fuzz.

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
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var cases []map[string]hexBytes
	if err := json.Unmarshal(data, &cases); err != nil {
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
