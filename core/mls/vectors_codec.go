// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"
	"encoding/json"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

type deserializationVector struct {
	Header hexBytes `json:"vlbytes_header"`
	Length int      `json:"length"`
}

func runDeserialization(_ context.Context, _ *vectorEnv, v *deserializationVector) error {
	s := cryptobyte.String(v.Header)
	if n, ok := vlbytes.ReadLength(&s); !ok || n != v.Length || !s.Empty() {
		return fmt.Errorf("header %x means %d, want %d", []byte(v.Header), n, v.Length)
	}
	return sameBytes("header", vlbytes.AppendLength(nil, v.Length), v.Header)
}

// A messagesVector has one structure per field of [messageCodecs].
type messagesVector map[string]json.RawMessage

// messageCodecs decode and encode again.
var messageCodecs = []struct {
	field string
	again func([]byte) ([]byte, error)
}{
	{"mls_welcome", messageAgain(WireWelcome)},
	{"mls_group_info", messageAgain(WireGroupInfo)},
	{"mls_key_package", messageAgain(WireKeyPackage)},
	{"ratchet_tree", func(data []byte) ([]byte, error) {
		nodes, err := UnmarshalRatchetTree(data)
		return MarshalRatchetTree(nodes), err
	}},
	{"group_secrets", structureAgain(UnmarshalGroupSecrets)},
	{"add_proposal", proposalAgain(ProposalAdd)},
	{"update_proposal", proposalAgain(ProposalUpdate)},
	{"remove_proposal", proposalAgain(ProposalRemove)},
	{"pre_shared_key_proposal", proposalAgain(ProposalPSK)},
	{"re_init_proposal", proposalAgain(ProposalReInit)},
	{"external_init_proposal", proposalAgain(ProposalExternalInit)},
	{"group_context_extensions_proposal", proposalAgain(ProposalGroupContextExtensions)},
	{"commit", structureAgain(UnmarshalCommit)},
	{"public_message_application", publicAgain(ContentApplication)},
	{"public_message_proposal", publicAgain(ContentProposal)},
	{"public_message_commit", publicAgain(ContentCommit)},
	{"private_message", messageAgain(WirePrivateMessage)},
}

func runMessages(_ context.Context, _ *vectorEnv, v *messagesVector) error {
	for _, m := range messageCodecs {
		var data hexBytes
		if err := json.Unmarshal((*v)[m.field], &data); err != nil {
			return fmt.Errorf("%s: %w", m.field, err)
		}
		again, err := m.again(data)
		if err != nil {
			return fmt.Errorf("%s: %w", m.field, err)
		}
		if err := sameBytes(m.field, again, data); err != nil {
			return err
		}
	}
	return nil
}

func structureAgain[T interface{ Marshal() []byte }](read func([]byte) (T, error)) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		v, err := read(data)
		if err != nil {
			return nil, err
		}
		return v.Marshal(), nil
	}
}

func messageAgain(format WireFormat) func([]byte) ([]byte, error) {
	return structureAgain(func(data []byte) (*MLSMessage, error) { return messageOf(data, format) })
}

// messageOf decodes an MLSMessage of one wire format.
func messageOf(data []byte, format WireFormat) (*MLSMessage, error) {
	m, err := UnmarshalMLSMessage(data)
	if err != nil {
		return nil, err
	}
	if m.WireFormat() != format {
		return nil, fmt.Errorf("wire format is %d, want %d", m.WireFormat(), format)
	}
	return m, nil
}

func publicAgain(t ContentType) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		m, err := UnmarshalMLSMessage(data)
		if err != nil {
			return nil, err
		}
		if m.PublicMessage == nil || m.PublicMessage.Content.ContentType != t {
			return nil, fmt.Errorf("not a PublicMessage with content type %d", t)
		}
		return m.Marshal(), nil
	}
}

// proposalAgain is for bodies without the type in front.
func proposalAgain(t ProposalType) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		p, err := UnmarshalProposal(append(appendU16(nil, uint16(t)), data...))
		if err != nil {
			return nil, err
		}
		return MarshalProposal(p)[2:], nil
	}
}

// A referenceVector is a KeyPackageRef or a ProposalRef: the files look alike,
// but no input is both a KeyPackage and an AuthenticatedContent.
type referenceVector struct {
	Suite  core.SuiteID `json:"cipher_suite"`
	Input  hexBytes     `json:"input"`
	Output hexBytes     `json:"output"`
}

func runReference(_ context.Context, env *vectorEnv, v *referenceVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	if k, err := UnmarshalKeyPackage(v.Input); err == nil {
		return sameBytes("KeyPackageRef", k.Ref(suite), v.Output)
	}
	a, err := UnmarshalAuthenticatedContent(v.Input)
	if err != nil {
		return err
	}
	return sameBytes("ProposalRef", a.proposalRef(suite), v.Output)
}
