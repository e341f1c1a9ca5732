// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// The secrets of an enrolment that is dropped are zeroed in memory, those of its stash and of
// its caller are not.
func TestWipe(t *testing.T) {
	t.Parallel()
	token := core.NewSecret([]byte("refresh"))
	e, err := New(Config{
		ClientID: alice, DisplayName: "Alice", Handle: "alice", Validity: time.Hour, Algorithm: core.Ed25519,
		PublicKey: bytes.Repeat([]byte{9}, 32), Directory: "https://ca.example.com", RefreshToken: token,
	})
	if err != nil {
		t.Fatal(err)
	}
	stash, err := e.Stash()
	if err != nil {
		t.Fatal(err)
	}
	key, kept := e.account.Bytes(), e.cfg.RefreshToken.Bytes()
	if len(key) != 32 || string(kept) != "refresh" {
		t.Fatalf("a key of %d bytes", len(key))
	}
	e.Wipe()
	if !bytes.Equal(key, make([]byte, 32)) || !bytes.Equal(kept, make([]byte, 7)) || string(token.Bytes()) != "refresh" {
		t.Error("the wrong bytes are wiped")
	}
	if _, err := Pop(stash.Bytes()); err != nil {
		t.Error(err)
	}
}
