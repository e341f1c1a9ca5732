// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// TestKeyWrapper is the conformance suite of [core.KeyWrapper]. The keys 0 and 1
// that open is asked for are two different wrapping keys; the same number gives
// the same key again, in an instance of its own.
func TestKeyWrapper(t *testing.T, open func(t *testing.T, key int) core.KeyWrapper) {
	t.Helper()
	runChecks(t, wrapperChecks, func(t *testing.T) openWrapper {
		return func(key int) core.KeyWrapper { return open(t, key) }
	})
}

type openWrapper = func(key int) core.KeyWrapper

var wrapperChecks = []check[openWrapper]{
	{"round trip", wrapperRoundTrip},
	{"another key", wrapperOtherKey},
	{"other associated data", wrapperAAD},
	{"changed blobs", wrapperChanged},
	{"nothing shows", wrapperHides},
	{"slices are neither kept nor changed", wrapperSlices},
	{"concurrent use", wrapperConcurrent},
	{"cancellation", wrapperCancelled},
}

func wrapperKey() (core.Secret, []byte) {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return core.NewSecret(bytes.Clone(b)), b
}

func wrap(t testing.TB, w core.KeyWrapper, dek core.Secret, aad string) []byte {
	t.Helper()
	blob, err := w.Wrap(t.Context(), dek, []byte(aad))
	if err != nil {
		t.Fatalf("wrap: %v", err)
	}
	return blob
}

// unwraps fails unless the blob opens to the key.
func unwraps(t testing.TB, w core.KeyWrapper, blob []byte, aad string, want []byte) {
	t.Helper()
	got, err := w.Unwrap(t.Context(), blob, []byte(aad))
	if err != nil {
		t.Fatalf("unwrap: %v", err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("unwrap gives another key")
	}
}

// refuses fails unless unwrapping is ErrWrongKey.
func refuses(t testing.TB, what string, w core.KeyWrapper, blob []byte, aad string) {
	t.Helper()
	got, err := w.Unwrap(t.Context(), blob, []byte(aad))
	if !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("%s: got error %v, want ErrWrongKey", what, err)
	}
	if err != nil && !got.IsZero() {
		t.Errorf("%s: a refused blob still gave a key", what)
	}
}

func wrapperRoundTrip(t testing.TB, open func() openWrapper) {
	w, again := open()(0), open()(0)
	dek, want := wrapperKey()
	blob := wrap(t, w, dek, "aad")
	unwraps(t, w, blob, "aad", want)
	unwraps(t, again, blob, "aad", want)
	unwraps(t, w, wrap(t, again, dek, ""), "", want)
	if w.ID() == "" || w.ID() != again.ID() {
		t.Errorf("the same key has the ids %q and %q", w.ID(), again.ID())
	}
}

func wrapperOtherKey(t testing.TB, open func() openWrapper) {
	w, other := open()(0), open()(1)
	dek, _ := wrapperKey()
	refuses(t, "another key", other, wrap(t, w, dek, "aad"), "aad")
	refuses(t, "another key", w, wrap(t, other, dek, "aad"), "aad")
}

func wrapperAAD(t testing.TB, open func() openWrapper) {
	w := open()(0)
	dek, _ := wrapperKey()
	blob := wrap(t, w, dek, "aad")
	for _, aad := range []string{"", "aa", "aad\x00", "aae"} {
		refuses(t, fmt.Sprintf("associated data %q", aad), w, blob, aad)
	}
}

// wrapperChanged tries some of all changes: a wrapper may be slow on purpose.
func wrapperChanged(t testing.TB, open func() openWrapper) {
	w := open()(0)
	dek, _ := wrapperKey()
	blob := wrap(t, w, dek, "aad")
	const tries = 24
	for i := range tries {
		at := i * (len(blob) - 1) / (tries - 1)
		changed := bytes.Clone(blob)
		changed[at] ^= 1 << (i % 8)
		refuses(t, fmt.Sprintf("byte %d of %d changed", at, len(blob)), w, changed, "aad")
	}
	for _, n := range []int{0, 1, len(blob) / 2, len(blob) - 1} {
		refuses(t, fmt.Sprintf("cut to %d bytes", n), w, blob[:n], "aad")
	}
	refuses(t, "one byte more", w, append(bytes.Clone(blob), 0), "aad")
	refuses(t, "zeros", w, make([]byte, len(blob)), "aad")
}

func wrapperHides(t testing.TB, open func() openWrapper) {
	w := open()(0)
	dek, raw := wrapperKey()
	one, two := wrap(t, w, dek, "aad"), wrap(t, w, dek, "aad")
	if bytes.Equal(one, two) {
		t.Error("the same key wraps to the same blob twice")
	}
	for i := range len(raw) - 7 {
		if bytes.Contains(one, raw[i:i+8]) {
			t.Error("the blob holds a part of the key in clear")
		}
	}
}

func wrapperSlices(t testing.TB, open func() openWrapper) {
	w := open()(0)
	dek, raw := wrapperKey()
	aad := []byte("aad")
	blob, err := w.Wrap(t.Context(), dek, aad)
	if err != nil {
		t.Fatalf("wrap: %v", err)
	}
	if !bytes.Equal(dek.Bytes(), raw) || string(aad) != "aad" {
		t.Error("Wrap changed its arguments")
	}
	dek.Wipe()
	kept := bytes.Clone(blob)
	got, err := w.Unwrap(t.Context(), blob, aad)
	if err != nil {
		t.Fatalf("unwrap: %v", err)
	}
	if !bytes.Equal(blob, kept) || string(aad) != "aad" {
		t.Error("Unwrap changed its arguments")
	}
	clear(blob)
	if !bytes.Equal(got.Bytes(), raw) {
		t.Error("the unwrapped key is not its own")
	}
	got.Wipe()
	unwraps(t, w, kept, "aad", raw)
}

func wrapperConcurrent(t testing.TB, open func() openWrapper) {
	w := open()(0)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			defer caught(t)
			dek, raw := wrapperKey()
			aad := fmt.Append(nil, i)
			blob, err := w.Wrap(t.Context(), dek, aad)
			if err != nil {
				t.Errorf("wrap: %v", err)
				return
			}
			if got, err := w.Unwrap(t.Context(), blob, aad); err != nil || !bytes.Equal(got.Bytes(), raw) {
				t.Errorf("unwrap gives another key, or error %v", err)
			}
		})
	}
	wg.Wait()
}

func wrapperCancelled(t testing.TB, open func() openWrapper) {
	w := open()(0)
	dek, _ := wrapperKey()
	blob := wrap(t, w, dek, "aad")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Wrap(ctx, dek, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("wrap: got error %v, want context.Canceled", err)
	}
	if _, err := w.Unwrap(ctx, blob, []byte("aad")); !errors.Is(err, context.Canceled) {
		t.Errorf("unwrap: got error %v, want context.Canceled", err)
	}
}
