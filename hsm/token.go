// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// Config says which token to open.
type Config struct {
	// URI is an RFC 7512 URI with module-path or module-name, the token, and the source
	// of the PIN; see [ParseURI]. Who chooses the module chooses code that runs here.
	URI string
	// Latch is a folder where it is remembered that a token has refused a PIN: the same
	// PIN is not tried again, by no process that shares the folder, until it is changed or
	// [Unlatch] is called. If empty, it is remembered by this process only.
	Latch string
	// Logger hears of logins, restarts and trouble; nil: nobody does.
	Logger *slog.Logger
}

// maxSessions is how many sessions a token is used with unless x-max-sessions says: most
// tokens do one operation at a time anyway.
const maxSessions = 8

// A Token is a token that we are logged in to. It is safe for concurrent use; Open of the
// same token in the same process gives the same one again.
type Token struct {
	m     *module
	uri   URI
	name  string // label and serial number
	key   string // in m.tokens
	users int    // under m.mu
	latch *latch
	log   *slog.Logger
	pool  *pool
	keys  keyed // one maker for each id

	in atomic.Pointer[found] // the token at the last login

	mu         sync.Mutex // of the login, which may hang: nobody else waits for it
	generation uint64     // of the module at the last login; 0: none yet
	control    cryptoki.Session
	failed     error // of the login in failedIn, which is not tried again
	failedIn   uint64

	gate    gate // of the operations of this token
	closed  atomic.Bool
	ended   chan struct{} // closed when nothing of it is open any more
	health  health
	wrapped atomic.Bool                   // the token wants peers as DER
	can     map[core.KeyAlgorithm]Ability // what was tried
	probed  atomic.Pointer[Report]
	asked   sync.Mutex // of can
}

// Open finds the token of a URI and logs in. Every Open wants one Close.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, err
	}
	if u.Engine == engineCrypto11 {
		return nil, &Error{Op: "open", Kind: ErrUnsupported, Detail: "engine crypto11 has only keys that sign certificates: " + u.String()}
	}
	path, err := u.Module()
	if err != nil {
		return nil, err
	}
	type opened struct {
		t   *Token
		err error
	}
	done := make(chan opened, 1)
	go func() { // neither C_Initialize nor a login can be interrupted
		m, err := acquire(path, u.InitArgs)
		if err != nil {
			done <- opened{nil, err}
			return
		}
		t, err := m.token(ctx, u, cfg)
		if err != nil {
			err = errors.Join(err, m.release())
		}
		done <- opened{t, err}
	}()
	select {
	case o := <-done:
		return o.t, o.err
	case <-ctx.Done():
	}
	go func() {
		if o := <-done; o.t != nil {
			_ = o.t.Close()
		}
	}()
	return nil, &Error{Op: "open", Token: path, Kind: fmt.Errorf("%w: %w", ErrTokenUnavailable, ctx.Err())}
}

// token gives the open token of a URI, or opens it. While the login of one that is being
// closed has not ended, there can be no other.
func (m *module) token(ctx context.Context, u URI, cfg Config) (*Token, error) {
	for {
		t, err := m.openToken(ctx, u, cfg)
		if err != nil || !t.closed.Load() {
			return t, err
		}
		select {
		case <-t.ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// openToken is token that may also give one that is being closed.
func (m *module) openToken(ctx context.Context, u URI, cfg Config) (*Token, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.gate.leave()
	in, err := m.find(u)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := in.info.Serial + "\x00" + in.info.Label
	if t := m.tokens[key]; t != nil {
		if err := t.samePIN(u); err != nil {
			return nil, err
		}
		t.users++
		return t, nil
	}
	limit := maxSessions
	if in.info.MaxSessions > 1 {
		limit = int(min(uint(limit), in.info.MaxSessions-1)) // one stays open for the login
	}
	// In p11-kit's client calls hang where the other side ends while several are under way.
	// It serves one after the other anyway.
	if i, err := m.p.Info(); err == nil && i.Manufacturer == "PKCS#11 Kit" {
		limit = 1
	}
	if u.MaxSessions > 0 {
		limit = u.MaxSessions
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Token{
		m: m, uri: u, name: in.name(), key: key, users: 1, latch: &latch{folder: cfg.Latch, finalTry: u.FinalTry}, pool: newPool(limit),
		log: log.With("token", in.info.Label, "serial", in.info.Serial), keys: newKeyed(), can: map[core.KeyAlgorithm]Ability{},
	}
	t.ended, t.health.closed = make(chan struct{}), make(chan struct{})
	t.health.log = t.log
	if err := t.login(in); err != nil {
		return nil, err
	}
	m.tokens[key] = t
	return t, nil
}

// samePIN is for who opens a token that is open: a module says nothing about a PIN when
// somebody is logged in.
func (t *Token) samePIN(u URI) error {
	if t.in.Load().info.Flags&cryptoki.FlagLoginRequired == 0 {
		return nil
	}
	pin, err := u.pin()
	if err != nil {
		return t.fail("open", err, "")
	}
	defer pin.Wipe()
	if !pinsProven.has(tokenURI(t.in.Load().info), pin) {
		return t.fail("open", ErrPINRejected, "the token is open in this process, with another PIN")
	}
	return nil
}

// Close gives the token back. The last one logs out and finalises the module; calls under
// way end first.
func (t *Token) Close() error {
	t.m.mu.Lock()
	if t.users == 0 { // the module may be in other hands
		t.m.mu.Unlock()
		return &Error{Op: "close", Token: t.name, Kind: core.ErrClosed}
	}
	t.users--
	last := t.users == 0
	if last {
		t.closed.Store(true)
		close(t.health.closed)
	}
	t.m.mu.Unlock()
	if last {
		t.health.ended.Wait()
		t.gate.close(drainTime) // what still hangs then closes its session itself
		t.closeSessions()
		t.gate.open()
		t.m.mu.Lock()
		delete(t.m.tokens, t.key)
		t.m.mu.Unlock()
		close(t.ended)
	}
	return t.m.release()
}

// closeSessions closes what is idle, and the control session: with the last one the
// module logs out.
func (t *Token) closeSessions() {
	if err := t.m.enter(context.Background()); err != nil {
		return
	}
	defer t.m.gate.leave()
	now := t.m.generation.Load()
	for s := t.pool.reuse(now, false); s != nil; s = t.pool.reuse(now, false) {
		_ = s.p.CloseSession(s.handle)
	}
	for s := t.pool.reuse(now, true); s != nil; s = t.pool.reuse(now, true) {
		_ = s.p.CloseSession(s.handle)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.generation == now {
		_ = t.m.p.CloseSession(t.control)
	}
	t.generation = 0
}

// fail makes an error of this token.
func (t *Token) fail(op string, kind error, detail string) error {
	var e *Error
	if errors.As(kind, &e) {
		return kind
	}
	return &Error{Op: op, Token: t.name, Kind: kind, Detail: detail}
}

// ready logs in unless that was done since the module was initialised. The caller is
// inside the gate.
func (t *Token) ready() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.generation == t.m.generation.Load() {
		return nil
	}
	in, err := t.m.find(t.uri)
	if err != nil {
		return t.unavailable("find token", err)
	}
	if in.info.Serial != t.in.Load().info.Serial || in.info.Label != t.in.Load().info.Label {
		return t.unavailable("find token", fmt.Errorf("there is %s instead", in.name()))
	}
	if t.failedIn == t.m.generation.Load() {
		return t.failed
	}
	if err := t.login(in); err != nil {
		t.failed, t.failedIn = err, t.m.generation.Load()
		return err
	}
	return nil
}

// unavailable is for a token that was there before.
func (t *Token) unavailable(op string, err error) error {
	return &Error{Op: op, Token: t.name, Kind: ErrTokenUnavailable, Result: resultOf(err), Detail: err.Error()}
}

// login opens the control session and logs in, once. The control session stays: with the
// last session of a process the login would end.
func (t *Token) login(in found) error {
	generation := t.m.generation.Load()
	control, err := t.m.p.OpenSession(in.slot, false)
	if err != nil {
		return t.unavailable("open session", err)
	}
	if in.info.Flags&cryptoki.FlagLoginRequired != 0 {
		if err := t.authenticate(in, control); err != nil {
			_ = t.m.p.CloseSession(control)
			return err
		}
	}
	again := t.generation != 0
	t.in.Store(&in)
	t.generation, t.control = generation, control
	if again {
		t.log.Info("logged in again")
	}
	return nil
}

func (t *Token) authenticate(in found, control cryptoki.Session) error {
	if in.info.Flags&cryptoki.FlagUserPINSet == 0 {
		return &Error{Op: "login", Token: t.name, Kind: ErrPINRequired, Detail: "the token has no user PIN yet"}
	}
	if in.info.Flags&cryptoki.FlagProtectedPath != 0 {
		return &Error{Op: "login", Token: t.name, Kind: ErrUnsupported, Detail: "its PIN is to be entered at the token itself"}
	}
	pin, err := t.uri.pin()
	if err != nil {
		return t.fail("login", err, "")
	}
	defer pin.Wipe()
	if t.generation != 0 && !pinsProven.has(tokenURI(in.info), pin) {
		return &Error{Op: "login", Token: t.name, Kind: ErrPINRejected, Detail: "the source has another PIN than the one that this process has used; it is tried after a restart"}
	}
	err = t.latch.login(in.info, pin, func() error { return t.m.p.Login(control, pin.Bytes()) })
	var e *Error
	switch {
	case err == nil:
	case errors.Is(err, cryptoki.ErrUserAlreadyLoggedIn):
		return &Error{Op: "login", Token: t.name, Kind: ErrModuleOwned, Result: cryptoki.ErrUserAlreadyLoggedIn, Detail: "other code of this process is logged in, so that the PIN was not checked"}
	case errors.As(err, &e):
		t.log.Info("login failed", "error", err)
		return err
	default:
		return t.unavailable("login", err)
	}
	return nil
}

// work is an operation: f has the session alone. For a session of which anything failed
// f returns the error as the module gave it.
type work func(s *session) error

// once runs an operation on a session of the pool. The caller's context bounds the wait
// for a session and for the result. A call into the module cannot be interrupted: it keeps
// its place in the pool until it returns, so there are never more of them.
func (t *Token) once(ctx context.Context, op string, readWrite bool, f work) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.pool.take(ctx); err != nil {
			return t.late(op, ctx.Err(), err)
		}
		if err := t.enter(ctx, op); err != nil {
			t.pool.give()
			return err
		}
		err := t.inside(ctx, op, readWrite, f)
		if errors.Is(err, errFewerSessions) { // to wait for one, outside of the gate
			continue
		}
		return err
	}
}

// inside is once for who has passed the gate, which it leaves. A caller that can give up
// needs a goroutine to leave behind, which costs the two of them a wake-up; who cannot
// does the work itself.
func (t *Token) inside(ctx context.Context, op string, readWrite bool, f work) error {
	if ctx.Done() == nil {
		defer t.leave()
		return t.onSession(ctx, op, readWrite, f)
	}
	result := make(chan error, 1)
	go func() {
		defer t.leave()
		result <- t.onSession(ctx, op, readWrite, f)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	t.pool.abandoned(1)
	go func() {
		<-result
		t.pool.abandoned(-1)
	}()
	return t.late(op, ctx.Err(), ErrTokenUnavailable)
}

// enter passes the gate of the module. Behind it is nobody whose Token was closed: the
// module may be in other hands then.
func (t *Token) enter(ctx context.Context, op string) error {
	if err := t.gate.enter(ctx); err != nil {
		return t.late(op, err, ErrTokenUnavailable)
	}
	err := t.m.enter(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		err = t.late(op, ctx.Err(), ErrTokenUnavailable)
	case err == nil && t.closed.Load():
		t.m.gate.leave()
		err = t.fail(op, core.ErrClosed, "")
	}
	if err != nil {
		t.gate.leave()
	}
	return err
}

func (t *Token) leave() {
	t.m.gate.leave()
	t.gate.leave()
}

// onSession is once for who has a place in the pool, which it gives back.
func (t *Token) onSession(ctx context.Context, op string, readWrite bool, f work) error {
	if err := t.ready(); err != nil {
		t.pool.give()
		return err
	}
	generation := t.m.generation.Load()
	s, err := t.pool.session(generation, readWrite, func() (*session, error) { return t.openSession(generation, readWrite) })
	if errors.Is(err, ErrSessionsExhausted) {
		return t.fail(op, ErrSessionsExhausted, "others have them all")
	}
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // nobody waits any more
		t.pool.put(s, true)
		return err
	}
	err = f(s)
	t.pool.put(s, err == nil && !t.closed.Load())
	return err
}

// late is for a deadline that was reached: it is an error of the context and one of the
// token. A caller that cancels gets only its own.
func (t *Token) late(op string, cause, kind error) error {
	if !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	for _, k := range []error{ErrPoisoned, ErrSessionsExhausted} {
		if errors.Is(kind, k) {
			kind = k
		}
	}
	return &Error{Op: op, Token: t.name, Kind: fmt.Errorf("%w: %w", kind, cause)}
}

func (t *Token) openSession(generation uint64, readWrite bool) (*session, error) {
	slot := t.in.Load().slot
	h, err := t.m.p.OpenSession(slot, readWrite)
	if err != nil {
		return nil, err
	}
	return &session{t.m.p, h, generation, readWrite}, nil
}

// keyed is a lock for each of many names.
type keyed struct {
	mu    *sync.Mutex
	locks map[string]chan struct{}
}

func newKeyed() keyed { return keyed{new(sync.Mutex), map[string]chan struct{}{}} }

// lock waits for the others who want the same.
func (k keyed) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		taken, ok := k.locks[name]
		if !ok {
			mine := make(chan struct{})
			k.locks[name] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				defer k.mu.Unlock()
				delete(k.locks, name)
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
