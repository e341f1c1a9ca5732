// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

// A conversation with known random bytes has known messages and stored sessions. The hash
// was taken of an engine that replays all recorded vectors: it is for where these are not.
func TestGolden(t *testing.T) {
	t.Parallel()
	h := sha256.New()
	alice, bob, toBob, toAlice := talking(t, 60)
	h.Write(alice.identity.Marshal())
	h.Write(bob.preKeys[2].Marshal())
	h.Write(bob.preKeys[2].Bundle(bob.identity).Marshal())
	h.Write(bob.preKeys[2].SignedBundle(bob.identity).Marshal())
	for _, n := range []int{0, 1, 63, 64, 65, 255, 256, 65535, 65536} {
		var m []byte
		toBob = skips(t, toBob, n%5)
		toBob, m = sends(t, toBob, strings.Repeat("x", n))
		h.Write(m)
		toAlice = bob.reads(t, toAlice, m, strings.Repeat("x", n))
		toAlice, m = sends(t, toAlice, "answer")
		h.Write(m)
		toBob = alice.reads(t, toBob, m, "answer")
	}
	h.Write(marshalled(t, toBob, nil))
	crossing, m := sends(t, alice.opens(t, bob, 2), "crossing")
	h.Write(m)
	h.Write(marshalled(t, crossing, nil))
	toAlice = bob.reads(t, toAlice, m, "crossing")
	h.Write(marshalled(t, toAlice, nil))
	const want = "cb812d9317d6efdb5ff373035eb371d2c3db725e21b5c66325637916c4845e2d"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the bytes have the hash %s", got)
	}
}
