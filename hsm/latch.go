// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A latch sees to it that a wrong PIN reaches a token once: tokens lock after few wrong
// ones, and a service that is restarted again and again would spend them all. Before a
// login it records that one with this PIN is under way, and removes that afterwards,
// unless the token has refused the PIN or may have. While there is a record, the same PIN
// is refused here; another PIN is not.
//
// So a process that is killed inside of a login leaves its PIN latched, even the right one:
// nobody knows what the token said. [Unlatch] is for that, and for a PIN that the token
// was given later.
type latch struct {
	folder   string // of all tokens; "": the records are in memory, for the life of the process
	finalTry bool   // log in though the token says that one try is left, or none
}

func newLatch(folder string) *latch { return &latch{folder: folder} }

// maxLatched is how many PINs of a token are remembered. With so many refused, something
// goes through them, and nothing more is tried.
const maxLatched = 32

// login lets do, which is C_Login with the PIN and nothing else, be called if this PIN may
// be tried now, alone among all processes that share the folder. Its own errors are
// *Errors: what the token refuses or has refused, ErrPINRejected or ErrPINLocked; and a record
// that cannot be written, before do is called, or cannot be understood, ErrLatch. What do returns without a word on the PIN is passed on as it is.
func (l *latch) login(token cryptoki.TokenInfo, pin core.Secret, do func() error) error {
	fail := func(kind error, result cryptoki.Error, detail string) error {
		return &Error{Op: "login", Token: fmt.Sprintf("%s, serial number %s", token.Label, token.Serial), Result: result, Kind: kind, Detail: detail}
	}
	switch {
	case pin.IsZero():
		return fail(ErrPINRequired, 0, "the PIN is empty")
	case !l.finalTry && token.Flags&cryptoki.FlagUserPINLocked != 0:
		return fail(ErrPINLocked, 0, "the token says so, and no PIN is tried; its security officer can unlock it")
	case !l.finalTry && token.Flags&cryptoki.FlagUserPINFinal != 0:
		return fail(ErrPINLocked, 0, "the token leaves one try, which is not taken without x-final-try=yes")
	}
	name := tokenURI(token)
	s := l.store(name)
	unlock, err := s.lock()
	if err != nil {
		return fail(ErrLatch, 0, err.Error())
	}
	defer unlock()
	r, err := readLatch(s, name)
	if err != nil {
		return fail(ErrLatch, 0, err.Error())
	}
	hash := r.hash(pin)
	if i := slices.IndexFunc(r.PINs, func(p pinRecord) bool { return bytes.Equal(p.Hash, hash) }); i >= 0 {
		return fail(r.PINs[i].kind(), 0, r.PINs[i].why()+"; it is not tried again before it is unlatched")
	}
	if len(r.PINs) >= maxLatched {
		return fail(ErrPINRejected, 0, fmt.Sprintf("%d PINs are latched, and no other is tried before they are unlatched", len(r.PINs)))
	}

	before := slices.Clone(r.PINs)
	r.PINs = append(r.PINs, pinRecord{Hash: hash, At: time.Now().UTC().Truncate(time.Second)})
	if err := r.write(s); err != nil {
		return fail(ErrLatch, 0, "a login could not be recorded: "+err.Error())
	}
	err = do()
	result, now := resultOf(err), &r.PINs[len(r.PINs)-1]
	switch what := judgePIN(err); {
	case what == pinRefused:
		pinsProven.set(name, pin, false)
		now.Refused, now.Result = true, result.Name()
		_ = r.write(s) // what was written before the login latches as well
		return fail(now.kind(), result, "this PIN is not tried again")
	case what == pinUnknown && !pinsProven.has(name, pin):
		now.Result = result.Name()
		_ = r.write(s)
		return fail(ErrTokenUnavailable, result, "the token failed in the login and may have judged the PIN, which is not tried again before it is unlatched")
	case what == pinAccepted:
		pinsProven.set(name, pin, true)
	}
	r.PINs = before
	if e := r.write(s); e != nil {
		return errors.Join(err, fail(ErrLatch, 0, "the login is over, but the record of it cannot be removed, and stops the next one: "+e.Error()))
	}
	return err
}

// A pinVerdict is what a C_Login says about a PIN.
type pinVerdict int

const (
	pinUnknown pinVerdict = iota // the token may have counted it
	pinAccepted
	pinRefused
	pinNotJudged // the token was not reached, or has not looked at the PIN
)

// judgePIN goes by what PKCS #11 says of the results: of those that are about the session or
// the token "at the time that the function was invoked", the PIN was not judged. During a
// function that fails otherwise, or in a connection that breaks, it may have been.
func judgePIN(err error) pinVerdict {
	if err == nil {
		return pinAccepted
	}
	switch resultOf(err) {
	case cryptoki.ErrPINIncorrect, cryptoki.ErrPINInvalid, cryptoki.ErrPINLenRange, cryptoki.ErrPINExpired, cryptoki.ErrPINLocked:
		return pinRefused
	case cryptoki.ErrUserAlreadyLoggedIn, cryptoki.ErrUserPINNotInitialized, cryptoki.ErrCryptokiNotInitialized,
		cryptoki.ErrSessionHandleInvalid, cryptoki.ErrSlotIDInvalid, cryptoki.ErrTokenNotPresent, cryptoki.ErrTokenNotRecognized,
		cryptoki.ErrFunctionNotSupported, cryptoki.ErrOperationActive, cryptoki.ErrOperationNotInitialized,
		cryptoki.ErrHostMemory, cryptoki.ErrDeviceMemory, cryptoki.ErrSessionReadOnlyExists, cryptoki.ErrUserAnotherAlreadyLoggedIn,
		cryptoki.ErrUserTooManyTypes:
		return pinNotJudged
	}
	return pinUnknown
}

// pinsProven are PINs that have succeeded in this process. A token that fails in a login with
// such a one is not suspected of having refused it: it is what happens when a token goes
// away, and it has to come back without a person.
var pinsProven = provenPINs{hashes: map[[sha256.Size]byte]bool{}}

type provenPINs struct {
	mu     sync.Mutex
	salt   []byte
	hashes map[[sha256.Size]byte]bool
}

func (p *provenPINs) has(token string, pin core.Secret) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hashes[p.hash(token, pin)]
}

func (p *provenPINs) set(token string, pin core.Secret, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.hash(token, pin); ok {
		p.hashes[h] = true
	} else {
		delete(p.hashes, h)
	}
}

func (p *provenPINs) hash(token string, pin core.Secret) [sha256.Size]byte {
	if p.salt == nil {
		p.salt = newSalt()
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s%q", p.salt, token)
	_, _ = h.Write(pin.Bytes())
	return [sha256.Size]byte(h.Sum(nil))
}
