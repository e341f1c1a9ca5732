// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// An id looks the same in all lines of a process, and not in those of another: nobody
// finds out which it is by hashing what it may be.
func TestIDsInLogs(t *testing.T) {
	const id = "4959bc6ab12f2846"
	first, again := core.ClientID(id).LogValue(), core.ConversationID(id).LogValue()
	if !first.Equal(again) || first.Kind() != slog.KindString || len(first.String()) != 20 {
		t.Errorf("%v and %v", first, again)
	}
	if other := core.ClientID("another").LogValue(); other.Equal(first) {
		t.Error("two ids look the same")
	}
	sum := sha256.Sum256([]byte(id))
	if first.String() == hex.EncodeToString(sum[:10]) {
		t.Error("the digest is not salted")
	}
	if os.Getenv("CONCLAVE_PRINT_ID") != "" {
		t.Log("it is " + first.String())
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestIDsInLogs$", "-test.v")
	cmd.Env = append(os.Environ(), "CONCLAVE_PRINT_ID=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "it is ") {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.Contains(string(out), first.String()) {
		t.Error("another process writes the same")
	}
}
