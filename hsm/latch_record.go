// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/argon2"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A latchRecord is what is kept of a token while PINs of it are latched: a line of JSON
// and its SHA-256 in hex, because one bit less would let a refused PIN pass.
type latchRecord struct {
	Format  int    `json:"format"` // 1
	Token   string `json:"token"`  // see tokenURI
	Salt    []byte `json:"salt"`
	Time    uint32 `json:"time"` // this and the next are those of Argon2id
	Memory  uint32 `json:"memory"`
	Threads uint8  `json:"threads"`

	PINs []pinRecord `json:"pins"`
}

// A pinRecord is of one PIN.
type pinRecord struct {
	Hash    []byte    `json:"hash"`
	Refused bool      `json:"refused"` // otherwise nobody knows
	Result  string    `json:"result"`  // name of what the module returned; "": it never did
	At      time.Time `json:"at"`
}

// kind is the error for who wants to try it again.
func (p pinRecord) kind() error {
	if p.Result == cryptoki.ErrPINLocked.Name() {
		return ErrPINLocked
	}
	return ErrPINRejected
}

func (p pinRecord) why() string {
	at := p.At.Format("2006-01-02 15:04:05 MST")
	switch {
	case p.Refused:
		return fmt.Sprintf("the token refused this PIN (%s, %s)", p.Result, at)
	case p.Result != "":
		return fmt.Sprintf("the token failed in a login with this PIN and may have refused it (%s, %s)", p.Result, at)
	}
	return fmt.Sprintf("a login with this PIN was cut short, and the token may have refused it (%s)", at)
}

// tokenURI names a token by all that it says of itself.
func tokenURI(t cryptoki.TokenInfo) string {
	u := URI{Token: t.Label, Manufacturer: t.Manufacturer, Model: t.Model, Serial: t.Serial, blank: [4]bool{true, true, true, true}}
	for _, s := range u.labels() { // to read it back
		*s = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return unicode.ReplacementChar
			}
			return r
		}, *s)
	}
	return u.String()
}

func newSalt() []byte {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // it never fails
	return salt
}

// newLatchRecord chooses an Argon2id of some 50 ms: a PIN has few digits, so whoever has
// the file and patience finds it. It is a wrong one.
func newLatchRecord(token string) *latchRecord {
	return &latchRecord{Format: 1, Token: token, Salt: newSalt(), Time: 2, Memory: 32 << 10, Threads: 1}
}

// hash is the same for the same PIN within a record.
func (r *latchRecord) hash(pin core.Secret) []byte {
	return argon2.IDKey(pin.Bytes(), r.Salt, r.Time, r.Memory, r.Threads, sha256.Size)
}

func (r *latchRecord) encode() ([]byte, error) {
	b, err := json.Marshal(r)
	return fmt.Appendf(b, "\n%x\n", sha256.Sum256(b)), err
}

// decodeLatch takes only what encode writes, so that the sum is compared, too.
func decodeLatch(b []byte) (*latchRecord, error) {
	damaged := errors.New("it is damaged")
	line, _, _ := bytes.Cut(b, []byte("\n"))
	var r latchRecord
	if json.Unmarshal(line, &r) != nil {
		return nil, damaged
	}
	if r.Format != 1 {
		return nil, fmt.Errorf("its format is %d, not 1", r.Format)
	}
	ok := len(r.Salt) == 16 && 1 <= r.Time && r.Time <= 16 && r.Memory <= 256<<10 && 1 <= r.Threads && r.Threads <= 16
	ok = ok && 1 <= len(r.PINs) && len(r.PINs) <= maxLatched
	for _, p := range r.PINs {
		ok = ok && len(p.Hash) == sha256.Size
	}
	if again, err := r.encode(); !ok || err != nil || !bytes.Equal(again, b) {
		return nil, damaged
	}
	return &r, nil
}

// readLatch reads the record of a token; without one it makes one, in memory only.
func readLatch(s latchStore, token string) (*latchRecord, error) {
	b, err := s.read()
	if err != nil {
		return nil, fmt.Errorf("what is latched cannot be read: %w", err)
	}
	if b == nil {
		return newLatchRecord(token), nil
	}
	r, err := decodeLatch(b)
	if err == nil && r.Token != token {
		err = errors.New("it is of another token")
	}
	if err != nil {
		return nil, fmt.Errorf("%s has what is latched, but %w; make sure that the PIN is right, then remove the file", s.name(), err)
	}
	return r, nil
}

func (r *latchRecord) write(s latchStore) error {
	if len(r.PINs) == 0 {
		return s.write(nil)
	}
	b, err := r.encode()
	if err != nil {
		return err
	}
	return s.write(b)
}
