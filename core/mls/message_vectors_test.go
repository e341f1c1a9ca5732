// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
)

// eachVector runs every case of a file of the working group, or of one in the same shape.
func eachVector[T any](t *testing.T, name string, run func(t *testing.T, v *T)) {
	t.Helper()
	path := strings.Split("vectors/mls/"+name+".json", "/")
	data, err := os.ReadFile(coretest.Shared(t, filepath.Join(path...)))
	if err != nil {
		t.Fatal(err)
	}
	var cases []*T
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	for _, v := range cases {
		run(t, v)
	}
}

func suiteOf(t testing.TB, id core.SuiteID) core.Suite {
	t.Helper()
	suite, err := pure.New().Suite(id)
	if err != nil {
		t.Fatal(err)
	}
	return suite
}

// eachSuite runs a test for the seven suites.
func eachSuite(t *testing.T, run func(t *testing.T, suite core.Suite)) {
	for _, id := range pure.New().Suites() {
		t.Run(id.String(), func(t *testing.T) {
			t.Parallel()
			run(t, suiteOf(t, id))
		})
	}
}

func wantSecret(t *testing.T, what string, got core.Secret, want hexBytes) {
	t.Helper()
	if !got.Equal(want.secret()) {
		t.Errorf("%s is %x, want %x", what, got.Bytes(), want)
	}
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s is %x, want %x", what, got, want)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestKeyScheduleVectors(t *testing.T) {
	t.Parallel()
	type epochVector struct {
		TreeHash     hexBytes `json:"tree_hash"`
		CommitSecret hexBytes `json:"commit_secret"`
		PSKSecret    hexBytes `json:"psk_secret"`
		Confirmed    hexBytes `json:"confirmed_transcript_hash"`
		GroupContext hexBytes `json:"group_context"`
		Joiner       hexBytes `json:"joiner_secret"`
		Welcome      hexBytes `json:"welcome_secret"`
		Init         hexBytes `json:"init_secret"`
		SenderData   hexBytes `json:"sender_data_secret"`
		Encryption   hexBytes `json:"encryption_secret"`
		Exporter     hexBytes `json:"exporter_secret"`
		Authenticate hexBytes `json:"epoch_authenticator"`
		External     hexBytes `json:"external_secret"`
		Confirmation hexBytes `json:"confirmation_key"`
		Membership   hexBytes `json:"membership_key"`
		Resumption   hexBytes `json:"resumption_psk"`
		ExternalPub  hexBytes `json:"external_pub"`
		Export       struct {
			Label   string   `json:"label"`
			Context hexBytes `json:"context"`
			Length  int      `json:"length"`
			Secret  hexBytes `json:"secret"`
		} `json:"exporter"`
	}
	type vector struct {
		Suite   core.SuiteID  `json:"cipher_suite"`
		GroupID hexBytes      `json:"group_id"`
		Init    hexBytes      `json:"initial_init_secret"`
		Epochs  []epochVector `json:"epochs"`
	}
	eachVector(t, "key-schedule", func(t *testing.T, v *vector) {
		suite := suiteOf(t, v.Suite)
		init := v.Init.secret()
		for i, e := range v.Epochs {
			context := marshal(&GroupContext{Version: MLS10, Suite: v.Suite, GroupID: v.GroupID, Epoch: uint64(i), TreeHash: e.TreeHash, ConfirmedTranscriptHash: e.Confirmed})
			wantBytes(t, "group context", context, e.GroupContext)
			joiner := must(joinerSecret(suite, init, e.CommitSecret.secret(), context))
			wantSecret(t, "joiner", joiner, e.Joiner)
			wantSecret(t, "welcome", must(welcomeSecret(suite, joiner, e.PSKSecret.secret())), e.Welcome)
			s := must(epochFromJoiner(suite, joiner, e.PSKSecret.secret(), context))
			for what, pair := range map[string]struct {
				got  core.Secret
				want hexBytes
			}{
				"sender data": {s.senderData, e.SenderData}, "encryption": {s.encryption, e.Encryption},
				"exporter": {s.exporter, e.Exporter}, "external": {s.external, e.External},
				"confirmation": {s.confirmation, e.Confirmation}, "membership": {s.membership, e.Membership},
				"resumption": {s.resumption, e.Resumption}, "authentication": {s.authentication, e.Authenticate},
				"init": {s.init, e.Init},
			} {
				wantSecret(t, what, pair.got, pair.want)
			}
			wantBytes(t, "external_pub", must(s.externalKeyPair()).Public(), e.ExternalPub)
			wantSecret(t, "export", must(s.export(e.Export.Label, e.Export.Context, e.Export.Length)), e.Export.Secret)
			init = s.init
		}
	})
}

func TestTranscriptVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		Suite     core.SuiteID `json:"cipher_suite"`
		Key       hexBytes     `json:"confirmation_key"`
		Content   hexBytes     `json:"authenticated_content"`
		Before    hexBytes     `json:"interim_transcript_hash_before"`
		Confirmed hexBytes     `json:"confirmed_transcript_hash_after"`
		Interim   hexBytes     `json:"interim_transcript_hash_after"`
	}
	for _, name := range []string{"transcript-hashes", "extra/transcript-hashes-2"} {
		eachVector(t, name, func(t *testing.T, v *vector) {
			suite := suiteOf(t, v.Suite)
			a := must(UnmarshalAuthenticatedContent(v.Content))
			confirmed := confirmedTranscriptHash(suite, v.Before, a)
			wantBytes(t, "confirmed", confirmed, v.Confirmed)
			wantBytes(t, "interim", interimTranscriptHash(suite, confirmed, a.Auth.ConfirmationTag), v.Interim)
			e := &epochSecrets{suite: suite, confirmation: v.Key.secret()}
			if err := e.verifyConfirmationTag(confirmed, a.Auth.ConfirmationTag); err != nil {
				t.Errorf("confirmation tag: %v", err)
			}
			if err := e.verifyConfirmationTag(v.Before, a.Auth.ConfirmationTag); !errors.Is(err, ErrAuthentication) { // KS-8
				t.Errorf("confirmation tag over the old hash: %v", err)
			}
			other := *a
			other.WireFormat = WirePublicMessage + WirePrivateMessage - a.WireFormat
			if bytes.Equal(confirmedTranscriptHash(suite, v.Before, &other), confirmed) { // KS-3
				t.Error("the wire format does not count")
			}
		})
	}
}

func TestSecretTreeVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		Suite      core.SuiteID `json:"cipher_suite"`
		Encryption hexBytes     `json:"encryption_secret"`
		SenderData struct {
			Secret     hexBytes `json:"sender_data_secret"`
			Ciphertext hexBytes `json:"ciphertext"`
			Key        hexBytes `json:"key"`
			Nonce      hexBytes `json:"nonce"`
		} `json:"sender_data"`
		Leaves [][]struct {
			Generation       uint32   `json:"generation"`
			HandshakeKey     hexBytes `json:"handshake_key"`
			HandshakeNonce   hexBytes `json:"handshake_nonce"`
			ApplicationKey   hexBytes `json:"application_key"`
			ApplicationNonce hexBytes `json:"application_nonce"`
		} `json:"leaves"`
	}
	ctx := context.Background()
	eachVector(t, "secret-tree", func(t *testing.T, v *vector) {
		suite := suiteOf(t, v.Suite)
		key, nonce, err := senderDataKeyNonce(suite, v.SenderData.Secret.secret(), v.SenderData.Ciphertext)
		if err != nil {
			t.Fatal(err)
		}
		wantSecret(t, "sender data key", key, v.SenderData.Key)
		wantSecret(t, "sender data nonce", nonce, v.SenderData.Nonce)
		var ws WriteSet
		tree := newSecretTree(suite, 7, uint32(len(v.Leaves)), testLimits, v.Encryption.secret(), &ws)
		for leaf, generations := range v.Leaves {
			for _, g := range generations {
				for kind, want := range [2][2]hexBytes{{g.HandshakeKey, g.HandshakeNonce}, {g.ApplicationKey, g.ApplicationNonce}} {
					tree, err = tree.open(ctx, nil, &ws, LeafIndex(leaf), ratchetKind(kind), g.Generation, func(key, nonce core.Secret) error {
						wantSecret(t, "key", key, want[0])
						wantSecret(t, "nonce", nonce, want[1])
						return nil
					})
					if err != nil {
						t.Fatalf("leaf %d generation %d: %v", leaf, g.Generation, err)
					}
				}
			}
		}
	})
}

func TestSenderDataVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		Suite      core.SuiteID `json:"cipher_suite"`
		Secret     hexBytes     `json:"secret"`
		Ciphertext hexBytes     `json:"ciphertext_bytes"`
		Key        hexBytes     `json:"expected_key"`
		Nonce      hexBytes     `json:"expected_nonce"`
		SenderData struct {
			Sender     LeafIndex `json:"sender"`
			Generation uint32    `json:"generation"`
			ReuseGuard hexBytes  `json:"reuse_guard"`
		} `json:"sender_data"`
		AAD struct {
			GroupID hexBytes `json:"group_id"`
			Epoch   uint64   `json:"epoch"`
		} `json:"sender_data_aad"`
		Expected hexBytes `json:"expected_ciphertext"`
	}
	eachVector(t, "extra/sender-data", func(t *testing.T, v *vector) {
		suite := suiteOf(t, v.Suite)
		key, nonce, err := senderDataKeyNonce(suite, v.Secret.secret(), v.Ciphertext)
		if err != nil {
			t.Fatal(err)
		}
		wantSecret(t, "key", key, v.Key)
		wantSecret(t, "nonce", nonce, v.Nonce)
		d := senderData{leaf: v.SenderData.Sender, generation: v.SenderData.Generation, reuseGuard: [4]byte(v.SenderData.ReuseGuard)}
		m := &PrivateMessage{GroupID: v.AAD.GroupID, Epoch: v.AAD.Epoch, ContentType: ContentApplication, Ciphertext: v.Ciphertext}
		if err := m.sealSenderData(suite, v.Secret.secret(), d); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "sender data", m.EncryptedSenderData, v.Expected)
		if got, err := m.openSenderData(suite, v.Secret.secret(), uint32(d.leaf)+1); err != nil || got != d {
			t.Errorf("%v, %v", got, err)
		}
		if _, err := m.openSenderData(suite, v.Secret.secret(), uint32(d.leaf)); !errors.As(err, new(*RuleError)) { // FR-9
			t.Errorf("leaf out of range: %v", err)
		}
	})
}

type protectionVector struct {
	Suite        core.SuiteID `json:"cipher_suite"`
	GroupID      hexBytes     `json:"group_id"`
	Epoch        uint64       `json:"epoch"`
	TreeHash     hexBytes     `json:"tree_hash"`
	Confirmed    hexBytes     `json:"confirmed_transcript_hash"`
	Private      hexBytes     `json:"signature_priv"`
	Public       hexBytes     `json:"signature_pub"`
	Encryption   hexBytes     `json:"encryption_secret"`
	SenderData   hexBytes     `json:"sender_data_secret"`
	Membership   hexBytes     `json:"membership_key"`
	Proposal     hexBytes     `json:"proposal"`
	ProposalPriv hexBytes     `json:"proposal_priv"`
	ProposalPub  hexBytes     `json:"proposal_pub"`
	Commit       hexBytes     `json:"commit"`
	CommitPriv   hexBytes     `json:"commit_priv"`
	CommitPub    hexBytes     `json:"commit_pub"`
	Application  hexBytes     `json:"application"`
	AppPriv      hexBytes     `json:"application_priv"`
}

func TestMessageProtectionVectors(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, name := range []string{"message-protection", "extra/message-protection-2", "extra/message-protection-3"} {
		eachVector(t, name, func(t *testing.T, v *protectionVector) {
			p := pure.New()
			suite := suiteOf(t, v.Suite)
			signer, err := (&vectorEnv{suites: p, keys: p}).signer(ctx, suite, v.Private)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "signature key", signer.Public(), v.Public)
			g := &wireGroup{
				suite: suite, signer: signer, groupID: v.GroupID, epoch: v.Epoch, leaf: 1, leaves: 2,
				senderData: v.SenderData.secret(), membership: v.Membership.secret(), encryption: v.Encryption,
				context: marshal(&GroupContext{Version: MLS10, Suite: v.Suite, GroupID: v.GroupID, Epoch: v.Epoch, TreeHash: v.TreeHash, ConfirmedTranscriptHash: v.Confirmed}),
			}
			for _, c := range []struct {
				t              ContentType
				raw, priv, pub hexBytes
			}{
				{ContentProposal, v.Proposal, v.ProposalPriv, v.ProposalPub},
				{ContentCommit, v.Commit, v.CommitPriv, v.CommitPub},
				{ContentApplication, v.Application, v.AppPriv, nil},
			} {
				body := func(a *AuthenticatedContent) []byte {
					if c.t == ContentApplication {
						return a.Content.Application
					}
					return a.Content.appendBody(nil)
				}
				a, err := g.open(t, c.priv)
				if err != nil {
					t.Errorf("suite %v: content %d as PrivateMessage: %v", v.Suite, c.t, err)
					continue
				}
				wantBytes(t, "private content", body(a), c.raw)
				again, err := g.open(t, g.sealPrivate(t, a.Content, a.Auth.ConfirmationTag))
				if err != nil {
					t.Errorf("suite %v: own PrivateMessage: %v", v.Suite, err)
					continue
				}
				wantBytes(t, "own private content", body(again), c.raw)
				if c.pub == nil {
					continue
				}
				if a, err = g.open(t, c.pub); err != nil {
					t.Errorf("suite %v: content %d as PublicMessage: %v", v.Suite, c.t, err)
					continue
				}
				wantBytes(t, "public content", body(a), c.raw)
				if a, err = g.open(t, g.sealPublic(t, a.Content, a.Auth.ConfirmationTag)); err != nil {
					t.Errorf("suite %v: own PublicMessage: %v", v.Suite, err)
					continue
				}
				wantBytes(t, "own public content", body(a), c.raw)
			}
		})
	}
}
