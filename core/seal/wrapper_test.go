// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/memory"
)

func TestRawKey(t *testing.T) {
	t.Parallel()
	coretest.TestKeyWrapper(t, func(t *testing.T, key int) core.KeyWrapper { return wrapper(t, byte(1+key)) })
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := seal.RawKey(core.NewSecret(make([]byte, n))); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("key of %d bytes: got error %v", n, err)
		}
	}
	if one, two := wrapper(t, 1).ID(), wrapper(t, 2).ID(); one == two || strings.Contains(one, "0101") {
		t.Errorf("ids %q and %q", one, two)
	}
	// Every bit of a blob counts.
	w := wrapper(t, 1)
	blob, err := w.Wrap(t.Context(), core.NewSecret(make([]byte, 32)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(blob) {
		changed := bytes.Clone(blob)
		changed[bit/8] ^= 1 << (bit % 8)
		if _, err := w.Unwrap(t.Context(), changed, nil); !errors.Is(err, core.ErrWrongKey) {
			t.Errorf("bit %d: got error %v", bit, err)
		}
	}
}

func passphrase(t testing.TB, text string) core.KeyWrapper {
	t.Helper()
	w, err := seal.Passphrase(core.NewSecret([]byte(text)))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestPassphrase(t *testing.T) {
	t.Parallel()
	coretest.TestKeyWrapper(t, func(t *testing.T, key int) core.KeyWrapper {
		return seal.CheapPassphrase(core.NewSecret(fmt.Append(nil, "correct horse battery staple ", key)))
	})
	if _, err := seal.Passphrase(core.Secret{}); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("empty: got error %v", err)
	}
	// A blob cannot ask for more work or memory than is sane.
	w := passphrase(t, "secret")
	blob, err := w.Wrap(t.Context(), core.NewSecret(make([]byte, 32)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []byte{2, 0, 0, 0, 3, 0, 1, 0, 0, 4}; !bytes.HasPrefix(blob, want) {
		t.Errorf("the blob begins %x, want %x: passes, KiB, lanes", blob[:10], want)
	}
	for at, b := range map[int]byte{1: 0xff, 4: 17, 5: 0xff, 6: 0xff, 9: 0} {
		changed := bytes.Clone(blob)
		changed[at] = b
		if _, err := w.Unwrap(t.Context(), changed, nil); !errors.Is(err, core.ErrWrongKey) {
			t.Errorf("byte %d: got error %v", at, err)
		}
	}
	// And it opens a store, as a whole.
	ks := memory.New()
	s, err := seal.Open(t.Context(), ks, w, "tenant")
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, puts(put(1, "g", "a", "1")))
	if _, err := seal.Open(t.Context(), ks, passphrase(t, "Secret"), "tenant"); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("another passphrase: got error %v", err)
	}
	if s, err = seal.Open(t.Context(), ks, passphrase(t, "secret"), "tenant"); err != nil {
		t.Fatal(err)
	}
	if got := value(t, s); got != "1" {
		t.Errorf("read %q", got)
	}
}
