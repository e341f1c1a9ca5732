// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// What a module returns says little: a bad peer key and a token that was pulled give the
// same CKR_GENERAL_ERROR. So after a result that could mean either, the token is examined.
// If it is well, the key is looked for again and the operation tried once more, or the
// input was at fault, which must never cause more than that: it may come from the network.
// If it is not, the module is finalised and initialised again, which is the only thing
// that brings some back; and if that fails, every call fails at once while the token is
// looked for in the background.

// retry says what may be done about an operation that has failed.
type retry uint8

const (
	retryNever retry = iota // it may have happened: a second key would stay behind
	retryOnce               // it can be done twice
	retryInput              // it can, but may have failed for what it was given
)

// use runs an operation and sees to what fails.
func (t *Token) use(ctx context.Context, op string, readWrite bool, r retry, f work) error {
	for try := 1; ; try++ {
		if err := t.health.trouble(); err != nil {
			return t.fail(op, ErrTokenUnavailable, err.Error())
		}
		err := t.once(ctx, op, readWrite, f)
		result := resultOf(err)
		switch {
		case err == nil:
			return nil
		case result == 0 && (!errors.Is(err, ErrTokenUnavailable) || ctx.Err() != nil):
			return err
		case kindOf(result) != nil:
			return &Error{Op: op, Token: t.name, Kind: kindOf(result), Result: result}
		}
		t.log.Warn("the token is examined", "after", op, "error", err)
		since := t.m.generation.Load()
		trouble := t.examine(ctx)
		switch {
		case ctx.Err() != nil:
			return t.late(op, ctx.Err(), ErrTokenUnavailable)
		case errors.Is(trouble, ErrSessionsExhausted), errors.Is(trouble, core.ErrClosed): // which says nothing of the token
			return &Error{Op: op, Token: t.name, Kind: ErrTokenUnavailable, Result: result}
		}
		well := trouble == nil && !errors.Is(err, errCrossed)
		if !well {
			if err := t.recover(ctx, since); err != nil {
				return err
			}
		}
		switch {
		case well && r == retryInput && !stale(result):
			return &Error{Op: op, Token: t.name, Kind: ErrInvalidInput, Result: result}
		case well && r == retryNever:
			return &Error{Op: op, Token: t.name, Kind: ErrUnsupported, Result: result, Detail: "the token is well, and does not do it"}
		case r == retryNever || try == 2:
			return &Error{Op: op, Token: t.name, Kind: ErrTokenUnavailable, Result: result}
		}
	}
}

// kindOf is what a result means by itself; nil: it may mean anything.
func kindOf(result cryptoki.Error) error {
	switch result {
	case cryptoki.ErrDataLenRange:
		return ErrTooLarge
	case cryptoki.ErrDataInvalid, cryptoki.ErrEncryptedDataInvalid, cryptoki.ErrEncryptedDataLenRange, cryptoki.ErrSignatureInvalid,
		cryptoki.ErrMechanismParamInvalid, cryptoki.ErrArgumentsBad, cryptoki.ErrKeySizeRange, cryptoki.ErrWrappedKeyInvalid,
		cryptoki.ErrWrappedKeyLenRange:
		return ErrInvalidInput
	case cryptoki.ErrMechanismInvalid, cryptoki.ErrFunctionNotSupported, cryptoki.ErrKeyFunctionNotPermitted,
		cryptoki.ErrAttributeValueInvalid, cryptoki.ErrAttributeTypeInvalid, cryptoki.ErrAttributeReadOnly, cryptoki.ErrAttributeSensitive,
		cryptoki.ErrTemplateIncomplete, cryptoki.ErrTemplateInconsistent, cryptoki.ErrKeyUnextractable, cryptoki.ErrBufferTooSmall:
		return ErrUnsupported
	}
	return nil
}

// stale says of a result that a handle or the login is not what it was.
func stale(result cryptoki.Error) bool {
	switch result {
	case cryptoki.ErrObjectHandleInvalid, cryptoki.ErrKeyHandleInvalid, cryptoki.ErrWrappingKeyHandleInvalid, cryptoki.ErrUnwrappingKeyHandleInvalid,
		cryptoki.ErrSessionHandleInvalid, cryptoki.ErrSessionClosed, cryptoki.ErrUserNotLoggedIn, cryptoki.ErrCryptokiNotInitialized:
		return true
	}
	return false
}

// examine asks the token for what every healthy one can say.
func (t *Token) examine(ctx context.Context) error {
	return t.once(ctx, "examine", false, func(s *session) error {
		in := t.in.Load()
		info, err := s.p.TokenInfo(in.slot)
		if err != nil {
			return err
		}
		if info.Serial != in.info.Serial || info.Label != in.info.Label {
			return cryptoki.ErrTokenNotPresent
		}
		if in.info.Flags&cryptoki.FlagLoginRequired != 0 {
			if in, err := s.p.LoggedIn(s.handle); err != nil || !in {
				return errors.Join(err, cryptoki.ErrUserNotLoggedIn)
			}
		}
		const withoutRNG = cryptoki.Error(0x121)
		if _, err := s.p.Random(s.handle, 16); err != nil && !errors.Is(err, withoutRNG) {
			return err
		}
		return nil
	})
}

// health is what stands between callers and a token that is away.
type health struct {
	mu     sync.Mutex
	away   error         // why calls fail at once; nil: they do not
	first  chan struct{} // closed after the first try of the recovery under way
	closed chan struct{} // with the token
	ended  sync.WaitGroup
	log    *slog.Logger
}

func (h *health) trouble() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.away
}

// recover restarts the module and logs in again, or waits while another caller has that
// done, unless that has happened since the generation in which it was found to be unwell.
// If it fails it goes on in the background.
func (t *Token) recover(ctx context.Context, since uint64) error {
	h := &t.health
	h.mu.Lock()
	first := h.first
	if first == nil {
		first = make(chan struct{})
		h.first = first
		h.ended.Go(func() { t.comeBack(since, first) })
	}
	h.mu.Unlock()
	select {
	case <-first:
	case <-ctx.Done():
		return t.late("recover", ctx.Err(), ErrTokenUnavailable)
	}
	if err := h.trouble(); err != nil {
		return t.fail("recover", ErrTokenUnavailable, err.Error())
	}
	return nil
}

// The pauses between tries to get a token back.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 30 * time.Second
)

// comeBack tries until the token is back, the Token is closed, or its PIN is refused.
func (t *Token) comeBack(since uint64, first chan struct{}) {
	h := &t.health
	pause := firstPause
	for try := 1; ; try++ {
		err := t.restart(since)
		h.mu.Lock()
		h.away = err
		if err == nil {
			h.first = nil
		}
		h.mu.Unlock()
		if try == 1 {
			close(first)
		}
		switch {
		case err == nil:
			h.log.Info("the token is back", "tries", try)
			return
		case errors.Is(err, ErrPINRejected), errors.Is(err, ErrPINLocked), errors.Is(err, core.ErrClosed):
			h.log.Error("the token stays away", "error", err)
			return
		}
		h.log.Warn("the token is away", "tries", try, "error", err)
		if t.m.shared() { // each try disturbs the others
			pause = lastPause
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-h.closed:
			return
		}
		pause = min(2*pause, lastPause)
		since = t.m.generation.Load()
	}
}

// restart restarts the module, unless that was done since and has helped.
func (t *Token) restart(since uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if now := t.m.generation.Load(); now != since {
		if t.examine(ctx) == nil {
			return nil
		}
		since = now
	}
	if err := t.m.restart(since); err != nil {
		return err
	}
	return t.examine(ctx)
}
