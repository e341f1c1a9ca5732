// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bufio"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

// A recorder is a SuiteSource that writes down which AEAD key made which
// ciphertext, in a file that survives the process and that several may share.
type recorder struct {
	core.SuiteSource
	mu   sync.Mutex
	file *os.File
}

func newRecorder(path string) (*recorder, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &recorder{SuiteSource: pure.New(), file: file}, err
}

func short(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

func (r *recorder) Suite(id core.SuiteID) (core.Suite, error) {
	s, err := r.SuiteSource.Suite(id)
	return &recordingSuite{s, r}, err
}

type recordingSuite struct {
	core.Suite
	r *recorder
}

func (s *recordingSuite) AEAD(key core.Secret) (cipher.AEAD, error) {
	a, err := s.Suite.AEAD(key)
	return &recordingAEAD{a, s.r, short(key.Bytes())}, err
}

type recordingAEAD struct {
	cipher.AEAD
	r   *recorder
	key string
}

func (a *recordingAEAD) Seal(dst, nonce, plaintext, aad []byte) []byte {
	out := a.AEAD.Seal(dst, nonce, plaintext, aad)
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	if _, err := fmt.Fprintf(a.r.file, "%s %s\n", short(out[len(dst):]), a.key); err != nil {
		panic(err)
	}
	return out
}

// outgoing is a backend that keeps what one client, or all, let out of the process.
type outgoing struct {
	clienttest.Backend
	who  core.ClientID
	mu   sync.Mutex
	left [][]byte
	told [][]byte // the messages of them that came with commits
}

func (o *outgoing) note(by core.ClientID, message []byte) {
	if by == o.who || o.who == "" {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.left = append(o.left, message)
	}
}

func (o *outgoing) SubmitCommit(by core.ClientID, id core.ConversationID, b client.CommitBundle) client.Outcome {
	o.note(by, b.Commit)
	if by == o.who && len(b.EncryptedMessage) > 0 {
		o.note(by, b.EncryptedMessage)
		o.told = append(o.told, b.EncryptedMessage)
	}
	return o.Backend.SubmitCommit(by, id, b)
}

func (o *outgoing) SendMessage(by core.ClientID, id core.ConversationID, key string, message []byte) client.Outcome {
	o.note(by, message)
	return o.Backend.SendMessage(by, id, key, message)
}

// noKeyTwice checks that of the messages that left, no two different ones were
// made with the same key: a generation of an epoch has one key.
func noKeyTwice(t testing.TB, path string, left [][]byte) {
	t.Helper()
	if what := keyTwice(t, path, left); what != "" {
		t.Fatal(what)
	}
}

// keyTwice says which do; nothing if none.
func keyTwice(t testing.TB, path string, left [][]byte) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	keyOf := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var ciphertext, key string
		if _, err := fmt.Sscan(lines.Text(), &ciphertext, &key); err == nil {
			keyOf[ciphertext] = key
		}
	}
	used := map[string]string{}
	for _, message := range left {
		m, err := mls.UnmarshalMLSMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		if m.PrivateMessage == nil {
			continue
		}
		ciphertext := short(m.PrivateMessage.Ciphertext)
		key, ok := keyOf[ciphertext]
		if !ok {
			t.Fatal("a message left whose making was not recorded")
		}
		if other, again := used[key]; again && other != ciphertext {
			return fmt.Sprintf("two messages of epoch %d, content type %d, have the same key", m.PrivateMessage.Epoch, m.PrivateMessage.ContentType)
		}
		used[key] = ciphertext
	}
	return ""
}
