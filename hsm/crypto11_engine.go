// SPDX-License-Identifier: Apache-2.0

//go:build cgo && !nohsm

package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// crypto11 finalises a module under everybody who uses it when Configure fails, takes a
// PIN for right when somebody is logged in, and never comes back from a token that was
// away. So it gets a module for itself, one context for each, and is asked only for what
// our own code has tried just before and given up.

// crypto11Open are the contexts by the path of their modules. The lock is held while one is
// made or ended.
var crypto11Open = struct {
	sync.Mutex
	byPath map[string]*crypto11Context
}{byPath: map[string]*crypto11Context{}}

// A crypto11Context is a token that crypto11 is logged in to.
type crypto11Context struct {
	path   string
	token  *Token // what it was when its PIN was tried; it is not open
	inner  *crypto11.Context
	users  int
	gate   gate
	closed bool // written with the gate closed
	hangs  bool
}

type crypto11Key struct {
	c     *crypto11Context
	inner crypto.Signer
}

func openCrypto11(ctx context.Context, cfg Config, u URI) (caEngine, error) {
	path, err := u.Module()
	if err != nil {
		return nil, err
	}
	if path, err = resolved(path); err != nil {
		return nil, err
	}
	crypto11Open.Lock()
	defer crypto11Open.Unlock()
	c := crypto11Open.byPath[path]
	switch {
	case c == nil:
		if c, err = newCrypto11(ctx, path, cfg, u); err != nil {
			return nil, err
		}
		crypto11Open.byPath[path] = c
	case c.hangs:
		return nil, c.token.fail("open key", ErrPoisoned, "")
	case !u.Matches(c.token.in.Load().info):
		return nil, c.token.fail("open key", ErrModuleOwned, "engine crypto11 has one token of a module at a time, and this one is open")
	default:
		if err := c.token.samePIN(u); err != nil {
			return nil, err
		}
	}
	c.users++
	key, err := c.find(u)
	if err != nil {
		return nil, errors.Join(err, c.release())
	}
	return &crypto11Key{c, key}, nil
}

// newCrypto11 makes the context of a module.
func newCrypto11(ctx context.Context, path string, cfg Config, u URI) (c *crypto11Context, err error) {
	err = claim(path, engineCrypto11)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			disown(path)
		}
	}()
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Token{uri: u, latch: &latch{folder: cfg.Latch, finalTry: u.FinalTry}, log: log}
	if err := t.tryOut(path); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	inner, err := t.configure(path)
	if err != nil {
		return nil, err
	}
	return &crypto11Context{path: path, token: t, inner: inner}, nil
}

func disown(path string) {
	modules.Lock()
	defer modules.Unlock()
	delete(modules.owner, path)
}

// tryOut finds the token and logs in, in a context of our own that ends with that.
func (t *Token) tryOut(path string) (err error) {
	if t.uri.InitArgs != "" {
		return &Error{Op: "load", Token: path, Kind: ErrUnsupported, Detail: "engine crypto11 does not take x-init-args"}
	}
	p, err := load(path)
	if err != nil {
		return &Error{Op: "load", Kind: ErrModuleLoad, Detail: err.Error()}
	}
	t.m = &module{path: path, p: p}
	if err := t.m.initialize(); err != nil {
		return err
	}
	defer func() {
		if e := p.Finalize(); e != nil {
			err = errors.Join(err, t.unavailable("finalize", e))
		}
	}()
	in, err := t.m.find(t.uri)
	if err != nil {
		return err
	}
	t.name = in.name()
	all, err := t.m.list()
	if err != nil {
		return err
	}
	same := 0
	for _, f := range all {
		if f.info.Serial == in.info.Serial {
			same++
		}
	}
	switch {
	case in.info.Serial == "" || same > 1:
		return t.fail("find token", ErrUnsupported, "engine crypto11 goes by the serial number, which this token has not alone")
	case in.info.MaxSessions == 1:
		return t.fail("find token", ErrUnsupported, "engine crypto11 needs two sessions")
	}
	return t.login(in) // Finalize closes the session
}

// configure hands the module to crypto11, with the PIN that was right a moment ago.
func (t *Token) configure(path string) (*crypto11.Context, error) {
	sessions := maxSessions
	if t.uri.MaxSessions > 0 {
		sessions = t.uri.MaxSessions
	}
	info := t.in.Load().info
	c := &crypto11.Config{Path: path, TokenSerial: info.Serial, MaxSessions: 1 + sessions, PoolWaitTimeout: drainTime}
	if c.LoginNotSupported = info.Flags&cryptoki.FlagLoginRequired == 0; !c.LoginNotSupported {
		pin, err := t.uri.pin()
		if err != nil {
			return nil, t.fail("login", err, "")
		}
		defer pin.Wipe()
		if !pinsProven.has(tokenURI(info), pin) {
			return nil, t.fail("login", ErrPINRejected, "the source has another PIN than a moment ago")
		}
		c.Pin = string(pin.Bytes())
		defer func() { c.Pin = "" }() // crypto11 keeps c, and needs it no more
	}
	var inner *crypto11.Context
	err := cryptoki.Alone(func() (err error) {
		inner, err = crypto11.Configure(c)
		return err
	})
	if err != nil {
		return nil, t.unavailable("configure", cryptokiError(err))
	}
	return inner, nil
}

// cryptokiError finds what the module has returned. crypto11 wraps errors in a way older
// than that of errors.As.
func cryptokiError(err error) error {
	for e := err; e != nil; {
		if rv, ok := e.(pkcs11.Error); ok { //nolint:errorlint // it is the loop that unwraps
			return cryptoki.Error(rv)
		}
		cause, ok := e.(interface{ Cause() error }) //nolint:errorlint // as above
		if !ok {
			break
		}
		e = cause.Cause()
	}
	return err
}

// find looks for the one key of a URI.
func (c *crypto11Context) find(u URI) (crypto.Signer, error) {
	var id, label []byte
	if len(u.ID) > 0 {
		id = u.ID
	}
	if u.Object != "" {
		label = []byte(u.Object)
	}
	name := URI{ID: u.ID, Object: u.Object}.String()
	keys, err := c.inner.FindKeyPairs(id, label)
	if result := resultOf(cryptokiError(err)); result != 0 {
		return nil, &Error{Op: "find key", Token: c.token.name, Kind: ErrTokenUnavailable, Result: result}
	}
	switch {
	case err != nil:
		return nil, c.token.fail("find key", ErrUnsupported, err.Error())
	case len(keys) == 0:
		return nil, c.token.fail("find key", ErrKeyNotFound, name)
	case len(keys) > 1:
		return nil, c.token.fail("find key", ErrKeyAmbiguous, fmt.Sprintf("%d private keys match %s", len(keys), name))
	}
	switch public := keys[0].Public().(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return keys[0], nil
	default:
		return nil, c.token.fail("find key", ErrUnsupported, fmt.Sprintf("%s is a %T", name, public))
	}
}

// release ends the context when nobody uses it any more. The caller holds the lock.
func (c *crypto11Context) release() error {
	if c.users--; c.users > 0 {
		return nil
	}
	if !c.gate.close(drainTime) {
		c.hangs = true // and keeps the module
		return c.token.fail("finalize", ErrPoisoned, "")
	}
	defer c.gate.open()
	c.closed = true
	delete(crypto11Open.byPath, c.path)
	defer disown(c.path)
	if err := cryptokiError(c.inner.Close()); err != nil && !errors.Is(err, cryptoki.ErrCryptokiNotInitialized) {
		return c.token.unavailable("finalize", err)
	}
	return nil
}

// Close implements io.Closer.
func (k *crypto11Key) Close() error {
	crypto11Open.Lock()
	defer crypto11Open.Unlock()
	return k.c.release()
}

func (k *crypto11Key) signer(ctx context.Context) (crypto.Signer, error) {
	return &crypto11Signer{k, ctx}, nil
}

type crypto11Signer struct {
	*crypto11Key
	ctx context.Context
}

// Public implements crypto.Signer.
func (s *crypto11Signer) Public() crypto.PublicKey { return s.inner.Public() }

// Sign implements crypto.Signer. The length of the digest is checked here: neither crypto11
// nor every token does.
func (s *crypto11Signer) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	c := s.c
	if opts == nil || !opts.HashFunc().Available() || len(digest) != opts.HashFunc().Size() {
		return nil, c.token.fail("sign", ErrInvalidInput, fmt.Sprintf("%d bytes are no digest of %v", len(digest), opts))
	}
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.gate.enter(s.ctx); err != nil {
		return nil, c.token.late("sign", err, ErrTokenUnavailable)
	}
	if c.closed {
		c.gate.leave()
		return nil, c.token.fail("sign", core.ErrClosed, "")
	}
	type signed struct {
		signature []byte
		err       error
	}
	result := make(chan signed, 1)
	digest = bytes.Clone(digest) // the call may outlast us
	go func() {
		defer c.gate.leave()
		signature, err := s.inner.Sign(random, digest, opts)
		result <- signed{signature, err}
	}()
	select {
	case r := <-result:
		if r.err != nil {
			return nil, &Error{Op: "sign", Token: c.token.name, Kind: ErrTokenUnavailable, Result: resultOf(cryptokiError(r.err)), Detail: r.err.Error()}
		}
		return r.signature, nil
	case <-s.ctx.Done():
		return nil, c.token.late("sign", s.ctx.Err(), ErrTokenUnavailable)
	}
}
