// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

var sentinels = []error{
	core.ErrNotFound, core.ErrConflict, core.ErrUnsupported, core.ErrDenied, core.ErrUnavailable, core.ErrUnknownOutcome,
	core.ErrRolledBack, core.ErrTooLarge, core.ErrInvalid, core.ErrWrongKey, core.ErrDamaged, core.ErrClosed,
}

// Every sentinel is a kind, and of several the gravest is told.
func TestKind(t *testing.T) {
	text, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), " = errors.New("); n != len(sentinels) {
		t.Errorf("there are %d sentinels, and %d in this test", n, len(sentinels))
	}
	for _, want := range sentinels {
		if got := core.Kind(fmt.Errorf("group: %w", &core.ProviderError{Err: want})); got != want {
			t.Errorf("%v is of the kind %v", want, got)
		}
	}
	for _, err := range []error{nil, io.EOF, context.Canceled} {
		if got := core.Kind(err); got != nil {
			t.Errorf("%v is of the kind %v", err, got)
		}
	}
	order := []error{core.ErrUnknownOutcome, core.ErrRolledBack, core.ErrDamaged, core.ErrUnavailable, core.ErrInvalid}
	for i := range order[1:] {
		if got := core.Kind(errors.Join(order[i+1], order[i])); got != order[i] {
			t.Errorf("%v and %v: %v", order[i+1], order[i], got)
		}
	}
}

// A sentinel stays itself behind a ProviderError, and is no other.
func TestProviderErrorKeepsIdentity(t *testing.T) {
	for i, want := range sentinels {
		err := fmt.Errorf("client: %w", &core.ProviderError{Provider: "pure", Op: "sign", Err: fmt.Errorf("key 7: %w", want)})
		for j, other := range sentinels {
			if errors.Is(err, other) != (i == j) {
				t.Errorf("%v is %v: %v", err, other, i != j)
			}
		}
		var pe *core.ProviderError
		if !errors.As(err, &pe) || pe.Provider != "pure" || pe.Op != "sign" {
			t.Errorf("%v: lost its provider", err)
		}
		if got := err.Error(); got != "client: pure: sign: key 7: "+want.Error() {
			t.Errorf("text %q", got)
		}
	}
}
