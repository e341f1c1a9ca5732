// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core"
)

// The test vectors of the MLS working group, and of others in the same shapes,
// as a self-test of the engine: whoever ships it with another [core.Suite] or
// [core.CryptoProvider] can run them in place.

// A VectorReport tells how the cases of one file fared.
type VectorReport struct {
	Type    string // the working group's name for this kind of file
	Passed  int
	Failed  []VectorOutcome
	Skipped []VectorOutcome
}

// A VectorOutcome is why a case failed or was skipped. A case is skipped only
// for what the engine or the suites do not have, and for a part that is proven to
// be stale, if the rest of it holds.
type VectorOutcome struct {
	Case int // index in the file
	Err  error
}

// RunVectors runs a JSON file of test vectors through the engine. It knows the
// type of a file by the fields of its first case. Signature keys are opened by
// the provider, which must be a [core.KeyImporter] where a type has private ones.
// The error is about the file (core.ErrInvalid: not vectors; core.ErrUnsupported:
// not a type that is known) or the context; what became of the cases is in the report.
func RunVectors(ctx context.Context, suites core.SuiteSource, keys core.CryptoProvider, file []byte) (*VectorReport, error) {
	var cases []json.RawMessage
	if err := json.Unmarshal(file, &cases); err != nil {
		return nil, fmt.Errorf("test vectors: %w: %v", core.ErrInvalid, err)
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("test vectors: no cases: %w", core.ErrInvalid)
	}
	kind := vectorKindOf(cases[0])
	if kind == nil {
		return nil, fmt.Errorf("test vectors of unknown type: %w", core.ErrUnsupported)
	}
	env := &vectorEnv{suites: suites, keys: keys}
	report := &VectorReport{Type: kind.name}
	for i, c := range cases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := kind.run(ctx, env, c)
		switch skip := (vectorSkip)(""); {
		case err == nil:
			report.Passed++
		case errors.As(err, &skip):
			report.Skipped = append(report.Skipped, VectorOutcome{Case: i, Err: err})
		default:
			report.Failed = append(report.Failed, VectorOutcome{Case: i, Err: err})
		}
	}
	return report, nil
}

// A vectorKind is a type of file: its cases are those that have all its fields.
type vectorKind struct {
	name   string
	fields []string
	run    func(context.Context, *vectorEnv, json.RawMessage) error
}

var vectorKinds = []vectorKind{
	{"deserialization", []string{"vlbytes_header"}, vectorCase(runDeserialization)},
	{"messages", []string{"mls_welcome", "public_message_commit"}, vectorCase(runMessages)},
	{"crypto-basics", []string{"ref_hash", "sign_with_label"}, vectorCase(runCryptoBasics)},
	{"reference", []string{"input", "output"}, vectorCase(runReference)},
	{"path-secret", []string{"generations"}, vectorCase(runPathSecret)},
	{"key-schedule", []string{"initial_init_secret"}, vectorCase(runKeySchedule)},
	{"transcript-hashes", []string{"interim_transcript_hash_before"}, vectorCase(runTranscript)},
	{"welcome", []string{"init_priv", "signer_pub", "welcome"}, vectorCase(runWelcome)},
	{"secret-tree", []string{"encryption_secret", "leaves"}, vectorCase(runSecretTree)},
	{"message-protection", []string{"encryption_secret", "application_priv"}, vectorCase(runProtection)},
	{"sender-data", []string{"sender_data_aad", "expected_key"}, vectorCase(runSenderData)},
	{"psk_secret", []string{"psks", "psk_secret"}, vectorCase(runPSKSecret)},
	{"tree-math", []string{"n_leaves", "sibling"}, vectorCase(runTreeMath)},
	{"tree-operations", []string{"tree_before", "tree_after"}, vectorCase(runTreeOperations)},
	{"tree-hash", []string{"tree_data"}, vectorCase(runTreeHash)},
	{"tree-validation", []string{"resolutions"}, vectorCase(runTreeValidation)},
	{"treekem", []string{"update_paths"}, vectorCase(runTreeKEM)},
	{"passive-client", []string{"initial_epoch_authenticator", "welcome"}, vectorCase(runPassive)},
	{"targeted-messages", []string{"targeted_message"}, vectorSkip("targeted messages (a draft) are not implemented").run},
	{"hpke", []string{"kem_id", "encryptions"}, vectorSkip("HPKE beyond the registered suites is not implemented").run},
	{"xwing-kem", []string{"eseed", "ss"}, vectorSkip("the KEM X-Wing is not implemented").run},
}

func vectorKindOf(first json.RawMessage) *vectorKind {
	var fields map[string]json.RawMessage
	if json.Unmarshal(first, &fields) != nil {
		return nil
	}
next:
	for i, k := range vectorKinds {
		for _, f := range k.fields {
			if _, ok := fields[f]; !ok {
				continue next
			}
		}
		return &vectorKinds[i]
	}
	return nil
}

// vectorCase gives a runner its case decoded.
func vectorCase[T any](run func(context.Context, *vectorEnv, *T) error) func(context.Context, *vectorEnv, json.RawMessage) error {
	return func(ctx context.Context, env *vectorEnv, raw json.RawMessage) error {
		c := new(T)
		if err := json.Unmarshal(raw, c); err != nil {
			return err
		}
		return run(ctx, env, c)
	}
}

// A vectorSkip is the reason why a case is not run.
type vectorSkip string

func (s vectorSkip) Error() string { return string(s) }

func (s vectorSkip) run(context.Context, *vectorEnv, json.RawMessage) error { return s }

// vectorEnv is what a case needs from outside the engine.
type vectorEnv struct {
	suites core.SuiteSource
	keys   core.CryptoProvider
}

// suite skips the case if there is no such suite.
func (e *vectorEnv) suite(id core.SuiteID) (core.Suite, error) {
	suite, err := e.suites.Suite(id)
	if errors.Is(err, core.ErrUnsupported) {
		return nil, vectorSkip(fmt.Sprintf("cipher suite %v is not supported", id))
	}
	return suite, err
}

// signer opens a private signature key of a suite.
func (e *vectorEnv) signer(ctx context.Context, suite core.Suite, material []byte) (core.Signer, error) {
	importer, ok := e.keys.(core.KeyImporter)
	if !ok {
		return nil, vectorSkip("the crypto provider cannot import signature keys")
	}
	alg := suite.Parameters().Signature
	key, err := importer.ImportKey(ctx, core.KeySpec{Algorithm: alg, Use: core.UseSign}, vectorKey(alg, material))
	if err != nil {
		return nil, fmt.Errorf("signature key: %w", err)
	}
	signer, ok := key.(core.Signer)
	if !ok {
		return nil, fmt.Errorf("signature key: %w", core.ErrUnsupported)
	}
	return signer, nil
}

// keyPair opens a private HPKE key of a suite.
func (e *vectorEnv) keyPair(suite core.Suite, material []byte) (core.SoftwareKey, error) {
	return suite.OpenKeyPair(vectorKey(suite.Parameters().KEMAlgorithm, material))
}

// vectorKey evens out how files write private keys: some strip the leading zero
// of a P-521 scalar, some append the public key to an EdDSA seed.
func vectorKey(alg core.KeyAlgorithm, material []byte) core.Secret {
	switch alg {
	case core.Ed25519:
		if len(material) == 64 {
			material = material[:32]
		}
	case core.Ed448:
		if len(material) == 114 {
			material = material[:57]
		}
	case core.ECDSAP521, core.ECDHP521:
		if len(material) < 66 {
			material = append(make([]byte, 66-len(material)), material...)
		}
	}
	return core.NewSecret(bytes.Clone(material))
}

// hexBytes is a byte string in hexadecimal; JSON's null is nil.
type hexBytes []byte

// UnmarshalJSON implements [json.Unmarshaler].
func (h *hexBytes) UnmarshalJSON(data []byte) error {
	var text *string
	if err := json.Unmarshal(data, &text); err != nil || text == nil {
		*h = nil
		return err
	}
	b, err := hex.DecodeString(*text)
	if err != nil {
		return fmt.Errorf("hexadecimal: %w", core.ErrInvalid)
	}
	*h = b
	return nil
}

func (h hexBytes) secret() core.Secret { return core.NewSecret(bytes.Clone(h)) }

// sameBytes is nil if got is what the file says.
func sameBytes(what string, got, want []byte) error {
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s is %x, want %x", what, got, want)
	}
	return nil
}
