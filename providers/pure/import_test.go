// SPDX-License-Identifier: Apache-2.0

package pure_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/pure"
)

// An imported key is the key that it was, and opens by its new reference.
func TestImportKey(t *testing.T) {
	t.Parallel()
	ctx, p := context.Background(), pure.New()
	algorithms, err := p.Algorithms(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range algorithms {
		use, other := core.UseSign, core.UseDecrypt
		if _, err := p.GenerateKey(ctx, core.KeySpec{Algorithm: alg, Use: use}); err != nil {
			use, other = other, use
		}
		made, err := p.GenerateKey(ctx, core.KeySpec{Algorithm: alg, Use: use})
		if err != nil {
			t.Fatal(err)
		}
		material := made.(core.SoftwareKey).Material()
		spec := core.KeySpec{ID: [16]byte{1}, Algorithm: alg, Use: use}
		key, err := p.ImportKey(ctx, spec, material)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		again, err := p.OpenKey(ctx, key.Ref(), material)
		if err != nil || !bytes.Equal(key.Public(), made.Public()) || !bytes.Equal(again.Public(), made.Public()) || again.Ref() != key.Ref() {
			t.Errorf("%s: another key came back (%v)", alg, err)
		}
		if _, err := p.ImportKey(ctx, spec, core.NewSecret([]byte("short"))); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: bad material: %v", alg, err)
		}
		spec.Use = other
		if _, err := p.ImportKey(ctx, spec, material); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("%s: wrong use: %v", alg, err)
		}
	}
	if _, err := p.ImportKey(ctx, core.KeySpec{Algorithm: "unknown", Use: core.UseSign}, core.NewSecret([]byte("x"))); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("unknown algorithm: %v", err)
	}
}
