// SPDX-License-Identifier: Apache-2.0

//go:build cgo && !nohsm

package hsm

import (
	"context"
	"crypto"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// hanging is a key of a module that does not answer.
type hanging struct{ until, called chan struct{} }

func (hanging) Public() crypto.PublicKey { return nil }

func (h hanging) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	close(h.called)
	<-h.until
	return nil, errors.New("late")
}

// A call that hangs costs its caller a deadline, and the module is not finalised under it.
func TestCrypto11Hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crypto11Context{path: t.Name(), token: &Token{name: "a token"}, users: 1}
		h := hanging{make(chan struct{}), make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := (&crypto11Signer{&crypto11Key{c, h}, ctx}).Sign(nil, make([]byte, 32), crypto.SHA256); !errors.Is(err, context.Canceled) {
			t.Errorf("after cancellation: %v", err)
		}
		select {
		case <-h.called:
			t.Error("a call after cancellation")
		case <-time.After(10 * time.Millisecond):
		}
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
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
	})
}

// crypto11 gets no PIN that has not just succeeded.
func TestCrypto11OtherPIN(t *testing.T) {
	token := &Token{uri: URI{PINValue: core.NewSecret([]byte("another"))}, name: "a token"}
	token.in.Store(&found{info: cryptoki.TokenInfo{Label: t.Name(), Flags: cryptoki.FlagLoginRequired}})
	if _, err := token.configure("/nonexistent"); !errors.Is(err, ErrPINRejected) {
		t.Errorf("a PIN that was not tried: %v", err)
	}
}

// described is a module of which nothing works but the description of its tokens.
type described struct {
	cryptoki.Module
	tokens []cryptoki.TokenInfo
}

func (described) Initialize(string) error { return nil }
func (described) Finalize() error         { return nil }

func (d described) Slots() (all []cryptoki.Slot, err error) {
	for i := range d.tokens {
		all = append(all, cryptoki.Slot(i))
	}
	return all, nil
}

func (d described) TokenInfo(s cryptoki.Slot) (cryptoki.TokenInfo, error) { return d.tokens[s], nil }

// A token that crypto11 would confuse with another, or could not get to work, is not
// logged in to.
func TestCrypto11Tokens(t *testing.T) {
	defer func(f func(string) (cryptoki.Module, error)) { load = f }(load)
	info := func(label, serial string, sessions uint) cryptoki.TokenInfo {
		return cryptoki.TokenInfo{Label: label, Serial: serial, MaxSessions: sessions, Flags: cryptoki.FlagInitialized}
	}
	for name, tokens := range map[string][]cryptoki.TokenInfo{
		"without a serial number": {info("ca", "", 0)},
		"with another's":          {info("other", "1", 0), info("ca", "1", 0)},
		"with one session":        {info("ca", "1", 1)},
	} {
		load = func(string) (cryptoki.Module, error) { return described{tokens: tokens}, nil }
		if err := (&Token{uri: URI{Token: "ca"}}).tryOut("a module"); !errors.Is(err, ErrUnsupported) {
			t.Errorf("a token %s: %v, want ErrUnsupported", name, err)
		}
	}
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
