// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// Two devices open a session, talk, and make the mistakes that there are: whoever plays
// them, the answers are the same.
func TestProteusCommands(t *testing.T) {
	t.Parallel()
	ours := func(t testing.TB) *driver { return inProcess(t) }
	for _, c := range []struct {
		name       string
		alice, bob func(testing.TB) *driver
	}{
		{"both are ours", ours, ours},
		{"bob is Core Crypto", ours, coreCrypto},
		{"alice is Core Crypto", coreCrypto, ours},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			alice, bob := player{t, c.alice(t)}, player{t, c.bob(t)}
			for _, p := range []player{alice, bob} {
				p.call("init", args{"mls": false, "proteus": true})
			}
			hello := []byte("hello")
			bundle := bob.call("proteusPrekey", args{"prekeyId": 7}).Prekey
			alice.call("proteusSessionFromPrekey", args{"session": "bob", "prekey": bundle})
			first := alice.message("proteusEncrypt", args{"session": "bob", "plaintext": hello})
			second := alice.message("proteusEncrypt", args{"session": "bob", "plaintext": []byte{}})
			bob.fails("Proteus.SessionNotFound", 0, "proteusDecrypt", args{"session": "alice", "message": first})
			bob.reads(hello, "proteusSessionFromMessage", args{"session": "alice", "message": first})
			bob.reads(nil, "proteusDecryptSafe", args{"session": "alice", "message": second})
			bob.fails("Proteus.DuplicateMessage", 0, "proteusDecrypt", args{"session": "alice", "message": second})
			bob.fails("Proteus.Other", 101, "proteusSessionFromMessage", args{"session": "again", "message": first})

			// The last resort serves many, and a batch is for those who are there.
			last := alice.call("proteusLastResortPrekey", nil).Prekey
			for _, name := range []string{"one", "two"} {
				bob.call("proteusSessionFromPrekey", args{"session": name, "prekey": last})
			}
			var batch map[string][]byte
			raw := bob.call("proteusEncryptBatched", args{"sessions": []string{"one", "two", "nobody"}, "plaintext": hello}).Messages
			if err := json.Unmarshal(raw, &batch); err != nil || len(batch) != 2 {
				t.Fatalf("batch %s: %v", raw, err)
			}
			for name, m := range batch {
				alice.reads(hello, "proteusDecryptSafe", args{"session": name, "message": m})
			}
			// To delete one that is not there is no error.
			for _, there := range []bool{true, false} {
				if alice.call("proteusSessionExists", args{"session": "one"}).Exists != there {
					t.Errorf("the session exists: want %v", there)
				}
				alice.call("proteusSessionSave", args{"session": "one"})
				alice.call("proteusSessionDelete", args{"session": "one"})
			}
			theirs := alice.call("proteusFingerprint", args{"session": "bob"})
			if of := bob.call("proteusFingerprint", args{"session": "alice"}); of.Local != theirs.Remote || of.Remote != theirs.Local || len(of.Local) != 64 {
				t.Errorf("fingerprints %s %s and %s %s", of.Local, of.Remote, theirs.Local, theirs.Remote)
			}
			bob.fails("Proteus.SessionNotFound", 0, "proteusEncrypt", args{"session": "nobody", "plaintext": hello})
			alice.fails("Proteus.Other", 3, "proteusDecrypt", args{"session": "bob", "message": []byte("no message")})
		})
	}
}

// A player is one of two drivers.
type player struct {
	testing.TB
	*driver
}

func (p player) call(command string, a args) answer {
	p.Helper()
	out, err := p.driver.call("one", command, a)
	if err != nil {
		p.Fatalf("%s: %v", command, err)
	}
	return out
}

func (p player) message(command string, a args) (m []byte) {
	p.Helper()
	raw := p.call(command, a).Message
	if err := json.Unmarshal(raw, &m); err != nil || len(m) == 0 {
		p.Fatalf("%s: %s, %v", command, raw, err)
	}
	return m
}

func (p player) reads(want []byte, command string, a args) {
	p.Helper()
	if got := p.call(command, a).Plaintext; string(got) != string(want) {
		p.Errorf("%s gives %q, want %q", command, got, want)
	}
}

// fails wants an error of a kind, and with a number unless it is 0.
func (p player) fails(kind string, code float64, command string, a args) {
	p.Helper()
	_, err := p.driver.call("one", command, a)
	f, ok := err.(*failure)
	if !ok || !strings.HasPrefix(f.Kind, kind) || code != 0 && f.Detail["errorCode"] != code {
		p.Errorf("%s: %v, want %s %v", command, err, kind, code)
	}
}
