// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/providers/pure"
)

// foreignSecrets are history secrets that Core Crypto 10.3 made, by suite.
func foreignSecrets(t testing.TB) map[core.SuiteID][]byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "history.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list map[core.SuiteID][]byte
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 5 {
		t.Fatalf("%d secrets", len(list))
	}
	return list
}

// The form is Core Crypto's to the byte: what it made is read, and what we make of
// what was read is what it made.
func TestHistorySecretsOfCoreCrypto(t *testing.T) {
	for suite, data := range foreignSecrets(t) {
		s, err := client.ParseHistorySecret(pure.New(), data)
		if err != nil {
			t.Errorf("suite %v: %v", suite, err)
			continue
		}
		if !client.IsHistoryClient(s.ClientID) || !bytes.Equal(s.Data.Bytes(), data) {
			t.Errorf("suite %v: %s, %d bytes", suite, s.ClientID, s.Data.Len())
		}
		again, err := client.PackAgain(pure.New(), data)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("suite %v: packed again it is another (%v)", suite, err)
		}
	}
}

// A history secret comes from another member. Whatever byte of it is another, it is
// refused with a typed error, or it says the same.
func TestHistorySecretIsChecked(t *testing.T) {
	data := foreignSecrets(t)[suite1]
	// Some bits of a private key of X25519 mean nothing, those of its first byte and its
	// last; each private key ends with its last byte in two.
	clamped := 0
	refused := map[error]int{}
	for i := range data {
		for _, b := range []byte{data[i] ^ 1, data[i] ^ 0x80} {
			bad := bytes.Clone(data)
			bad[i] = b
			_, err := client.ParseHistorySecret(pure.New(), bad)
			switch {
			case errors.Is(err, core.ErrInvalid):
				refused[core.ErrInvalid]++
			case errors.Is(err, core.ErrUnsupported):
				refused[core.ErrUnsupported]++
			case err == nil:
				clamped++
			default:
				t.Errorf("byte %d changed from %x to %x: %v", i, data[i], b, err)
			}
		}
	}
	if clamped > 2*2*2 {
		t.Errorf("%d bytes may be others", clamped)
	}
	if refused[core.ErrUnsupported] == 0 {
		t.Error("a suite that nobody knows was refused as something else")
	}
	for n := range data {
		if _, err := client.ParseHistorySecret(pure.New(), data[:n]); !errors.Is(err, core.ErrInvalid) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
	if _, err := client.ParseHistorySecret(pure.New(), append(bytes.Clone(data), 0)); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("one byte more: %v", err)
	}
	if _, err := client.ParseHistorySecret(pure.New(), make([]byte, 64<<10+1)); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("too long: %v", err)
	}
}

// A history secret shows nothing of itself, however it is printed.
func TestHistorySecretIsNotPrinted(t *testing.T) {
	s, err := client.ParseHistorySecret(pure.New(), foreignSecrets(t)[suite1])
	if err != nil {
		t.Fatal(err)
	}
	digits := fmt.Sprintf("%x", s.Data.Bytes()[80:90])
	event := client.HistoryClientCreated{Conversation: chat, Secret: s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, v := range []any{s, &s, event} {
			text := fmt.Sprintf(verb, v)
			if strings.Contains(text, digits) || strings.Contains(text, fmt.Sprint(s.Data.Bytes()[80:90])) {
				t.Errorf("%s shows %s", verb, text)
			}
		}
	}
	if text, err := json.Marshal(s); err != nil || bytes.Contains(text, []byte("bytes\":\"")) || len(text) > 200 {
		t.Errorf("JSON: %s, %v", text, err)
	}
}

// FuzzHistorySecret: nothing panics, refusals are typed, and what is accepted is the
// same when it is packed again.
func FuzzHistorySecret(f *testing.F) {
	for _, data := range foreignSecrets(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := client.ParseHistorySecret(pure.New(), data)
		if err != nil {
			if !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrUnsupported) && !errors.Is(err, core.ErrTooLarge) {
				t.Fatalf("%x: %v", data, err)
			}
			return
		}
		again, err := client.PackAgain(pure.New(), data)
		if err != nil {
			t.Fatal(err)
		}
		third, err := client.PackAgain(pure.New(), again)
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%x is another secret than %x (%v)", again, third, err)
		}
	})
}
