// SPDX-License-Identifier: Apache-2.0

//go:build cgo && !nohsm

package hsm

import (
	"context"
	"crypto"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// hanging is a key of a module that does not answer.
type hanging struct{ until chan struct{} }

func (hanging) Public() crypto.PublicKey { return nil }

func (h hanging) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	<-h.until
	return nil, errors.New("late")
}

// A call that hangs costs its caller a deadline, and the module is not finalised under it.
func TestCrypto11Hangs(t *testing.T) {
	defer func(d time.Duration) { drainTime = d }(drainTime)
	drainTime = 20 * time.Millisecond
	c := &crypto11Context{path: t.Name(), token: &Token{name: "a token"}, users: 1}
	h := hanging{make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s, err := (&crypto11Key{c, h}).signer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Sign(nil, make([]byte, 32), crypto.SHA256)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrTokenUnavailable) {
		t.Errorf("a call that hangs: %v", err)
	}
	if err := c.release(); !errors.Is(err, ErrPoisoned) || !c.hangs || c.closed {
		t.Errorf("the end beside a call that hangs: %v", err)
	}
	close(h.until)
}

// causing wraps an error as crypto11 does.
type causing struct{ error }

func (c causing) Cause() error { return c.error }

func TestCrypto11Errors(t *testing.T) {
	inner := pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)
	for _, err := range []error{inner, causing{causing{inner}}} {
		if got := resultOf(cryptokiError(err)); got != cryptoki.ErrPINIncorrect {
			t.Errorf("%v is %v", err, got)
		}
	}
	for _, err := range []error{nil, io.EOF, causing{io.EOF}} {
		if got := cryptokiError(err); got != err || resultOf(got) != 0 {
			t.Errorf("%v became %v", err, got)
		}
	}
}
