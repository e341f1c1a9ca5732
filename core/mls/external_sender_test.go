// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"crypto/elliptic"
	"math/big"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// XS-1: a compressed point of an external sender is read as the point that it is; what
// is none stays what it was, to be refused as that.
func TestUncompressed(t *testing.T) {
	t.Parallel()
	for scheme, curve := range map[core.SignatureScheme]elliptic.Curve{
		core.SchemeECDSAP256: elliptic.P256(), core.SchemeECDSAP384: elliptic.P384(), core.SchemeECDSAP521: elliptic.P521(),
	} {
		k := publicKeyOf(t, map[core.SignatureScheme]core.KeyAlgorithm{
			core.SchemeECDSAP256: core.ECDSAP256, core.SchemeECDSAP384: core.ECDSAP384, core.SchemeECDSAP521: core.ECDSAP521,
		}[scheme])
		n := len(k) / 2
		compressed := elliptic.MarshalCompressed(curve, new(big.Int).SetBytes(k[1:1+n]), new(big.Int).SetBytes(k[1+n:]))
		if got := Uncompressed(scheme, compressed); !bytes.Equal(got, k) {
			t.Errorf("%v: %x, want %x", scheme, got, k)
		}
		opposite := bytes.Clone(compressed)
		opposite[0] ^= 1
		if got := Uncompressed(scheme, opposite); bytes.Equal(got, k) || len(got) != len(k) {
			t.Errorf("%v, the opposite point: %x", scheme, got)
		}
		for _, as := range [][]byte{k, nil, {2}, compressed[:n], append(bytes.Clone(compressed), 0), bytes.Repeat([]byte{2}, 1+n), append([]byte{3}, bytes.Repeat([]byte{255}, n)...)} {
			got := Uncompressed(scheme, as)
			if x, _ := elliptic.UnmarshalCompressed(curve, as); x == nil && !bytes.Equal(got, as) {
				t.Errorf("%v: %x became %x", scheme, as, got)
			}
		}
		if got := Uncompressed(core.SchemeEd25519, compressed); !bytes.Equal(got, compressed) {
			t.Errorf("of another scheme: %x", got)
		}
	}
}

func publicKeyOf(t *testing.T, a core.KeyAlgorithm) []byte {
	t.Helper()
	k, err := Pure.GenerateKey(t.Context(), core.KeySpec{Algorithm: a, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}
