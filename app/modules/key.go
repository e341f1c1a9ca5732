// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"fmt"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
)

// A Passphrase asks a person, or whoever knows it, for the passphrase of the
// keystore. Replace it with fx.Replace to use "passphrase:".
type Passphrase func(context.Context) (core.Secret, error)

// Key is what wraps the keystore's data keys: "file:FILE" (see NewKeyFile),
// "passphrase:", "pkcs11:..." for a key in a token, "plugin:NAME" for one in a plugin, or
// "random:" for a keystore that keeps nothing either.
func Key() fx.Option {
	return fx.Module("key",
		part[core.KeyWrapper]("key", func(c config.Config) string { return c.Key }),
		fx.Supply(Passphrase(noPassphrase)),
		fx.Provide(
			fx.Annotate(passphraseOpener, fx.ResultTags(group)),
			fx.Annotate(tokenKEK, fx.ResultTags(group)),
			fx.Annotate(pluginKEK, fx.ResultTags(group))),
		Scheme("file", openKeyFile),
		Scheme("random", func(_ context.Context, u config.URI) (core.KeyWrapper, error) {
			return wrap(seal.RawKey, randomKey(), u.Nothing())
		}))
}

func noPassphrase(context.Context) (core.Secret, error) {
	return core.Secret{}, fmt.Errorf("nobody to ask for the passphrase: %w", core.ErrDenied)
}

func passphraseOpener(ask Passphrase) Opener[core.KeyWrapper] {
	return Opener[core.KeyWrapper]{"passphrase", func(ctx context.Context, u config.URI) (core.KeyWrapper, error) {
		if err := u.Nothing(); err != nil {
			return nil, err
		}
		secret, err := ask(ctx)
		return wrap(seal.Passphrase, secret, err)
	}}
}

// A wrapper wipes its key when it is closed.
type wrapper struct {
	core.KeyWrapper
	key core.Secret
}

func wrap(open func(core.Secret) (core.KeyWrapper, error), key core.Secret, err error) (core.KeyWrapper, error) {
	if err != nil {
		return nil, err
	}
	w, err := open(key)
	if err != nil {
		key.Wipe()
		return nil, err
	}
	return &wrapper{w, key}, nil
}

// Close implements io.Closer.
func (w *wrapper) Close() error {
	w.key.Wipe()
	return nil
}
