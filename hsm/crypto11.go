// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"crypto"
	"fmt"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// A CAKey is a private key on a token that signs certificates with crypto/x509. It is safe
// for concurrent use.
type CAKey struct {
	engine caEngine
	close  func() error
}

// A caEngine has a key by one of the two ways to a module: x-engine=p11, which is this
// package and the default, and x-engine=crypto11, the package of that name, which knows RSA
// too. A module belongs to one of them as long as anything of it is open.
type caEngine interface {
	signer(ctx context.Context) (crypto.Signer, error)
	Close() error
}

// OpenCAKey finds the key of a URI, which has the id or the label of the key besides what
// [Open] wants. Every OpenCAKey wants a Close. ErrModuleOwned: the module is in use with
// the other engine or, with crypto11, for another token. ErrUnsupported: a key that the
// engine does not know; p11 has ECDSA and Ed25519, crypto11 ECDSA and RSA.
//
// A token that went away and came back is found again by p11 only. With crypto11, close the
// key and open it again.
func OpenCAKey(ctx context.Context, cfg Config) (*CAKey, error) {
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, err
	}
	if len(u.ID) == 0 && u.Object == "" {
		return nil, &Error{Op: "open key", Kind: ErrInvalidInput, Detail: "the URI has neither id nor object: " + u.String()}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	open := openOwnCAKey
	if u.Engine == engineCrypto11 {
		open = openCrypto11
	}
	e, err := open(ctx, cfg, u)
	if err != nil {
		return nil, err
	}
	return &CAKey{e, sync.OnceValue(e.Close)}, nil
}

// Signer gives what signs within a context. It may be used until the key is closed.
func (k *CAKey) Signer(ctx context.Context) (crypto.Signer, error) { return k.engine.signer(ctx) }

// Close gives the key back, and the token if nothing else has it open.
func (k *CAKey) Close() error { return k.close() }

type ownCAKey struct {
	*Token
	key core.Signer
}

func openOwnCAKey(ctx context.Context, cfg Config, u URI) (caEngine, error) {
	t, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	key, err := t.openKey(ctx, u.ID, u.Object)
	if err == nil {
		if s, ok := key.(core.Signer); ok {
			if _, err = core.X509Signer(ctx, s); err == nil {
				return &ownCAKey{t, s}, nil
			}
		} else {
			err = fmt.Errorf("%w: it may not sign", ErrUnsupported)
		}
	}
	_ = t.Close() // the first error counts
	return nil, t.fail("open key", err, "")
}

func (k *ownCAKey) signer(ctx context.Context) (crypto.Signer, error) {
	return core.X509Signer(ctx, k.key)
}
