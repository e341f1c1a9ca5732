// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vectors"
)

// Test vectors recorded from the implementations in TypeScript and Rust, as a self-test of
// the engine wherever it runs.

// RunVectors runs a JSON file of test vectors through the engine; it knows the kind of a
// file by its fields. The error is about the file (core.ErrInvalid: not JSON;
// core.ErrUnsupported: not of a kind that is known) or the context; what became of the cases
// is in the report.
func RunVectors(ctx context.Context, file []byte) (*vectors.Report, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(file, &fields); err != nil {
		var list []json.RawMessage
		if json.Unmarshal(file, &list) == nil {
			return nil, fmt.Errorf("proteus test vectors: a list: %w", core.ErrUnsupported)
		}
		return nil, fmt.Errorf("proteus test vectors: %w: %v", core.ErrInvalid, err)
	}
	for _, kind := range []struct {
		name, field string
		run         func(context.Context, []byte, *vectors.Report) error
	}{
		{"proteus keys", "keypairs", runKeyVectors},
		{"proteus key derivation", "derived_secrets", runDerivationVectors},
		{"proteus decoding", "receiver", runDecodingVectors},
		{"proteus conversations", "conversations", runConversationVectors},
	} {
		if _, ok := fields[kind.field]; !ok {
			continue
		}
		report := &vectors.Report{Type: kind.name}
		if err := kind.run(ctx, file, report); err != nil {
			return nil, err
		}
		if report.Passed+len(report.Failed) == 0 {
			return nil, fmt.Errorf("proteus test vectors: no cases: %w", core.ErrInvalid)
		}
		return report, nil
	}
	return nil, fmt.Errorf("proteus test vectors of unknown type: %w", core.ErrUnsupported)
}

func decodeVectors(file []byte, to any) error {
	if err := json.Unmarshal(file, to); err != nil {
		return fmt.Errorf("proteus test vectors: %w: %v", core.ErrInvalid, err)
	}
	return nil
}

// want compares bytes.
func want(what string, got, want []byte) error {
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s is %x, want %x", what, short(got), short(want))
	}
	return nil
}

func short(b []byte) []byte { return b[:min(len(b), 80)] }

// runCases adds a case for each element of a list.
func runCases[T any](report *vectors.Report, what string, cases []T, run func(T) error) {
	for i, c := range cases {
		err := run(c)
		if err != nil {
			err = fmt.Errorf("%s %d: %w", what, i, err)
		}
		report.Add(err)
	}
}
