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
	"github.com/conclave-mls/conclave/core/vectors"
)

// The test vectors of the MLS working group, and of others in the same shapes,
// as a self-test of the engine: whoever ships it with another [core.Suite] or
// [core.CryptoProvider] can run them in place.

// RunVectors runs a JSON file of test vectors through the engine. It knows the
// type of a file by the fields of its first case. Signature keys are opened by
// the provider, which must be a [core.KeyImporter] where a type has private ones.
// The error is about the file (core.ErrInvalid: no JSON, or no cases; core.ErrUnsupported:
// not a type that is known) or the context; what became of the cases is in the report.
func RunVectors(ctx context.Context, suites core.SuiteSource, keys core.CryptoProvider, file []byte) (*vectors.Report, error) {
	var cases []json.RawMessage
	if err := json.Unmarshal(file, &cases); err != nil {
		if json.Valid(file) {
			return nil, fmt.Errorf("test vectors of unknown type: %w", core.ErrUnsupported)
		}
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
	report := &vectors.Report{Type: kind.name}
	for _, c := range cases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		report.Add(kind.run(ctx, env, c))
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
	{"targeted-messages", []string{"targeted_message"}, skipAll("targeted messages (a draft) are not implemented")},
	{"hpke", []string{"kem_id", "encryptions"}, skipAll("HPKE beyond the registered suites is not implemented")},
	{"xwing-kem", []string{"eseed", "ss"}, skipAll("the KEM X-Wing is not implemented")},
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

// skipAll is for types of files that the engine has nothing for.
func skipAll(reason vectors.Skip) func(context.Context, *vectorEnv, json.RawMessage) error {
	return func(context.Context, *vectorEnv, json.RawMessage) error { return reason }
}

// vectorEnv is what a case needs from outside the engine.
type vectorEnv struct {
	suites core.SuiteSource
	keys   core.CryptoProvider
}

// suite skips the case if there is no such suite.
func (e *vectorEnv) suite(id core.SuiteID) (core.Suite, error) {
	suite, err := e.suites.Suite(id)
	if errors.Is(err, core.ErrUnsupported) {
		return nil, vectors.Skip(fmt.Sprintf("cipher suite %v is not supported", id))
	}
	return suite, err
}

// signer opens a private signature key of a suite.
func (e *vectorEnv) signer(ctx context.Context, suite core.Suite, material []byte) (core.Signer, error) {
	importer, ok := e.keys.(core.KeyImporter)
	if !ok {
		return nil, vectors.Skip("the crypto provider cannot import signature keys")
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
