// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
)

// LatchFolder is where it is remembered that a token has refused a PIN: $CONCLAVE_LATCH, for
// all clients of a token on a host, else beside the configuration, so that each program of
// the client knows.
func LatchFolder(c config.Config) string {
	if folder := os.Getenv("CONCLAVE_LATCH"); folder != "" {
		return folder
	}
	return c.File("latch")
}

// ErrNoKEK: the token has no key of the name that the configuration has for the key of
// the keystore.
var ErrNoKEK = fmt.Errorf("the keystore's key is not on the token: %w", core.ErrNotFound)

func openToken(ctx context.Context, c config.Config, log *slog.Logger, u config.URI) (*hsm.Token, error) {
	return hsm.Open(ctx, hsm.Config{URI: u.Text(), Latch: LatchFolder(c), Logger: log})
}

// NoKey refuses the URI of a key where that of a token belongs.
func NoKey(uri string) error {
	u, err := hsm.ParseURI(uri)
	if err == nil && (len(u.ID) > 0 || u.Object != "" || u.Type != "") {
		err = fmt.Errorf("the URI is to name the token only: leave out id, object and type, as keys are named when they are made: %w", core.ErrInvalid)
	}
	return err
}

// tokenKeys makes new keys in the token, and opens those and the ones in software and in
// plugins that there are from before. Where the token cannot do something nothing else does it.
func tokenKeys(c config.Config, p *Plugins, log *slog.Logger, lc fx.Lifecycle) Opener[core.CryptoProvider] {
	return Opener[core.CryptoProvider]{hsm.Scheme, func(ctx context.Context, u config.URI) (core.CryptoProvider, error) {
		if err := NoKey(u.Text()); err != nil {
			return nil, err
		}
		t, err := openToken(ctx, c, log, u)
		if err != nil {
			return nil, err
		}
		lc.Append(fx.StopHook(t.Close)) // a router closes nothing
		keys := t.Provider()
		return router(p, keys, map[string]core.CryptoProvider{hsm.Scheme: keys}), nil
	}}
}

// tokenWrapper is a key in a token, which closes the token.
type tokenWrapper struct {
	core.KeyWrapper
	token *hsm.Token
}

// Close implements io.Closer.
func (w *tokenWrapper) Close() error { return w.token.Close() }

func tokenKEK(c config.Config, log *slog.Logger) Opener[core.KeyWrapper] {
	return Opener[core.KeyWrapper]{hsm.Scheme, func(ctx context.Context, u config.URI) (core.KeyWrapper, error) {
		t, err := openToken(ctx, c, log, u)
		if err != nil {
			return nil, err
		}
		w, err := t.Wrapper(ctx, u.Text())
		if errors.Is(err, hsm.ErrKeyNotFound) {
			err = fmt.Errorf("%w: %w", ErrNoKEK, err)
		}
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		return &tokenWrapper{w, t}, nil
	}}
}
